"""The recipe of a picture model: what it says besides what every recipe says."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from maquette.base.errors import WrongUse, within
from maquette.corpus.progress import Progress, silent
from maquette.models.picture_config import PictureConfig
from maquette.training.data_config import ANY, BaseData, BaseWatch
from maquette.training.recipe import BaseRecipe
from maquette.worlds.moon import Moon
from maquette.worlds.shapes import Shapes

if TYPE_CHECKING:
    import torch

    from maquette.corpus.pictures import PictureCorpus

SEEDS = 1 << 31
"""of picture runs: a world's pictures are numbered in 63 bits, 32 of them within a seed"""


@dataclass(frozen=True, kw_only=True)
class PictureWatch(BaseWatch):
    """What is looked at while training."""

    pictures: int = 512
    """held-out pictures scored, the same every time"""
    grid: int = 16
    """pictures made at a look, by models that make pictures; 0: none"""
    prompts: tuple[str, ...] = ()
    """captions of the grid, in turn; none: those of held-out pictures"""
    steps: int = 20
    """solver steps of the grid"""
    guidance: float = 3.0
    """guidance of the grid; 1 is none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, ANY, "pictures", "steps")
        within(self, 0, ANY, "grid", "guidance")


@dataclass(frozen=True, kw_only=True)
class PictureData(BaseData):
    """What is looked at, and how large."""

    modality: ClassVar[str] = "pictures"
    unit: ClassVar[str] = "pictures"
    watch: ClassVar[type[BaseWatch]] = PictureWatch
    dataset: ClassVar[str] = "maquette.training.picture_data.PictureDataset"

    kind: Literal["pictures"] = "pictures"
    """kind of data"""
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

    def open(self, progress: Progress = silent) -> "PictureCorpus":
        from maquette.corpus.pictures import MANIFEST, open_pictures
        from maquette.worlds.registry import world_named

        settings = {"shapes": self.world, "moon": self.moon}
        if self.corpus in settings and not (Path(self.corpus) / MANIFEST).exists():
            return open_pictures(self.corpus, world_named(self.corpus, settings))
        return open_pictures(self.corpus)

    @property
    def frozen_weights(self) -> Path | None:
        return Path(self.encoder) / "model.safetensors" if self.encoder else None

    def frozen_encoder(self, device: "torch.device") -> Any:
        """The encoder's embeddings are added to every batch."""
        from maquette.training.encoder import encoder_of

        encoder = encoder_of(self)
        return None if encoder is None else encoder.to(device)

    def check(self, recipe: Any) -> None:
        """Raise WrongUse for a seed that worlds have no pictures for, and for a model of another size."""
        if recipe.seed >= SEEDS:
            raise WrongUse(f"seed is {recipe.seed}: use 0 to {SEEDS - 1}")
        if self.size != recipe.model.size:
            raise WrongUse(
                f"data.size {self.size} is not model.size {recipe.model.size}: set both alike"
            )


PictureRecipe = BaseRecipe[PictureConfig, PictureData, PictureWatch]
"""of a run of pictures"""


def picture_recipe(recipe: BaseRecipe) -> PictureRecipe:
    """The recipe, of a picture model. Raises WrongUse for one of another kind."""
    if not isinstance(recipe.data, PictureData):
        raise WrongUse(f"{recipe.name} is a recipe of {recipe.data.kind}: name one of pictures")
    return cast(PictureRecipe, recipe)
