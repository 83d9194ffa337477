"""The recipe's fields of questions: prompts that a model answers itself, and answers that are checked.

data: {kind: questions, corpus: corpus/sums, sequence: 32, answer_tokens: 8, group: 8}
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, within
from maquette.training.datasets.config import ANY
from maquette.training.datasets.examples_config import AnsweredData


@dataclass(frozen=True, kw_only=True)
class QuestionsData(AnsweredData):
    """A corpus of examples as questions with verifiable answers, of which a sample is a prompt.

    Models learn from it by group relative policy optimisation (GRPO, Shao et al. 2024), in the form of
    `adaptation/grpo.py`. `sequence` is the room for a prompt with an answer.
    """

    dataset: ClassVar[Any] = "maquette.training.datasets.questions.QuestionsDataset"
    learner: ClassVar[str] = "grpo"

    kind: Literal["questions"] = "questions"
    """kind of data"""
    group: int = 8
    """number of answers that are sampled to each prompt"""
    answer_tokens: int = 32
    """most tokens of a sampled answer, its end included"""
    answer_after: str = ""
    """text after whose last occurrence an answer gives its result, as ####; empty: all of it is the result"""
    kl: float = 0.0
    """weight of the estimated KL divergence from the run that the recipe starts with (0.04 in the paper)"""

    def __post_init__(self) -> None:
        within(self, 2, ANY, "group")
        within(self, 1, ANY, "answer_tokens")
        within(self, 0, ANY, "kl")

    @property
    def reads_start(self) -> bool:
        return self.kl > 0

    def check(self, recipe: Any) -> None:
        """Raise WrongUse where a sequence does not fit the model, or no answer fits a sequence."""
        super().check(recipe)
        if self.answer_tokens >= self.sequence:
            raise WrongUse(
                f"data.answer_tokens {self.answer_tokens} leaves no room for a prompt in data.sequence "
                f"{self.sequence}: use fewer, or a longer sequence"
            )
        if self.kl and not recipe.start:
            raise WrongUse("data.kl ties the model to the run it starts with: name that as start")

    def units(self, samples: int) -> int:
        return self.group * super().units(samples)  # rows of the update: sampling is not counted
