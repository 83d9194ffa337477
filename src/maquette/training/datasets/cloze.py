"""Batches of cloze texts: contexts, the places where words of labels are foretold, and unlabelled contexts.

A word of several tokens is foretold token by token: every part of a word that another token follows is a row
of its own after the context, computed once however many words share it. Labels whose words are single tokens
take one row a text.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maquette.corpus.examples.cloze import Cloze, ClozeCorpus, Words
from maquette.corpus.order import SampleOrder
from maquette.models.base import Batch
from maquette.models.registry import ModelConfig
from maquette.training.datasets.cloze_config import ClozeData
from maquette.training.datasets.text import check_tokens
from maquette.training.datasets.text_config import TextWatch
from maquette.training.recipe import Recipe

HELDOUT_TEXTS = 64  # of a held-out batch
ClozeRecipe = Recipe[ModelConfig, ClozeData, TextWatch]
"""recipe of a run on a corpus of cloze texts"""


@dataclass
class ClozeBatch(Batch):
    """One micro-batch of cloze texts.

    tokens: (batch, rows, time) int64, each context with the beginnings of words, padded on the right.
    places: (batch, places) int64, where tokens of words are foretold, in the flattened rows of a text.
    which: (batch, labels, words, length) int64, the number of the place of each token of each word;
    targets: the same shape, these tokens, negative where there is none. probabilities: (batch, labels)
    fp32. unlabelled: (batch, time) int64 contexts, unlabelled_targets: what follows, negative where
    nothing counts. tokens_per_text: counted tokens of the whole step's unlabelled contexts, over its texts,
    so that the loss does not depend on how a step is shared out.
    """

    tokens: Tensor
    places: Tensor
    which: Tensor
    targets: Tensor
    probabilities: Tensor
    unlabelled: Tensor
    unlabelled_targets: Tensor
    tokens_per_text: float


class ClozeDataset:
    """The samples of a recipe on a corpus of cloze texts; see `datasets.Dataset`.

    Rank r of a step takes its contiguous share of the step's samples; each brings an unlabelled context.
    """

    def __init__(self, recipe: ClozeRecipe, corpus: ClozeCorpus) -> None:
        self._recipe, self.corpus, self._sequence = recipe, corpus, recipe.data.sequence
        self._words = WordPlaces(corpus.words)
        self._order = SampleOrder(len(corpus.train) + 1, 1, recipe.seed)
        pool = corpus.unlabelled if recipe.data.alpha else []
        self._unlabelled = [c for c in pool if len(c.tokens) > 1]
        self._others = SampleOrder(max(1, len(self._unlabelled)) + 1, 1, recipe.seed)

    def check(self) -> list[str]:
        """No notes. Raises WrongUse for a model of another vocabulary, and for contexts that do not fit."""
        check_tokens(self._recipe, self.corpus)
        return []

    def step(self, sample: int, rank: int = 0, world: int = 1) -> list[ClozeBatch]:
        """This rank's micro-batches of the step that starts at training sample `sample`."""
        share = self._recipe.batch // world
        micro = self._recipe.micro_batch or share
        first = sample + rank * share
        rows, others = self._order.starts(first, share), self._others.starts(first, share)
        tokens = self._tokens_per_text(sample)
        return [
            self._batch(
                [self.corpus.train[n] for n in rows[i : i + micro].tolist()],
                others[i : i + micro],
                tokens,
            )
            for i in range(0, share, micro)
        ]

    def _tokens_per_text(self, sample: int) -> float:
        """Of all ranks' share of the step that starts at that sample."""
        if not self._unlabelled:
            return 1.0
        numbers = self._others.starts(sample, self._recipe.batch).tolist()
        counts = [min(len(self._unlabelled[n].tokens) - 1, self._sequence) for n in numbers]
        return sum(counts) / len(counts)

    def heldout(self) -> list[ClozeBatch]:
        """All held-out texts."""
        texts = self.corpus.heldout
        return [
            self._batch(texts[i : i + HELDOUT_TEXTS], None)
            for i in range(0, len(texts), HELDOUT_TEXTS)
        ]

    def _batch(
        self, texts: list[Cloze], others: npt.NDArray[np.int64] | None, tokens_per_text: float = 1.0
    ) -> ClozeBatch:
        time = self._sequence
        unlabelled = np.zeros((len(texts), time), np.int64)
        following = np.full((len(texts), time), -1)
        if others is not None and self._unlabelled:
            for row, number in enumerate(others.tolist()):
                tokens = self._unlabelled[number].tokens[: time + 1]
                unlabelled[row, : len(tokens) - 1] = tokens[:-1]
                following[row, : len(tokens) - 1] = tokens[1:]
        laid = self._words.lay([c.tokens for c in texts], time)
        probabilities = torch.tensor([c.probabilities for c in texts], dtype=torch.float32)
        return ClozeBatch(
            *laid,
            probabilities,
            torch.from_numpy(unlabelled),
            torch.from_numpy(following),
            tokens_per_text,
        )


class WordPlaces:
    """Where the tokens of the words of labels are foretold after a context."""

    def __init__(self, words: Words) -> None:
        self.longest = max(len(word) for own in words for word in own)
        known: dict[tuple[int, ...], int] = {}  # beginnings of words by the number of their place
        shape = (len(words), max(map(len, words)), self.longest)
        self.which, self.targets = np.zeros(shape, np.int64), np.full(shape, -1)
        for label, own in enumerate(words):
            for number, word in enumerate(own):
                for i, token in enumerate(word):
                    self.which[label, number, i] = known.setdefault(word[:i], len(known))
                    self.targets[label, number, i] = token
        longer = {b[:i] for b in known for i in range(len(b))}
        self.rows = [b for b in known if b not in longer]  # the others are beginnings of these
        self.places = [
            (next(n for n, row in enumerate(self.rows) if row[: len(b)] == b), len(b))
            for b in known
        ]
        """row and place after the context's last token of each beginning's next token"""

    def lay(
        self, contexts: list[tuple[int, ...]], time: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`tokens`, `places`, `which` and `targets` of a `ClozeBatch` of rows of `time` tokens."""
        tokens = np.zeros((len(contexts), len(self.rows), time), np.int64)
        places = np.zeros((len(contexts), len(self.places)), np.int64)
        for number, context in enumerate(contexts):
            assert len(context) + self.longest - 1 <= time, (
                "contexts are cut to leave room for words"
            )
            for row, beginning in enumerate(self.rows):
                whole = context + beginning
                tokens[number, row, : len(whole)] = whole
            places[number] = [row * time + len(context) - 1 + i for row, i in self.places]
        many = (len(contexts), *self.which.shape)
        which, targets = (np.broadcast_to(a, many).copy() for a in (self.which, self.targets))
        return (*map(torch.from_numpy, (tokens, places, which, targets)),)  # type: ignore[return-value]
