"""The recipe of a picture model: what it says besides what every recipe says."""

import os
from dataclasses import dataclass, field
from typing import ClassVar

from maquette.base.errors import WrongUse, within
from maquette.models.diffusion.drawing import Drawing
from maquette.models.picture_config import PictureConfig
from maquette.training.recipe import ANY, BaseData, BaseRecipe, BaseWatch
from maquette.worlds.moon import Moon
from maquette.worlds.shapes import Shapes

SEEDS = 1 << 31
"""of picture runs: a world's pictures are numbered in 63 bits, 32 of them within a seed"""


@dataclass(frozen=True, kw_only=True)
class PictureData(BaseData):
    """What is looked at, and how large."""

    corpus: str = "shapes"
    """"shapes" or "moon", drawn on the spot, or a folder built by maquette corpus pictures"""
    size: int = 32
    """side of a picture, in pixels"""
    words: int = 24
    """symbols of a caption, the end included; what is longer is cut"""
    world: Shapes = field(default_factory=Shapes)
    """what is drawn where the corpus is "shapes\""""
    moon: Moon = field(default_factory=Moon)
    """what is drawn where the corpus is "moon\""""
    count: int | None = None
    """train on the first so many pictures; None: on all there are"""
    encoder: str = ""
    """a CLIP run, frozen, whose embeddings of picture and caption come with each; empty: none"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "size", "count")
        within(self, 2, ANY, "words")
        worlds = ("shapes", "moon")  # drawn, unless a folder has their name
        for name, kept in (("encoder", ("",)), ("corpus", worlds)):
            value = getattr(self, name)
            if value not in kept:  # a run finds it from any folder
                object.__setattr__(self, name, os.path.abspath(os.path.expanduser(value)))


@dataclass(frozen=True, kw_only=True)
class PictureWatch(BaseWatch):
    """What is looked at while training."""

    pictures: int = 512
    """held-out pictures scored, the same every time"""
    grid: int = 16
    """pictures made at a look, by models that make pictures; 0: none"""
    prompts: tuple[str, ...] = ()
    """captions of the grid, in turn; none: those of held-out pictures"""
    steps: int = Drawing.steps
    """solver steps of the grid"""
    guidance: float = Drawing.guidance
    """guidance of the grid; 1 is none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, ANY, "pictures", "steps")
        within(self, 0, ANY, "grid", "guidance")


@dataclass(frozen=True, kw_only=True)
class PictureRecipe(BaseRecipe):
    """Everything about a run of a picture model."""

    model: PictureConfig = field(default_factory=PictureConfig)
    data: PictureData = field(default_factory=PictureData)
    watch: PictureWatch = field(default_factory=PictureWatch)

    unit: ClassVar[str] = "pictures"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed >= SEEDS:
            raise WrongUse(f"seed is {self.seed}: use 0 to {SEEDS - 1}")
        if self.data.size != self.model.size:
            raise WrongUse(
                f"data.size {self.data.size} is not model.size {self.model.size}: set both alike"
            )

    @property
    def units_per_step(self) -> int:
        return self.batch
