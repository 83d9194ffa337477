"""The recipe's fields of pictures: data, evaluation and samples."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, cast

from typing_extensions import TypeVar

from maquette.base.errors import WrongUse, did_you_mean, within
from maquette.base.named import named
from maquette.corpus.progress import Progress, silent
from maquette.models.diffusion.drawing import Drawing
from maquette.models.picture_config import PictureConfig
from maquette.training.datasets.config import ANY, Data, Watch
from maquette.training.recipe import Recipe
from maquette.worlds.registry import World, world_class, world_names

if TYPE_CHECKING:
    import torch

    from maquette.corpus.pictures.store import PictureCorpus

S = TypeVar("S", default=Any, covariant=True)  # noqa: PLC0105
SEEDS = 1 << 31
"""number of seeds of picture runs: a world's pictures are numbered in 63 bits, 32 of them within a seed"""


@dataclass(frozen=True, kw_only=True)
class PictureWatch(Watch):
    """Evaluation and samples of a picture model during training."""

    pictures: int = 512
    """number of held-out pictures scored, the same every time"""
    grid: int = 16
    """number of pictures in the grid of samples, of models that make pictures; 0: none"""
    prompts: tuple[str, ...] = ()
    """captions of the grid of samples, in turn; none: captions of held-out pictures"""
    steps: int = Drawing.steps
    """number of solver steps of the grid of samples"""
    guidance: float = Drawing.guidance
    """guidance of the grid of samples; 1 is none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, ANY, "pictures", "steps")
        within(self, 0, ANY, "grid", "guidance")


@dataclass(frozen=True, kw_only=True)
class PictureData(Data, Generic[S]):
    """Pictures as the data of a recipe. S: the settings class of the world that draws them."""

    modality: ClassVar[str] = "pictures"
    unit: ClassVar[str] = "pictures"
    watch: ClassVar[type[Watch]] = PictureWatch
    dataset: ClassVar[Any] = "maquette.training.datasets.pictures.PictureDataset"

    kind: Literal["pictures"] = "pictures"
    """kind of data"""
    corpus: str = "shapes"
    """name of a world that draws pictures, as "shapes", or a folder built by maquette corpus pictures"""
    image_size: int = 32
    """height and width of a picture in pixels"""
    caption_length: int = 24
    """most tokens of a caption, its EOS token included; longer captions are cut"""
    world: S = None  # type: ignore[assignment] # the default settings of the world
    """settings of the world that the corpus names; none for a folder"""
    count: int | None = None
    """number of training pictures, the first ones; None: all"""
    encoder: str = ""
    """run of a frozen CLIP whose embeddings are added to every picture and caption; empty: none"""

    def __post_init__(self) -> None:
        within(self, 1, ANY, "image_size", "count")
        within(self, 2, ANY, "caption_length")
        name, drawn = self.corpus, self.corpus in world_names()
        for field, kept in (("encoder", self.encoder == ""), ("corpus", drawn)):
            if not kept:  # a run finds it from any folder
                whole = os.path.abspath(os.path.expanduser(getattr(self, field)))
                object.__setattr__(self, field, whole)
        if not drawn and self.world is not None:
            near = did_you_mean(Path(name).name, world_names())
            raise WrongUse(f"data.world is set, and data.corpus {name} is no world{near}")
        if not drawn:
            return
        settings = world_class(name).settings_class
        if self.world is None:
            object.__setattr__(self, "world", settings())
        if not isinstance(self.world, settings):
            raise WrongUse(
                f"data.world is {type(self.world).__name__}, the world {name} has {settings.__name__}"
            )

    @classmethod
    def of_corpus(cls, corpus: Any) -> Any:
        if isinstance(corpus, str) and corpus in world_names():
            return PictureData[world_class(corpus).settings_class]  # type: ignore[misc]
        return PictureData[Any]

    def with_corpus(self, corpus: str) -> Self:
        same = corpus == self.corpus
        return replace(self, corpus=corpus, world=self.world if same else None)  # type: ignore[arg-type]

    @property
    def drawn(self) -> World | None:
        """The world that the corpus names; None for a folder, also a folder with a world's name."""
        from maquette.corpus.pictures.store import MANIFEST

        if self.world is None or (Path(self.corpus) / MANIFEST).exists():
            return None
        return world_class(self.corpus)(self.world)

    def open_corpus(self, progress: Progress = silent) -> "PictureCorpus":
        from maquette.corpus.pictures.store import open_pictures

        return open_pictures(self.corpus, self.drawn)

    @property
    def frozen_weights(self) -> Path | None:
        return Path(self.encoder) / "model.safetensors" if self.encoder else None

    def frozen_encoder(self, device: "torch.device") -> Any:
        """Function that adds the encoder's embeddings to every batch."""
        encoder = named("maquette.training.datasets.encoder.encoder_of")(
            self
        )  # which reads this file
        return None if encoder is None else encoder.to(device)

    def check(self, recipe: Any) -> None:
        """Raise WrongUse for a seed without pictures, and for a model of another image size."""
        if recipe.seed >= SEEDS:
            raise WrongUse(f"seed is {recipe.seed}: use 0 to {SEEDS - 1}")
        if self.image_size != recipe.model.image_size:
            raise WrongUse(
                f"data.image_size {self.image_size} is not model.image_size {recipe.model.image_size}: "
                f"set both alike"
            )


PictureRecipe = Recipe[PictureConfig, PictureData, PictureWatch]
"""recipe of a run of pictures"""


def picture_recipe(recipe: Recipe) -> PictureRecipe:
    """The recipe of a picture model. Raises WrongUse for a recipe of another kind."""
    if not isinstance(recipe.data, PictureData):
        raise WrongUse(f"{recipe.name} is a recipe of {recipe.data.kind}: name one of pictures")
    return cast(PictureRecipe, recipe)
