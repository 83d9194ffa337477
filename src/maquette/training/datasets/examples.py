"""Batches of examples: whole ones packed into sequences, none of which sees another.

    sequence    | prompt answer end | prompt answer end | prompt ... end | padding |
    targets        -     answer end      -     answer end      -      end      -

An example of n tokens takes n - 1 positions, for its last token is a target alone. Examples are packed
once for a seed, best fit by falling length (Ding et al. 2024, "Fewer Truncations Improve Language
Modeling"); which sequences follow each other is drawn anew every epoch, as samples of text are. So each
example is read once an epoch, and what a step reads is a function of (seed, number).
"""

import functools
from bisect import bisect_left, insort
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from maquette.base.errors import UserError
from maquette.corpus.examples.store import ExamplesCorpus, ExampleSplit
from maquette.corpus.order import Permutation, SampleOrder
from maquette.models.base import TokenBatch
from maquette.models.registry import ModelConfig
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.datasets.text import check_tokens
from maquette.training.datasets.text_config import TextWatch
from maquette.training.recipe import LanguageRecipe, Recipe

HELDOUT_ROWS = 32  # sequences of a held-out batch
ExamplesRecipe = Recipe[ModelConfig, ExamplesData, TextWatch]
"""recipe of a run on a corpus of examples"""


class Rows(Protocol):
    """The samples of a split, by number."""

    def __len__(self) -> int: ...

    def batch(self, rows: npt.NDArray[np.int64]) -> Any:
        """The samples of those numbers as a batch."""
        ...


