"""What a recipe says of its data and of what is scored on the way, whatever kind they are of.

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
    """What is scored and sampled while training."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    every: int | None = None
    """steps between looks at held-out loss and samples; None: a tenth of the run"""
    report: bool = True
    """write report.html when the run has finished"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "every")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is read.

    modality: `learns_from` of the models that its batches are for. unit: what is counted. watch: the class
    of the recipe's `watch`. dataset: the class of its `Dataset`, or "module.Class".
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    modality: ClassVar[str] = ""
    unit: ClassVar[str] = "samples"
    watch: ClassVar[type[Watch]] = Watch
    dataset: ClassVar[Any] = ""

    kind: str = ""
    """kind of data"""
    corpus: str = "default"
    """a corpus folder, or the name of a corpus that is made here"""

    @classmethod
    def of_corpus(cls, corpus: Any) -> Any:
        """This class with the classes of its fields, where they depend on the value of `corpus`."""
        return cls

    def with_corpus(self, corpus: str) -> Self:
        """The same on another corpus."""
        return replace(self, corpus=corpus)

    def open_corpus(self, progress: Progress = silent) -> Any:
        """The corpus, built first where its name is that of one that is made here."""
        raise NotImplementedError

    @property
    def frozen_weights(self) -> Path | None:
        """The weights file of the model of `frozen_encoder`."""
        return None

    def frozen_encoder(self, device: "torch.device") -> Callable[[Any], Any] | None:
        """What a frozen model adds to every batch, on the learner's device; None: nothing."""
        return None

    def check(self, recipe: Any) -> None:
        """Raise WrongUse where the recipe's other fields do not fit."""

    def units(self, samples: int) -> int:
        """How many units so many samples are."""
        return samples

    def flops_per_unit(self, model: Any) -> float:
        """Operations of a training step a unit; 0: they are counted on the first batch."""
        return 0.0


KINDS: dict[str, str | type[Data]] = {
    "text": "maquette.training.datasets.text_config.TextData",
    "examples": "maquette.training.datasets.examples_config.ExamplesData",
    "pictures": "maquette.training.datasets.picture_config.PictureData",
}
"""the class of a recipe's `data` by its `kind`, or where it is"""


def data_kind(name: Any) -> type[Data]:
    """The class of that kind. Raises WrongUse for what is no kind's name."""
    if not isinstance(name, str):
        raise WrongUse(f"data.kind is {name!r}: write the name of one kind: {', '.join(KINDS)}")
    if name not in KINDS:
        raise WrongUse(f"unknown data.kind {name}{did_you_mean(name, KINDS)}")
    kind: type[Data] = named(KINDS[name])
    return kind
