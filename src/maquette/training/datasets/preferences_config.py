"""The recipe's fields of preferences: pairs of answers to a prompt, a better and a worse one.

data: {kind: preferences, corpus: corpus/pairs, sequence: 256, beta: 0.1}
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from maquette.base.errors import WrongUse, plain, within
from maquette.training.datasets.config import ANY
from maquette.training.datasets.examples_config import AnsweredData


@dataclass(frozen=True, kw_only=True)
class PreferencesData(AnsweredData):
    """A corpus of examples with rejected answers as the data of a recipe.

    Models learn from it by direct preference optimisation (DPO, Rafailov et al. 2023); the reference is
    the run that the recipe starts with.
    """

    dataset: ClassVar[Any] = "maquette.training.datasets.preferences.PreferencesDataset"
    learner: ClassVar[str] = "dpo"

    kind: Literal["preferences"] = "preferences"
    """kind of data"""
    beta: float = 0.1
    """strength of the tie to the reference: factor of the log-ratios (Rafailov et al. 2023, equation 7)"""
    label_smoothing: float = 0.0
    """probability that a pair is labelled the wrong way round (conservative DPO, Mitchell 2023)"""

    def __post_init__(self) -> None:
        within(self, 0, ANY, "beta")
        if self.beta == 0:
            raise WrongUse("beta is 0: nothing would be learned, use such as 0.1")
        if not 0 <= self.label_smoothing < 0.5:
            raise WrongUse(
                f"label_smoothing is {plain(self.label_smoothing)}: use 0 or more, and less than 0.5"
            )

    @property
    def reads_start(self) -> bool:
        return True

    def check(self, recipe: Any) -> None:
        """Raise WrongUse where a sequence does not fit the model, and where there is no reference."""
        super().check(recipe)
        if not recipe.start:
            raise WrongUse(
                "preferences are learned from a model that answers: name its run as start"
            )

    def units(self, samples: int) -> int:
        return 2 * super().units(samples)  # a row of chosen answers, and one of rejected ones
