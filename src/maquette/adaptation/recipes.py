"""An adaptation as a recipe: it begins with a run's weights, and trains what its method says."""

from dataclasses import dataclass
from pathlib import Path

from maquette.adaptation.methods import PATTERNS, Method, adapted, checked
from maquette.models.classifier_config import ClassifierConfig
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.parameter_groups import only
from maquette.training.recipe import Optimiser, Schedule

RATES: dict[Method, float] = {
    "linear": 0.01,
    "bias": 0.01,
    "vpt-shallow": 0.03,
    "vpt-deep": 0.03,
    "lora": 0.003,
    "full": 0.001,
}
"""learning rate of each method where none is given"""


@dataclass(frozen=True)
class AdaptOptions:
    """How a classifier is adapted. Raises WrongUse for an unknown method.

    AdamW with a cosine schedule to 0 after a warm-up of a tenth of the steps, in fp32.
    """

    method: Method
    """name of the method (`methods.py`)"""
    labels: tuple[str, ...] = ()
    """names of the label factors that are learned; none: all"""
    steps: int = 300
    """number of optimiser steps"""
    batch: int = 64
    """pictures per step"""
    learning_rate: float | None = None
    """peak learning rate; None: the method's own"""
    weight_decay: float = 0.0
    """weight decay of AdamW"""
    prompts: int = 10
    """number of prompts of a block, of the vpt methods"""
    rank: int = 8
    """rank of the low-rank changes, of lora"""
    seed: int = 0
    """seed of the new parameters and of the data's order"""

    def __post_init__(self) -> None:
        checked(self.method)


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
    method = options.method
    config = adapted(
        base,
        method,
        classes=classes,
        labels=labels,
        task=task,
        prompts=options.prompts,
        rank=options.rank,
    )
    groups = () if method == "full" else only(*PATTERNS[method])
    rate = RATES[method] if options.learning_rate is None else options.learning_rate
    return PictureRecipe(
        name=method,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        precision="fp32",
        compile="off",
        start=str(start),
        model=config,
        data=data,
        optimiser=Optimiser(
            learning_rate=rate, beta2=0.99, weight_decay=options.weight_decay, groups=groups
        ),
        schedule=Schedule(warmup=0.1, floor=0.0),
        watch=PictureWatch(every=max(1, options.steps), grid=0, report=False),
    )
