"""Batches of a run, each computed from its number alone."""

import numpy as np
import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.corpus.order import SampleOrder
from maquette.corpus.store import Corpus
from maquette.models.base import Batch
from maquette.training.recipe import Recipe


class Batches:
    """The training samples of a recipe on a corpus, for one of `world` ranks.

    Rank r of a step takes its contiguous share of the step's samples, so the union over ranks is
    the same batch for any number of them.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, rank: int = 0, world: int = 1) -> None:
        self._recipe, self._corpus = recipe, corpus
        length = recipe.data.sequence
        if len(corpus.train) < length + 1 or len(corpus.train) <= recipe.tokens_per_step:
            raise UserError(
                f"the corpus has {len(corpus.train):,} training tokens, less than one batch of "
                f"{recipe.batch} x {length}: add text, or lower batch or data.sequence"
            )
        self.order = SampleOrder(len(corpus.train), length, recipe.seed)
        self.fingerprint = corpus.hash
        share = recipe.batch // world
        self._first, self._share = rank * share, share
        self._micro = recipe.micro_batch or share

    def step(self, sample: int) -> list[Batch]:
        """This rank's micro-batches of the step that starts at training sample `sample`."""
        starts = self.order.starts(sample + self._first, self._share)
        length = self._recipe.data.sequence
        rows = np.stack([self._corpus.train.read(int(s), length + 1) for s in starts])
        return [
            self._batch(torch.from_numpy(rows[i : i + self._micro]))
            for i in range(0, self._share, self._micro)
        ]

    def _batch(self, rows: Tensor) -> Batch:
        return make_batch(rows, self._corpus.end if self._recipe.data.document_mask else None)


def make_batch(rows: Tensor, end: int | None) -> Batch:
    """Tokens and targets of rows (batch, time + 1); with an `end`, the documents between ends."""
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    if end is None:
        return Batch(tokens, targets)
    documents, positions = split_documents(tokens, end)
    return Batch(tokens, targets, documents, positions)


def split_documents(tokens: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Number the documents in each row, and the tokens in each document.

    tokens: (batch, time); the end belongs to the document before it. Returns two (batch, time).
    """
    ends = tokens == end
    documents = ends.cumsum(1) - ends.long()
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    first = torch.where(documents.diff(dim=1, prepend=documents[:, :1]) > 0, place, 0)
    return documents, place - first.cummax(1).values


def heldout_batches(recipe: Recipe, corpus: Corpus, size: int = 32) -> list[Batch]:
    """Windows spread evenly over the held-out stream, the same at every call."""
    stream, length, tokens = corpus.heldout, recipe.data.sequence, recipe.watch.tokens
    end = corpus.end if recipe.data.document_mask else None
    available = (len(stream) - 1) // length
    count = min(available, max(1, tokens // length))
    if count < 1:
        if len(stream) < 2:
            raise UserError("the corpus has no held-out tokens: build it with a larger --heldout")
        length, count, available = len(stream) - 1, 1, 1
    starts = [i * available // count * length for i in range(count)]
    rows = torch.from_numpy(np.stack([stream.read(start, length + 1) for start in starts]))
    return [make_batch(part, end) for part in rows.split(size)]
