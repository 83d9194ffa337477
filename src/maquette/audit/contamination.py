"""Contamination: which examples of a benchmark the training text holds, and what that is worth.

Every example of every task is looked for in all training documents by GPT-3's rule of n words in
common (Brown et al. 2020, appendix C; `corpus/text/overlap.py`), in one pass over the corpus. What is
found is evidence, not proof: a famous quotation is in both honestly. So a score is to be read three
times, over the clean, the dirty and all examples, beside how many are dirty. An example of fewer than n
words is neither clean nor dirty: it is too short to tell.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maquette.base.statistics import Mean, weighted_mean, wilson
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.overlap import Hit, N, Overlap, gram_length
from maquette.corpus.text.portrait import training_rows
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import Tokenizer

if TYPE_CHECKING:
    from maquette.models.base import LanguageModel

Array = npt.NDArray[np.float64]
DOCUMENTS = 5  # training documents named for each example


@dataclass(frozen=True)
class Found:
    """A match: bytes offset .. offset + length of a training document are in an example."""

    example: int
    row: int
    """row in the table of documents"""
    source: str
    offset: int
    length: int


@dataclass
class Contamination:
    """Contamination of one task."""

    examples: int
    n: int
    """number of words of a gram"""
    too_short: list[int]
    """indices of the examples of fewer words, which are too short to tell"""
    flagged: list[int]
    """indices of the dirty examples"""
    hits: list[Found] = field(default_factory=list)
    """matches of every dirty example in the first few documents"""

    @property
    def dirty(self) -> int:
        return len(self.flagged)

    @property
    def clean(self) -> int:
        return self.examples - self.dirty - self.short

    @property
    def short(self) -> int:
        return len(self.too_short)

    @property
    def fraction(self) -> float:
        """Fraction of dirty examples among all: a lower bound, as some are too short to tell."""
        return self.dirty / self.examples if self.examples else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the fraction, the examples taken as a sample."""
        return wilson(self.dirty, self.examples)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        counts = {"dirty": self.dirty, "clean": self.clean, "short": self.short}
        shares = {"fraction": self.fraction, "interval": list(self.interval)}
        return asdict(self) | counts | shares


def contamination(
    corpus: Corpus,
    tasks: Mapping[str, Sequence[str]],
    n: int | None = N,
    *,
    documents: int = DOCUMENTS,
    progress: Progress = silent,
) -> dict[str, Contamination]:
    """Look for every task's examples in the corpus' training documents.

    n: words of a gram; None: GPT-3's, by each task's lengths (`gram_length`). documents: how many
    are named for each example; the flagged set does not depend on it.
    """
    lengths = {name: gram_length(texts) if n is None else n for name, texts in tasks.items()}
    searches = {
        length: _Search(length, {name: tasks[name] for name in tasks if lengths[name] == length})
        for length in sorted(set(lengths.values()))
    }
    rows = training_rows(corpus)
    sources = corpus.documents["source"].to_pylist()
    total = float(corpus.documents["bytes"].to_numpy()[rows].sum())
    done = 0
    for row in rows.tolist():
        text = corpus.text(row)
        for search in searches.values():
            search.document(row, sources[row], text, max(1, documents))
        done += len(text)
        progress("contamination", done, total)
    by_task = {
        name: result for search in searches.values() for name, result in search.results().items()
    }
    return {name: by_task[name] for name in tasks}


class _Search:
    """A search for the tasks of one n, together."""

    def __init__(self, n: int, tasks: dict[str, Sequence[str]]) -> None:
        self._tasks, self._n = tasks, n
        self._overlap = Overlap([text for texts in tasks.values() for text in texts], n)
        self._met = np.zeros(len(self._overlap), np.int64)  # documents that hold each gram
        self._hits: dict[int, list[Found]] = defaultdict(list)

    def document(self, row: int, source: str, text: bytes, most: int) -> None:
        """Search a document. A gram that is in `most` documents already is skipped."""
        starts, ends, grams = self._overlap.find(text)
        if not len(grams):
            return
        new = self._met[grams] < most
        for hit in _first(self._overlap.hits(starts[new], ends[new], grams[new])):
            known = self._hits[hit.example]
            if len(known) < most:
                known.append(Found(hit.example, row, source, hit.start, hit.end - hit.start))
        self._met[grams[new]] += 1  # numpy counts a number that is there twice once

    def results(self) -> dict[str, Contamination]:
        """The contamination of each task."""
        results = {}
        first = 0
        for name, texts in self._tasks.items():
            flagged = [i for i in range(len(texts)) if first + i in self._hits]
            hits = [replace(hit, example=i) for i in flagged for hit in self._hits[first + i]]
            short = np.flatnonzero(self._overlap.short[first : first + len(texts)]).tolist()
            results[name] = Contamination(len(texts), self._n, short, flagged, hits)
            first += len(texts)
        return results


def _first(hits: Sequence[Hit]) -> list[Hit]:
    """The first longest hit of each example."""
    best: dict[int, Hit] = {}
    for hit in hits:
        kept = best.get(hit.example)
        if kept is None or hit.end - hit.start > kept.end - kept.start:
            best[hit.example] = hit
    return list(best.values())


def split_scores(
    scores: npt.ArrayLike,
    dirty: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    too_short: npt.ArrayLike | None = None,
) -> dict[str, Mean]:
    """A score of every example, and whether it is dirty -> its mean over clean, dirty and all.

    too_short: whether an example is too short to tell; their mean is then there, too.
    """
    x, flags = np.asarray(scores, np.float64), np.asarray(dirty, bool)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    short = np.zeros(len(x), bool) if too_short is None else np.asarray(too_short, bool)
    chosen = {"clean": ~flags & ~short, "dirty": flags, "all": np.ones(len(x), bool)}
    if too_short is not None:
        chosen["too_short"] = short
    return {name: weighted_mean(x[which], w[which]) for name, which in chosen.items()}


def gap(parts: Mapping[str, Mean]) -> Mean:
    """Clean minus dirty: above 0 where the dirty examples are easier (lower is better)."""
    clean, dirty = parts["clean"], parts["dirty"]
    examples = clean.examples + dirty.examples
    if clean.mean is None or dirty.mean is None:
        return Mean(examples, None, None)
    known = clean.stderr is not None and dirty.stderr is not None
    stderr = math.hypot(clean.stderr or 0, dirty.stderr or 0) if known else None
    return Mean(examples, clean.mean - dirty.mean, stderr)


def bits_per_byte(
    model: "LanguageModel", tokenizer: Tokenizer, examples: Sequence[str]
) -> tuple[Array, Array]:
    """Bits per byte of every example, and its scored bytes, which are its weight: (examples,) each."""
    from maquette.evaluation.bits_per_byte import counted, score_documents

    start = tokenizer.special.start
    tokens = [np.array(tokenizer.encode(text), dtype=np.int64) for text in examples]
    known = zip(tokens, examples, strict=True)
    scored = [counted(tokenizer, t, len(text.encode()), start)[1] for t, text in known]
    sizes = np.array(scored, np.float64)
    nats = np.array(list(score_documents(model, tokens, start)))
    return nats / math.log(2) / np.maximum(1, sizes), sizes
