"""The recipe's fields of data and of evaluation during training, for every kind of data.

A kind of data is two dataclasses, this file's `Data` and `Watch` with its own fields, and a `Dataset`
(datasets.py) that makes batches of a corpus. `KINDS` names them; nothing else asks which kind it has.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from maquette.base.errors import WrongUse, did_you_mean, within
from maquette.base.named import named
from maquette.corpus.progress import Progress, silent

if TYPE_CHECKING:
    import torch

ANY = float("inf")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Evaluation and samples during training."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    every: int | None = None
    """steps between evaluations of held-out loss and samples; None: a tenth of the run"""
    report: bool = True
    """whether report.html is written when the run has finished"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "every")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data of a recipe.

    modality: `learns_from` of the models that its batches are for. unit: name of what is counted. watch:
    the class of the recipe's `watch`. dataset: the class of its `Dataset`, or "module.Class". learner: how
    models learn from it, a key of `training.learner.LEARNERS`; "": as they say themselves.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    modality: ClassVar[str] = ""
    unit: ClassVar[str] = "samples"
    watch: ClassVar[type[Watch]] = Watch
    dataset: ClassVar[Any] = ""
    learner: ClassVar[str] = ""

    kind: str = ""
    """kind of data"""
    corpus: str = "default"
    """corpus folder, or name of a built-in corpus"""

    @classmethod
    def of_corpus(cls, corpus: Any) -> Any:
        """This class with the classes of its fields, where they depend on the value of `corpus`."""
        return cls

    def with_corpus(self, corpus: str) -> Self:
        """A copy with another corpus."""
        return replace(self, corpus=corpus)

    def open_corpus(self, progress: Progress = silent) -> Any:
        """The corpus; a built-in corpus is built at first use."""
        raise NotImplementedError

    @property
    def frozen_weights(self) -> Path | None:
        """The weights file of the model of `frozen_encoder`."""
        return None

    @property
    def reads_start(self) -> bool:
        """Whether what the model of the recipe's `start` says is a part of every batch's loss."""
        return False

    def frozen_encoder(self, device: "torch.device") -> Callable[[Any], Any] | None:
        """Function that adds a frozen model's outputs to every batch, on the learner's device; None: none."""
        return None

    def check(self, recipe: Any) -> None:
        """Raise WrongUse where the recipe's other fields do not fit."""

    def units(self, samples: int) -> int:
        """Number of units in `samples` samples."""
        return samples

    def flops_per_unit(self, model: Any) -> float:
        """Operations of a training step per unit; 0: counted on the first batch."""
        return 0.0


KINDS: dict[str, str | type[Data]] = {
    "text": "maquette.training.datasets.text_config.TextData",
    "examples": "maquette.training.datasets.examples_config.ExamplesData",
    "questions": "maquette.training.datasets.questions_config.QuestionsData",
    "preferences": "maquette.training.datasets.preferences_config.PreferencesData",
    "cloze": "maquette.training.datasets.cloze_config.ClozeData",
    "pictures": "maquette.training.datasets.picture_config.PictureData",
}
"""class of a recipe's `data` by its `kind`, or the path of that class"""


def data_kind(name: Any) -> type[Data]:
    """The class of a kind of data. Raises WrongUse for an unknown kind."""
    if not isinstance(name, str):
        raise WrongUse(f"data.kind is {name!r}: write the name of one kind: {', '.join(KINDS)}")
    if name not in KINDS:
        raise WrongUse(f"unknown data.kind {name}{did_you_mean(name, KINDS)}")
    kind: type[Data] = named(KINDS[name])
    return kind
