"""Worlds by name, behind one protocol: what a corpus of drawn pictures asks of them."""

from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse
from maquette.worlds import captions as words_of
from maquette.worlds import moon, render, shapes

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


class World(Protocol):
    """Pictures by (seed, split, index), and what is true of them."""

    name: str
    settings: Any

    @property
    def version(self) -> int:
        """Raised when the same settings give other pictures."""
        ...

    def pictures(self, seed: int, indices: Numbers, split: str, size: int) -> Pixels:
        """uint8 (n, size, size, 3)."""
        ...

    def captions(self, seed: int, indices: Numbers, split: str) -> list[str]:
        """Their captions."""
        ...

    def labels(self, seed: int, indices: Numbers, split: str) -> Numbers | None:
        """(n, factors), or None where nothing is labelled."""
        ...

    def words(self) -> list[str]:
        """Every word a caption may hold."""
        ...

    def label_names(self) -> list[str]:
        """The factors."""
        ...

    def label_sizes(self) -> list[int]:
        """How many values each has."""
        ...


class ShapesWorld:
    """`worlds/shapes.py` with its captions and labels."""

    name = "shapes"
    version = shapes.WORLD_VERSION

    def __init__(self, settings: shapes.Shapes) -> None:
        self.settings = settings

    def _scenes(self, seed: int, indices: Numbers, split: str) -> shapes.Scenes:
        return shapes.scenes(self.settings, seed, indices, split)

    def pictures(self, seed: int, indices: Numbers, split: str, size: int) -> Pixels:
        return render.render(self._scenes(seed, indices, split), size)

    def captions(self, seed: int, indices: Numbers, split: str) -> list[str]:
        return words_of.captions(self._scenes(seed, indices, split))

    def labels(self, seed: int, indices: Numbers, split: str) -> Numbers | None:
        return self._scenes(seed, indices, split).labels

    def words(self) -> list[str]:
        return list(words_of.WORDS)

    def label_names(self) -> list[str]:
        return shapes.label_names(self.settings)

    def label_sizes(self) -> list[int]:
        return shapes.label_sizes(self.settings)


class MoonWorld:
    """`worlds/moon.py`: pictures without captions and labels."""

    name = "moon"
    version = moon.VERSION

    def __init__(self, settings: moon.Moon) -> None:
        self.settings = settings

    def pictures(self, seed: int, indices: Numbers, split: str, size: int) -> Pixels:
        return moon.pictures(self.settings, seed, indices, split, size)  # type: ignore[arg-type]

    def captions(self, seed: int, indices: Numbers, split: str) -> list[str]:
        return [""] * len(indices)

    def labels(self, seed: int, indices: Numbers, split: str) -> Numbers | None:
        return None

    def words(self) -> list[str]:
        return ["moon"]

    def label_names(self) -> list[str]:
        return []

    def label_sizes(self) -> list[int]:
        return []


def world_named(name: str, settings: dict[str, Any]) -> World:
    """The world of that name. settings: those of the worlds by name, as a recipe's data has them."""
    if name == "shapes":
        return ShapesWorld(settings[name])
    if name == "moon":
        return MoonWorld(settings[name])
    raise WrongUse(f"there is no world {name}: use shapes or moon")


def described(world: World) -> dict[str, Any]:
    """What a world is known by, as plain values: the way back is `world_from`."""
    return {"name": world.name, "settings": asdict(world.settings), "version": world.version}


def world_from(content: dict[str, Any]) -> World:
    """The world of such values. Raises WrongUse for one that is drawn otherwise today."""
    kinds: dict[str, Any] = {"shapes": shapes.Shapes, "moon": moon.Moon}
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content["settings"].items()}
    name = content["name"]
    world = world_named(name, {name: kinds[name](**fields)})
    if world.version != content["version"]:
        raise WrongUse(
            f"the world {name} was drawn in version {content['version']}, today in {world.version}: "
            f"its pictures are others now, train again"
        )
    return world
