"""Loss, perplexity and bits per byte: of a text, and of each component of a held-out mixture.

Bits per byte, sum of nats / ln 2 / bytes of UTF-8, is the Pile's metric (Gao et al. 2020, section
3.1): it compares models with different tokenizers, and models with compressors. Every token of a
document is scored once, given at least half a context of the document before it where there is as
much; the first one is given what the model's texts start with: its BOS, else an EOS token,
which are no text and not counted. Where a tokenizer names neither, the first token is not scored, and
neither it nor its bytes are counted: bytes that cost nothing would make the score better.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.base import LanguageModel

WINDOWS = 16  # scored at a time


@dataclass
class Score:
    """Sums over the scored tokens of a text."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    documents: int = 0
    parts: list[tuple[float, int]] = field(default_factory=list)
    """nats and bytes of each document, or of each packed sequence of examples"""

    def add(self, nats: float, tokens: int, size: int) -> None:
        """Add the sums of a document."""
        self.nats += nats
        self.tokens += tokens
        self.bytes += size
        self.documents += 1
        self.parts.append((nats, size))

    @property
    def stderr(self) -> float | None:
        """Standard error of the bits per byte, of a ratio of sums over parts; None for one part.

        Cochran 1977, Sampling Techniques, equation 6.13.
        """
        n = len(self.parts)
        if n < 2 or not self.bytes:
            return None
        ratio = self.nats / self.bytes
        squares = sum((nats - ratio * size) ** 2 for nats, size in self.parts)
        return math.sqrt(n / (n - 1) * squares) / self.bytes / math.log(2)

    @property
    def loss(self) -> float:
        """Loss in nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(1, self.bytes)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as `--json` prints them."""
        return {
            "loss": self.loss,
            "perplexity": math.exp(min(self.loss, 700)),
            "bits_per_byte": self.bits_per_byte,
            "stderr": self.stderr,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "documents": self.documents,
        }


def score_corpus(
    model: LanguageModel,
    corpus: Corpus,
    *,
    start: Sequence[int] | None = None,
    most_bytes: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Score]:
    """Score the held-out documents of each component, and "all" together.

    start: what a document's first token is given; None: what the corpus' tokenizer says. most_bytes:
    stop after about so many, shared out over the components by their size. Documents are
    taken in the order of their hashes, so a part is a fair sample, the same every time.
    """
    chosen = heldout_documents(corpus, most_bytes)
    total = sum(row["tokens"] for row in chosen)
    scores = {name: Score() for name in [*corpus.components, "all"]}
    done = 0
    start = corpus.tokenizer.special.start if start is None else start
    counts: list[tuple[int, int]] = []

    def texts() -> Iterator[np.ndarray[Any, Any]]:
        for row in chosen:
            tokens = corpus.heldout.read(row["offset"], row["tokens"])
            counts.append(counted(corpus.tokenizer, tokens, row["bytes"], start))
            yield tokens

    for number, nats in enumerate(score_documents(model, texts(), start)):
        row = chosen[number]
        for name in (row["component"], "all"):
            scores[name].add(nats, *counts[number])
        done += row["tokens"]
        progress(done, total)
    return {name: score for name, score in scores.items() if score.documents}


def heldout_documents(corpus: Corpus, most_bytes: int | None) -> list[dict[str, Any]]:
    """Rows of the table of documents, by component, each component's in the order of the hashes."""
    rows = [row for row in corpus.documents.to_pylist() if row["split"] == "heldout"]
    rows.sort(key=lambda row: row["sha256"])
    whole = sum(row["bytes"] for row in rows)
    if most_bytes is None or whole <= most_bytes:
        return sorted(rows, key=lambda row: str(row["component"]))
    chosen = []
    for name in corpus.components:
        own = [row for row in rows if row["component"] == name]
        room = most_bytes * sum(row["bytes"] for row in own) / whole
        for row in own:
            chosen.append(row)
            room -= row["bytes"]
            if room <= 0:
                break
    return chosen


