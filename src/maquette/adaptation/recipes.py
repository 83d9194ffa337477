"""An adaptation as a recipe: it begins with a run's weights, and trains what its method says."""

from dataclasses import dataclass, replace
from pathlib import Path

from maquette.adaptation.adapters.config import AdapterConfig
from maquette.adaptation.methods import Method, adapter_of, checked
from maquette.models.classifier_config import ClassifierConfig
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.recipe import Optimiser, Schedule

RATES: dict[Method, float] = {
    "linear": 0.01,
    "bias": 0.01,
    "lora": 0.003,
    "adapter": 0.003,
    "vpt-shallow": 0.03,
    "vpt-deep": 0.03,
    "prompt": 0.03,
    "prefix": 0.03,
    "full": 0.001,
}
"""learning rate of each method where none is given"""


@dataclass(frozen=True)
class AdaptOptions:
    """How a model is adapted. Raises WrongUse for an unknown method.

    AdamW with a cosine schedule to 0 after a warm-up of a tenth of the steps, in fp32.
    """

    method: Method
    """name of the method (`methods.py`)"""
    labels: tuple[str, ...] = ()
    """names of the label factors that are learned; none: all"""
    steps: int = 300
    """number of optimiser steps"""
    batch: int = 64
    """number of samples a step: pictures, sequences"""
    learning_rate: float | None = None
    """peak learning rate; None: the method's own"""
    weight_decay: float = 0.0
    """weight decay of AdamW"""
    prompts: int = 10
    """number of prompts of a block, of the methods vpt-*, prompt and prefix"""
    rank: int = 8
    """rank of the low-rank changes of lora, size of the layers of adapter"""
    seed: int = 0
    """seed of the new parameters and of the data's order"""

    def __post_init__(self) -> None:
        checked(self.method)

    def adapter(self, learns_from: str) -> AdapterConfig | None:
        """The method's adapter for models of that kind of data; see `adapter_of`."""
        return adapter_of(self.method, learns_from, length=self.prompts, size=self.rank)

    @property
    def optimiser(self) -> Optimiser:
        """AdamW at the method's rate."""
        rate = RATES[self.method] if self.learning_rate is None else self.learning_rate
        return Optimiser(learning_rate=rate, beta2=0.99, weight_decay=self.weight_decay)


def recipe_of(
    options: AdaptOptions,
    start: Path,
    base: ClassifierConfig,
    data: PictureData,
    classes: tuple[int, ...],
    *,
    labels: tuple[int, ...] = (),
    task: str = "",
) -> PictureRecipe:
    """The run that adapts `start`, whose model is `base`, to the labels of `data`.

    classes: number of classes of each label factor of the data. labels: places of the factors that are
    learned (none: all). task: name of the heads.
    """
    return PictureRecipe(
        name=options.method,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        precision="fp32",
        compile="off",
        start=str(start),
        adapter=options.adapter("pictures"),
        model=replace(base, classes=classes, labels=labels, task=task),
        data=data,
        optimiser=options.optimiser,
        schedule=Schedule(warmup=0.1, floor=0.0),
        watch=PictureWatch(every=max(1, options.steps), grid=0, report=False),
    )
