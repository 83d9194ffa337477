"""Worlds by name: pictures drawn from known scenes, with their labels and annotations.

A world is a settings dataclass and a `World`, registered in the file that defines it:

    @dataclass(frozen=True, kw_only=True)
    class Moon(WorldSettings):
        craters: int = 120

    @register
    class MoonWorld(World[Moon]):
        name, version, settings_class = "moon", 1, Moon

        def pictures(self, seed, indices, split, image_size): ...

A recipe names the world by `data.corpus` and has its settings in `data.world`. `MODULES` says which file
registers a name, so that no world is imported before it is asked for.
"""

import importlib
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeVar

from maquette.base.errors import WrongUse, did_you_mean

MODULES = {
    "shapes": "maquette.worlds.shapes_world",
    "moon": "maquette.worlds.moon",
}
"""name of a world: module that registers it"""

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """The settings of a world: a dataclass of plain values; unknown fields are refused."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


S = TypeVar("S", bound=WorldSettings, default=Any)


@dataclass(frozen=True)
class Boxes:
    """The objects of n pictures, each in the smallest upright rectangle around it.

    corners: fp32 (n, most, 4), left, top, right and bottom as fractions of the side, y down; `most` is the
        largest number of objects in a picture of the world.
    classes: int64 (n, most), positions in `World.class_names`.
    count: int64 (n,), number of objects in each picture. Behind them corners are 0 and classes -1.
    """

    corners: npt.NDArray[np.float32]
    classes: Numbers
    count: Numbers


class World(Generic[S]):
    """Pictures by (seed, split, index), with labels and annotations; split: "train" or "heldout".

    name: what `data.corpus` says. version: raised when the same settings give other pictures.
    settings_class: the dataclass of `settings`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    settings_class: ClassVar[type[WorldSettings]]

    def __init__(self, settings: S) -> None:
        self.settings = settings

    def pictures(self, seed: int, indices: Numbers, split: str, image_size: int) -> Pixels:
        """uint8 (n, height, width, 3)."""
        raise NotImplementedError

    def captions(self, seed: int, indices: Numbers, split: str) -> list[str]:
        """n captions; "" where there is none."""
        return [""] * len(indices)

    def words(self) -> list[str]:
        """Every word that a caption may hold, at least one: the captions' tokenizer is trained on them."""
        return [self.name]

    def parse(self, caption: str) -> Numbers:
        """The labels (factors,) that a caption says. Raises WrongUse for a text that is none."""
        raise WrongUse(f"the captions of the world {self.name} stand for no labels")

    def labels(self, seed: int, indices: Numbers, split: str) -> Numbers | None:
        """(n, factors), or None where nothing is labelled."""
        return None

    def label_names(self) -> list[str]:
        """Names of the factors."""
        return []

    def label_sizes(self) -> list[int]:
        """Number of values of each factor."""
        return []

    def class_names(self) -> list[str]:
        """Names of the classes of `boxes`."""
        return []

    def boxes(self, seed: int, indices: Numbers, split: str) -> Boxes:
        """The boxes of the objects. Raises WrongUse in a world that has none."""
        raise self._lacks("boxes")

    def masks(self, seed: int, indices: Numbers, split: str, image_size: int) -> Pixels:
        """uint8 (n, height, width): 0 the background, 1 and more the objects in the order of their boxes.

        Raises WrongUse in a world that has none.
        """
        raise self._lacks("masks")

    def frames(
        self, seed: int, indices: Numbers, split: str, image_size: int, count: int
    ) -> Pixels:
        """Videos: uint8 (n, count, height, width, 3), the first frame being the picture.

        Raises WrongUse in a world that does not move.
        """
        raise self._lacks("frames")

    def _lacks(self, annotation: str) -> WrongUse:
        return WrongUse(f"the world {self.name} has no {annotation}: use one that has, as shapes")


WORLDS: dict[str, type[World]] = {}
"""worlds that have been registered so far"""

W = TypeVar("W", bound=type[World])


def register(world: W) -> W:
    """Register a world by its name: a class decorator."""
    taken = WORLDS.get(world.name)
    if taken is not None and taken.__qualname__ != world.__qualname__:
        raise ValueError(f"two worlds are named {world.name}: {taken} and {world}")
    WORLDS[world.name] = world
    return world


def world_names() -> list[str]:
    """The names of all worlds."""
    return sorted({*MODULES, *WORLDS})


def world_class(name: str) -> type[World]:
    """The class of a world. Raises WrongUse for an unknown name, with the nearest."""
    if name not in WORLDS and name in MODULES:
        importlib.import_module(MODULES[name])
    if name not in WORLDS:
        raise WrongUse(f"unknown world {name}{did_you_mean(name, world_names())}")
    return WORLDS[name]


def described(world: World) -> dict[str, Any]:
    """The identity of a world as plain values; inverse: `world_from`."""
    return {"name": world.name, "settings": asdict(world.settings), "version": world.version}


def world_from(content: dict[str, Any]) -> World:
    """The world of `described`. Raises WrongUse for another version of the world."""
    kind = world_class(content["name"])
    if kind.version != content["version"]:
        raise WrongUse(
            f"the world {kind.name} was drawn in version {content['version']}, today in {kind.version}: "
            f"its pictures are others now, train again"
        )
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content["settings"].items()}
    return kind(kind.settings_class(**fields))
