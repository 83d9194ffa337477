"""Batches of a run, each computed from its number alone."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.open import AnyCorpus
from maquette.corpus.order import Interleaving, SampleOrder
from maquette.corpus.text.store import TOKENIZER, Corpus
from maquette.corpus.tokenizer import digest, load_tokenizer
from maquette.models.base import TokenBatch
from maquette.models.registry import ModelConfig
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.objectives import next_token
from maquette.training.recipe import LanguageRecipe, Recipe
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import text_of

TextRecipe = Recipe[ModelConfig, TextData, TextWatch]
"""recipe of a run on a corpus of text"""


class TextDataset:
    """The samples of a recipe on a corpus of text; see `datasets.Dataset`.

    Rank r of a step takes its contiguous share of the step's samples, so the union over ranks is
    the same batch for any number of them. With `data.replay` some samples are of the corpus of the run that
    this one starts with, in that corpus' own order: every one new, until all have been read. Raises
    UserError for less text than a batch, and where the text to replay is gone or has changed.
    """

    def __init__(self, recipe: TextRecipe, corpus: Corpus) -> None:
        self._recipe, self.corpus = recipe, corpus
        length = recipe.data.sequence
        if len(corpus.train) < length + 1 or len(corpus.train) <= recipe.units_per_step:
            raise UserError(
                f"the corpus has {len(corpus.train):,} training tokens, less than one batch of "
                f"{recipe.batch} x {length}: add text, or lower batch or data.sequence"
            )
        self.order = SampleOrder(len(corpus.train), length, recipe.seed)
        self._interleaving = Interleaving(recipe.data.replay)
        self._sources = [(corpus.train, self.order)]
        self.replayed = text_of(RunDirectory(recipe.start)) if recipe.data.replay else None
        if self.replayed is not None:
            stream = self.replayed.train
            self._sources.append((stream, SampleOrder(len(stream), length, recipe.seed)))

    def check(self) -> list[str]:
        """Raise WrongUse for a tokenizer of another model, or a prompt that no sample could continue."""
        check_tokens(self._recipe, self.corpus)
        return []

    def step(self, sample: int, rank: int = 0, world: int = 1) -> list[TokenBatch]:
        """This rank's micro-batches of the step that starts at training sample `sample`."""
        share = self._recipe.batch // world
        micro = self._recipe.micro_batch or share
        rows = self._rows(sample + rank * share, share)
        eos_token_id = self.corpus.eos_token_id if self._recipe.data.document_mask else None
        return [
            next_token(torch.from_numpy(rows[i : i + micro]), eos_token_id)
            for i in range(0, share, micro)
        ]

    def _rows(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Training samples first .. first + count - 1, (count, sequence + 1)."""
        length = self._recipe.data.sequence
        replayed = self._interleaving.second_before(np.arange(first, first + count + 1))
        second = np.diff(replayed)  # (count,): 1 where the sample is replayed, else 0
        begins = (first - int(replayed[0]), int(replayed[0]))
        rows = np.empty((count, length + 1), np.int64)
        for number, (stream, order) in enumerate(self._sources):
            own = np.flatnonzero(second == number)
            for row, start in zip(own, order.starts(begins[number], len(own)), strict=True):
                rows[row] = stream.read(int(start), length + 1)
        return rows

    def heldout(self) -> list[TokenBatch]:
        """See `heldout_batches`."""
        return heldout_batches(self._recipe, self.corpus)


def check_tokens(recipe: LanguageRecipe, corpus: AnyCorpus) -> None:
    """Raise WrongUse for a tokenizer of another model, or a prompt that no sample could continue."""
    if recipe.model.vocabulary != corpus.vocabulary:
        raise WrongUse(
            f"model.vocabulary is {recipe.model.vocabulary}, the corpus {recipe.data.corpus} "
            f"has {corpus.vocabulary}: use --model.vocabulary {corpus.vocabulary}"
        )
    begun = Path(recipe.start) / TOKENIZER
    if (
        recipe.start
        and begun.exists()
        and digest(corpus.tokenizer) != digest(load_tokenizer(begun))
    ):
        raise WrongUse(
            f"the corpus {recipe.data.corpus} has another tokenizer than the run {recipe.start}: "
            f"build it with --tokenizer {recipe.start}"
        )
    length = len(corpus.tokenizer.encode_prompt(recipe.watch.prompt))
    if recipe.watch.sample_tokens and length >= recipe.model.context:
        raise WrongUse(
            f"watch.prompt has {length} tokens, model.context is {recipe.model.context}: shorten it"
        )


def heldout_batches(recipe: TextRecipe, corpus: Corpus, size: int = 32) -> list[TokenBatch]:
    """Windows spread evenly over the held-out stream, the same at every call."""
    stream, length, tokens = corpus.heldout, recipe.data.sequence, recipe.watch.tokens
    eos_token_id = corpus.eos_token_id if recipe.data.document_mask else None
    available = (len(stream) - 1) // length
    count = min(available, max(1, tokens // length))
    if count < 1:
        if len(stream) < 2:
            raise UserError("the corpus has no held-out tokens: build it with a larger --heldout")
        length, count, available = len(stream) - 1, 1, 1
    starts = [i * available // count * length for i in range(count)]
    rows = torch.from_numpy(np.stack([stream.read(start, length + 1) for start in starts]))
    return [next_token(part, eos_token_id) for part in rows.split(size)]