@torch.no_grad()
def score_documents(
    model: LanguageModel, documents: Iterable[np.ndarray[Any, Any]], start: Sequence[int]
) -> Iterator[float]:
    """The summed nats of each document's tokens, in order; windows of many are scored together.

    start: what a document's first token is given, see `windows`.
    """
    model.eval()
    context, vocabulary = model.config.context, model.config.vocabulary
    pending: list[tuple[int, Tensor, int]] = []  # document, window, tokens before the scored ones
    sums: dict[int, float] = {}
    waiting: dict[int, int] = {}
    yielded = 0
    number = -1
    for number, tokens in enumerate(documents):
        if len(tokens) and tokens.max() >= vocabulary:
            raise UserError(
                f"a text holds token {tokens.max()}, and the model's vocabulary ends at "
                f"{vocabulary - 1}: its tokenizer belongs to another model"
            )
        parts = windows(torch.from_numpy(tokens), context, start)
        sums[number], waiting[number] = 0.0, len(parts)
        pending += [(number, window, skip) for window, skip in parts]
        while len(pending) >= WINDOWS:
            _score(model, pending[:WINDOWS], sums, waiting)
            pending = pending[WINDOWS:]
        while yielded in waiting and waiting[yielded] == 0:
            yield sums.pop(yielded)
            yielded += 1
    while pending:
        _score(model, pending[:WINDOWS], sums, waiting)
        pending = pending[WINDOWS:]
    while yielded <= number:
        yield sums.pop(yielded)
        yielded += 1


def counted(
    tokenizer: Tokenizer, tokens: np.ndarray[Any, Any], size: int, start: Sequence[int]
) -> tuple[int, int]:
    """Number of a document's tokens that are scored, and of the bytes (of `size`) that they stand for."""
    if start or not len(tokens):
        return len(tokens), size
    first = len(tokenizer.decode(tokens[:1].tolist()).encode("utf-8", "replace"))
    return len(tokens) - 1, max(0, size - first)


def windows(tokens: Tensor, context: int, start: Sequence[int]) -> list[tuple[Tensor, int]]:
    """Cut a document into windows that score every token once.

    Each is (context + 1 or fewer tokens, how many of its targets are not to be scored). The first
    window begins with `start`, so that the document's first token is scored too (without any, it is
    not); the next ones overlap by half.
    """
    start = list(start)[-max(1, context // 2) :]
    tokens = torch.cat((tokens.new_tensor(start), tokens))
    result = []
    stride = max(1, context // 2)
    at, scored = 0, max(0, len(start) - 1)
    while scored < len(tokens) - 1:
        window = tokens[at : at + context + 1]
        result.append((window, scored - at))
        scored = at + len(window) - 1
        at += stride
    return result


def _score(
    model: LanguageModel,
    batch: list[tuple[int, Tensor, int]],
    sums: dict[int, float],
    waiting: dict[int, int],
) -> None:
    """Score some windows at once, shorter ones padded on the right (which nothing before sees)."""
    longest = max(len(window) for _, window, _ in batch)
    rows = torch.zeros(len(batch), longest, dtype=torch.long)
    counted = torch.zeros(len(batch), longest - 1, dtype=torch.bool)
    for i, (_, window, skip) in enumerate(batch):
        rows[i, : len(window)] = window
        counted[i, skip : len(window) - 1] = True
    device = model.device
    rows, counted = rows.to(device), counted.to(device)
    hidden = model.hidden(rows[:, :-1])
    chosen = hidden[counted]  # only what is scored is projected to the vocabulary
    targets = rows[:, 1:][counted]
    nats = torch.cat(
        [
            torch.nn.functional.cross_entropy(model.logits(h), t, reduction="none")
            for h, t in zip(chosen.split(2048), targets.split(2048), strict=True)
        ]
    ).double()
    owner = torch.arange(len(batch), device=device).repeat_interleave(counted.sum(1))
    totals = torch.zeros(len(batch), dtype=torch.float64, device=device).index_add(0, owner, nats)
    for (document, _, _), total in zip(batch, totals.tolist(), strict=True):
        sums[document] += total
        waiting[document] -= 1
