"""Batches of questions: prompts alone, for the model answers them itself.

Held-out batches are the right answers, as those of examples: the held-out loss is what they cost.
"""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from maquette.base.errors import UserError
from maquette.corpus.examples.store import ExamplesCorpus, ExampleSplit
from maquette.models.batches import QuestionBatch
from maquette.models.registry import ModelConfig
from maquette.training.datasets.examples import Packed, RowsDataset
from maquette.training.datasets.questions_config import QuestionsData
from maquette.training.datasets.text import check_tokens
from maquette.training.datasets.text_config import TextWatch
from maquette.training.recipe import Recipe

QuestionsRecipe = Recipe[ModelConfig, QuestionsData, TextWatch]
"""recipe of a run on questions"""


class QuestionsDataset(RowsDataset):
    """The samples of a recipe on questions. Raises UserError where no prompt leaves an answer its room."""

    def __init__(self, recipe: QuestionsRecipe, corpus: ExamplesCorpus) -> None:
        super().__init__(recipe, corpus)
        room = recipe.data.sequence + 1 - recipe.data.answer_tokens
        self.questions = Questions(corpus.train, room)

    @property
    def rows(self) -> "Questions":
        return self.questions

    @functools.cached_property
    def heldout_rows(self) -> Packed:
        return Packed(self.corpus.heldout, self._sequence, self.corpus.eos_token_id, seed=0)

    def check(self) -> list[str]:
        """A note where prompts are left out. Raises WrongUse for a model of another vocabulary."""
        check_tokens(self._recipe, self.corpus)
        assert len(self.heldout_rows)
        left_out, total = self.questions.left_out, len(self.corpus.train)
        if not left_out:
            return []
        return [
            f"{left_out:,} of {total:,} prompts leave an answer no room in data.sequence "
            f"{self._sequence}: left out"
        ]

    def step(self, sample: int, rank: int = 0, world: int = 1) -> list[QuestionBatch]:
        """This rank's micro-batches of the step that starts at training sample `sample`."""
        share = self._recipe.batch // world
        micro, first = self._recipe.micro_batch or share, sample + rank * share
        rows = self.order.starts(first, share)
        return [
            self.questions.batch(rows[i : i + micro], first + i) for i in range(0, share, micro)
        ]


class Questions:
    """The prompts of a split that have at most `room` tokens, by number.

    An earlier answer of a conversation is a part of its prompt. left_out: number of longer prompts.
    """

    def __init__(self, split: ExampleSplit, room: int) -> None:
        prompts = [prompt_of(split, number) for number in range(len(split))]
        self.numbers = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
        """numbers of the examples in their split"""
        self.prompts = [prompts[i] for i in self.numbers]
        self.left_out = len(split) - len(self.numbers)
        if not self.numbers:
            raise UserError(
                f"the prompts have {min(map(len, prompts))} tokens at least, more than the {room} that "
                f"data.sequence leaves them: use a longer one, or fewer data.answer_tokens"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, rows: npt.NDArray[np.int64], first: int = 0) -> QuestionBatch:
        """The prompts of those rows. first: place of the first one in the order of all samples."""
        chosen: Sequence[npt.NDArray[np.int64]] = [self.prompts[row] for row in rows.tolist()]
        prompts = torch.zeros(len(rows), max(map(len, chosen)), dtype=torch.long)
        for row, prompt in zip(prompts, chosen, strict=True):
            row[: len(prompt)] = torch.from_numpy(prompt)
        return QuestionBatch(
            prompts,
            torch.tensor([len(prompt) for prompt in chosen]),
            torch.tensor([self.numbers[row] for row in rows.tolist()]),
            first + torch.arange(len(rows)),
        )


def prompt_of(split: ExampleSplit, number: int) -> npt.NDArray[np.int64]:
    """The tokens of an example before its last answer."""
    tokens, counted = split.read(number, int(split.lengths[number]))
    prompt = np.flatnonzero(~counted)
    return tokens[: int(prompt[-1]) + 1 if len(prompt) else 0]
