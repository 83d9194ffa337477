"""An adaptation as a recipe: it begins with a run's weights, and trains what its method says.

Full fine-tuning has ULMFiT's tools (Howard and Ruder 2018, sections 3.2 and 3.3) as settings: rates that
fall with the depth below the top (2.6 there), blocks that are set free one after the other, and the slanted
triangular schedule, which is a linear one with a tenth of warm-up and a floor of 1/32.
"""

import fnmatch
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from maquette.adaptation.adapters.config import AdapterConfig
from maquette.adaptation.methods import Method, adapter_of, checked
from maquette.base.errors import WrongUse
from maquette.models.base import Model
from maquette.models.classifier_config import ClassifierConfig
from maquette.models.registry import AnyConfig, ModelConfig
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.datasets.text_config import TextWatch, TokenData
from maquette.training.recipe import LanguageRecipe, Optimiser, ParameterGroup, Schedule

RATES: dict[Method, float] = {
    "linear": 0.01,
    "bias": 0.01,
    "lora": 0.003,
    "adapter": 0.003,
    "vpt-shallow": 0.03,
    "vpt-deep": 0.03,
    "full": 0.001,
}
"""learning rate of each method for pictures where none is given"""
TEXT_RATES: dict[Method, float] = {
    "bias": 0.03,
    "lora": 0.01,
    "adapter": 0.01,
    "prompt": 0.1,
    "p-tuning": 0.03,
    "prefix": 0.1,
    "full": 0.003,
}
"""learning rate of each method for language models under maximal-update rules: the better of two that were
tried, the other a third of it, on answers of 3 to 6 letters for a decoder of width 96 and 200 steps"""
STANDARD_RATES: dict[Method, float] = {
    "bias": 0.001,
    "lora": 0.0002,
    "adapter": 0.0003,
    "prompt": 0.03,
    "p-tuning": 0.001,
    "prefix": 0.01,
    "full": 0.00005,
}
"""learning rate of each method for language models without those rules, as GPT-2 and what is imported: what
papers and packages use (Hu et al. 2021, table 11; Houlsby et al. 2019, section 3.1), not measured here"""


@dataclass(frozen=True)
class AdaptOptions:
    """How a model is adapted. Raises WrongUse for an unknown method.

    AdamW with a cosine schedule to 0 after a warm-up of a tenth of the steps; pictures in fp32.
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
    """number of prompts of a block, of the methods vpt-*, prompt, p-tuning and prefix"""
    rank: int = 8
    """rank of the low-rank changes of lora, size of the layers of adapter"""
    sequence: int | None = None
    """tokens a training sequence; None: as many as fit the model, up to a limit"""
    rate_decay: float = 1.0
    """factor by which the rate falls with each layer below the top, of full"""
    unfreeze: int = 0
    """number of steps between the first steps of a layer and of the one below it, of full; 0: all at once"""
    seed: int = 0
    """seed of the new parameters and of the data's order"""

    def __post_init__(self) -> None:
        checked(self.method)
        if not 1 <= self.rate_decay < math.inf or self.unfreeze < 0:
            raise WrongUse(
                f"rate_decay is {self.rate_decay:g} and unfreeze {self.unfreeze}: use at least 1, and 0"
            )
        if self.by_depth and self.method != "full":
            raise WrongUse(
                f"rate_decay and unfreeze are of full, not of {self.method}: leave them out"
            )

    @property
    def by_depth(self) -> bool:
        """Whether layers learn at different rates or times."""
        return self.rate_decay > 1 or self.unfreeze > 0

    def adapter(self, learns_from: str) -> AdapterConfig | None:
        """The method's adapter for models of that kind of data; see `adapter_of`."""
        return adapter_of(self.method, learns_from, length=self.prompts, size=self.rank)

    def optimiser(self, config: AnyConfig) -> Optimiser:
        """AdamW at the method's rate, with groups by depth where they are asked for."""
        rates = RATES
        if config.learns_from == "text":
            rates = TEXT_RATES if config.parametrisation.kind == "mup" else STANDARD_RATES
        rate = rates[self.method] if self.learning_rate is None else self.learning_rate
        groups = by_depth(config, self.rate_decay, self.unfreeze) if self.by_depth else ()
        return Optimiser(
            learning_rate=rate, beta2=0.99, weight_decay=self.weight_decay, groups=groups
        )

    @property
    def schedule(self) -> Schedule:
        """A cosine to 0; with groups by depth the slanted triangle."""
        if self.by_depth:
            return Schedule(kind="linear", warmup=0.1, floor=1 / 32)
        return Schedule(warmup=0.1, floor=0.0)


def by_depth(config: AnyConfig, decay: float, steps: int) -> tuple[ParameterGroup, ...]:
    """Groups of a model's parameters by their layer: what stands above the blocks, each block, the rest.

    A layer has 1/decay of the rate of the one above it, and is frozen for `steps` more.
    """
    with torch.device("meta"):
        model: Model = config.build()
    names = [name for name, _ in model.named_parameters()]
    top = [p for p in ("norm.*", "output.*", *model.task_parameters) if fnmatch.filter(names, p)]
    blocks = [f"blocks.{i}.*" for i in reversed(range(len(model.stacks()[0])))]
    layers = [(top, 0), *(([p], i) for i, p in enumerate(blocks, 1)), (["*"], len(blocks) + 1)]
    return tuple((p, decay**-layer, layer * steps) for patterns, layer in layers for p in patterns)


def text_recipe(
    options: AdaptOptions, start: Path, base: ModelConfig, data: TokenData
) -> LanguageRecipe:
    """The run that adapts `start`, whose model is `base`, to data that is read in tokens."""
    return LanguageRecipe(
        name=options.method,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        start=str(start),
        adapter=options.adapter("text"),
        model=base,
        data=data,
        optimiser=options.optimiser(base),
        schedule=options.schedule,
        watch=TextWatch(every=max(1, options.steps // 4), sample_tokens=0, report=False),
    )


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
        optimiser=options.optimiser(base),
        schedule=options.schedule,
        watch=PictureWatch(every=max(1, options.steps), grid=0, report=False),
    )
