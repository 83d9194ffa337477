"""A corpus of cloze texts on disk: contexts, the words that may follow, and how likely each label is.

manifest.json      labels, the tokens of their words, counts, files with checksums, the corpus hash
tokenizer.json     in the Hugging Face format; special_tokens.json beside a foreign one
train.jsonl        {"tokens": [...], "probabilities": [...]} a context a line, one probability a label
heldout.jsonl      the same, for evaluation
unlabelled.jsonl   {"tokens": [...]} contexts without labels, for the language-model loss

Few texts are the point of it, so it is read whole. Contexts and words are encoded apart, as answers are
(`template.py`).
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.base.files import directory_aside, read_json, sha256, write_atomic, write_json
from maquette.corpus.checksums import check_files
from maquette.corpus.examples.patterns import LabelledText, Pattern, Patterns
from maquette.corpus.progress import Progress, silent
from maquette.corpus.terms import Term, records_of
from maquette.corpus.text.store import MANIFEST, TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer, save_tokenizer

KIND, FORMAT = "cloze", 1
SPLITS = ("train", "heldout", "unlabelled")
Words = tuple[tuple[tuple[int, ...], ...], ...]
"""tokens of each word of each label"""


@dataclass(frozen=True)
class Cloze:
    """The tokens of a context, and a probability for each label (none where that is not known)."""

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...] = ()


class ClozeCorpus:
    """An opened corpus of cloze texts. Raises UserError when the folder is not one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        if not (self.path / MANIFEST).exists():
            raise UserError(
                f"{path} is not a corpus (no {MANIFEST}): maquette adapt pet builds one"
            )
        self.manifest: dict[str, Any] = read_json(self.path / MANIFEST)
        if (self.manifest.get("kind"), self.manifest.get("format")) != (KIND, FORMAT):
            raise UserError(
                f"{path} is no corpus of cloze texts of format {FORMAT}: build it again"
            )

    @property
    def hash(self) -> str:
        """Hash of the files and of the words."""
        return str(self.manifest["hash"])

    @property
    def vocabulary(self) -> int:
        return int(self.manifest["vocabulary"])

    @property
    def words(self) -> Words:
        """Tokens of each word of each label."""
        return tuple(tuple(tuple(word) for word in own) for own in self.manifest["words"])

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.path / TOKENIZER)

    @functools.cached_property
    def train(self) -> list[Cloze]:
        return self._read("train")

    @functools.cached_property
    def heldout(self) -> list[Cloze]:
        return self._read("heldout")

    @functools.cached_property
    def unlabelled(self) -> list[Cloze]:
        return self._read("unlabelled")

    def check(self, progress: Progress = silent) -> int:
        """Hash all files; returns their bytes. Raises UserError for one that is damaged."""
        return check_files(self.path, self.manifest["files"], progress)

    def _read(self, split: str) -> list[Cloze]:
        lines = (self.path / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = map(json.loads, lines)
        return [Cloze(tuple(r["tokens"]), tuple(r.get("probabilities", ()))) for r in rows]


def write_cloze(
    out: Path,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    words: Words,
    train: Iterable[Cloze],
    heldout: Iterable[Cloze],
    unlabelled: Iterable[Cloze] = (),
    terms: Iterable[Term] = (),
) -> ClozeCorpus:
    """Write a corpus of cloze texts, which stands whole or not at all; an older one is replaced.

    terms: terms of the sources of the texts.
    """
    with directory_aside(out) as folder:
        save_tokenizer(tokenizer, folder / TOKENIZER)
        counts = {}
        for split, rows in zip(SPLITS, (train, heldout, unlabelled), strict=True):
            lines = []
            for row in rows:
                own = {"probabilities": row.probabilities} if row.probabilities else {}
                lines.append(json.dumps({"tokens": row.tokens} | own) + "\n")
            counts[split] = len(lines)
            write_atomic(folder / f"{split}.jsonl", "".join(lines))
        files = {name: sha256(folder / name) for name in sorted(p.name for p in folder.iterdir())}
        identity = json.dumps([files, labels, words], sort_keys=True)
        write_json(
            folder / MANIFEST,
            {
                "kind": KIND,
                "format": FORMAT,
                "vocabulary": tokenizer.vocabulary,
                "labels": list(labels),
                "words": words,
                "examples": counts["train"],
                "splits": counts,
                "terms": records_of(terms),
                "files": files,
                "hash": hashlib.sha256(identity.encode()).hexdigest(),
            },
        )
    return ClozeCorpus(out)


def encode_words(patterns: Patterns, pattern: Pattern, tokenizer: Tokenizer) -> Words:
    """The tokens of each word of each label, as they follow the pattern."""
    return tuple(
        tuple(tuple(tokenizer.encode(pattern.word(word))) for word in patterns.words[label])
        for label in patterns.labels
    )


def encode_contexts(
    pattern: Pattern, texts: Sequence[LabelledText], tokenizer: Tokenizer
) -> list[tuple[int, ...]]:
    """The tokens of what stands before the word in each text."""
    return [tuple(tokenizer.encode_prompt(pattern.context(text))) for text in texts]


def one_hot(labels: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    """(texts, labels): all probability on the label of each text."""
    return np.eye(count)[np.asarray(labels, np.int64)]