class RowsDataset:
    """The samples of a recipe whose corpus is cut into rows; see `datasets.Dataset`.

    Rank r of a step takes its contiguous share of the step's samples. What follows what is drawn anew
    every epoch.
    """

    def __init__(self, recipe: LanguageRecipe, corpus: ExamplesCorpus) -> None:
        self._recipe, self.corpus, self._sequence = recipe, corpus, recipe.data.sequence

    @property
    def rows(self) -> Rows:
        """Samples to train on."""
        raise NotImplementedError

    @property
    def heldout_rows(self) -> Rows:
        """Held-out samples."""
        raise NotImplementedError

    @functools.cached_property
    def order(self) -> SampleOrder:
        """The order of the samples."""
        return SampleOrder(len(self.rows) + 1, 1, self._recipe.seed)

    def step(self, sample: int, rank: int = 0, world: int = 1) -> list[Any]:
        """This rank's micro-batches of the step that starts at training sample `sample`."""
        share = self._recipe.batch // world
        micro = self._recipe.micro_batch or share
        rows = self.order.starts(sample + rank * share, share)
        return [self.rows.batch(rows[i : i + micro]) for i in range(0, share, micro)]

    def heldout(self) -> list[Any]:
        """Rows spread evenly over the held-out ones, the same at every call."""
        available = len(self.heldout_rows)
        count = min(available, max(1, self._recipe.watch.tokens // self._sequence))
        rows = np.arange(count) * available // count
        return [
            self.heldout_rows.batch(rows[i : i + HELDOUT_ROWS])
            for i in range(0, count, HELDOUT_ROWS)
        ]


class ExamplesDataset(RowsDataset):
    """The samples of a recipe on a corpus of examples.

    Raises UserError where no example has an answer that begins within a sequence.
    """

    def __init__(self, recipe: ExamplesRecipe, corpus: ExamplesCorpus) -> None:
        super().__init__(recipe, corpus)
        self._packed = Packed(corpus.train, self._sequence, corpus.eos_token_id, recipe.seed)

    @property
    def rows(self) -> "Packed":
        return self._packed

    @functools.cached_property
    def heldout_rows(self) -> "Packed":
        """Held-out sequences. Raises UserError where no example fits."""
        return Packed(self.corpus.heldout, self._sequence, self.corpus.eos_token_id, seed=0)

    def check(self) -> list[str]:
        """Notes where examples are cut or left out. Raises WrongUse for a model of another vocabulary."""
        check_tokens(self._recipe, self.corpus)
        packed, notes = self._packed, []
        assert len(self.heldout_rows)
        if packed.cut:
            notes.append(
                f"{packed.cut:,} of {len(self.corpus.train):,} examples are longer than data.sequence "
                f"{self._sequence}: cut; the longest has {self.corpus.manifest['longest']:,} tokens"
            )
        if packed.left_out:
            notes.append(
                f"{packed.left_out:,} of {len(self.corpus.train):,} examples have a prompt that is "
                f"longer than data.sequence {self._sequence}: left out"
            )
        return notes


class Packed:
    """The examples of a split in sequences of `sequence` tokens, by number.

    cut: number of longer examples, of which the first sequence + 1 tokens are read. left_out: number of
    examples without a counted token among these. examples: number of examples that are read.
    """

    def __init__(self, split: ExampleSplit, sequence: int, eos_token_id: int, seed: int) -> None:
        self._split, self._sequence, self._eos_token_id = split, sequence, eos_token_id
        positions = np.minimum(split.lengths, sequence + 1) - 1
        longer = np.flatnonzero(split.lengths > sequence + 1)
        learned = np.ones(len(split), np.bool_)
        for number in longer.tolist():
            learned[number] = split.read(number, sequence + 1)[1][1:].any()
        self.left_out = int((~learned).sum())
        self.cut = len(longer) - self.left_out
        if not learned.any():
            raise UserError(
                f"no example has an answer that begins within data.sequence {sequence}: use a longer one"
            )
        order = Permutation(len(split), seed)(np.arange(len(split)))
        self.examples = int(learned.sum())
        self._rows = pack(positions, order[learned[order]], sequence)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: npt.NDArray[np.int64]) -> TokenBatch:
        """The sequences of those numbers; padded with the EOS token, which is a document of its own."""
        documents = [
            [self._split.read(example, self._sequence + 1) for example in self._rows[number]]
            for number in rows.tolist()
        ]
        return laid(documents, self._sequence, self._eos_token_id)


def laid(
    rows: list[list[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]],
    sequence: int,
    eos_token_id: int,
) -> TokenBatch:
    """Documents (their tokens and loss masks) one after the other in each row, then padding."""
    shape = (len(rows), sequence)
    tokens, targets = np.full(shape, eos_token_id), np.full(shape, -1)
    document_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, documents in enumerate(rows):
        start = 0
        for document, (read, counted) in enumerate(documents):
            end = start + len(read) - 1
            tokens[row, start:end] = read[:-1]
            targets[row, start:end] = np.where(counted[1:], read[1:], -1)
            document_ids[row, start:end] = document
            positions[row, start:end] = np.arange(end - start)
            start = end
        document_ids[row, start:] = len(documents)
        positions[row, start:] = np.arange(sequence - start)
    return TokenBatch(*map(torch.from_numpy, (tokens, targets, document_ids, positions)))


def pack(
    lengths: npt.NDArray[np.int64], order: npt.NDArray[np.int64], room: int
) -> list[list[int]]:
    """Items of `order` in bins of `room`, best fit by falling length; equal ones stay in their order."""
    order = order[np.argsort(-lengths[order], kind="stable")]
    bins: list[list[int]] = []
    with_space: dict[int, list[int]] = {}  # bins by the space that is left in them
    spaces: list[int] = []  # its keys, sorted
    for item in order.tolist():
        length = int(lengths[item])
        at = bisect_left(spaces, length)
        if at == len(spaces):
            space, chosen = room, len(bins)
            bins.append([])
        else:
            space = spaces[at]
            chosen = with_space[space].pop()
            if not with_space[space]:
                del with_space[space], spaces[at]
        bins[chosen].append(item)
        left = space - length
        if left not in with_space:
            with_space[left] = []
            insort(spaces, left)
        with_space[left].append(chosen)
    return bins
