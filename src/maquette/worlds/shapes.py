"""A world of coloured shapes: scenes with exact truth, drawn by number.

A scene is a few shapes on a background, and everything that a caption says of it is a label: colours,
shapes, relations, and sizes, textures and counts where the settings ask for them. Where the shapes
stand, how large they are and how bright the background is, no caption says. Scene `index` of `seed`
is the same in every process and in every order, because each number in it is a hash of (seed, split,
index, place in the scene): Salmon et al. 2011, with the generator of Steele et al. 2014.

Coordinates are fractions of the picture's side, x to the right and y down, so that a scene is the same
at every size. Relations are between a shape and the one named after it: "left of" means that the
distance in x is larger than the distance in y by `MARGIN`, so that no picture has two captions.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse, did_you_mean, within
from maquette.worlds.registry import WorldSettings

WORLD_VERSION = 1  # of the drawing: another number, other pictures
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan", "orange", "white")
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring", "diamond", "heart")
RELATIONS = ("left of", "above", "inside")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
COUNTS = ("one", "two", "three", "four")
BACKGROUNDS = ("grey", "colour", "gradient", "texture")
PHRASINGS = 6
MARGIN = 0.08  # by which the axis of a relation is the longer one
SPLITS = ("train", "heldout")
RADII = ((0.15, 0.32), (0.12, 0.20), (0.10, 0.15), (0.085, 0.125))  # by the number of objects
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Relation = Literal["left of", "above", "inside"]


@dataclass(frozen=True, kw_only=True)
class Shapes(WorldSettings):
    """The settings of the world of shapes."""

    objects: int = 2
    """number of shapes in a scene, 1 to 4"""
    colours: int = 6
    """number of colours: the first of red, green, blue, yellow, magenta, cyan, orange, white"""
    shapes: int = 4
    """number of shapes: the first of circle, square, triangle, cross, star, ring, diamond, heart"""
    relations: tuple[Relation, ...] = ("left of", "above")
    """relations of a shape to the next; inside: between two objects only"""
    backgrounds: Literal["grey", "colour", "gradient", "texture"] = "grey"
    """grey: one level over the picture; colour: one dull colour; gradient, texture: between two"""
    textures: int = 1
    """number of textures: the first of plain, striped, dotted; texture is an attribute where more than one"""
    sizes: bool = False
    """whether small and large are an attribute"""
    counts: bool = False
    """whether all shapes of a scene are alike and counted, up to `objects`: three red circles"""
    phrasings: int = 1
    """number of grammars of the captions, 1 to 6; each scene uses one of them"""
    held_out: int = 0
    """number of pairs of colour and shape that the train split never shows; the first shape of a scene of
    the held-out split is always of such a pair"""
    noise: float = 0.0
    """largest standard deviation of the pixels' noise, as a fraction of the range; drawn for each picture"""
    blur: float = 0.0
    """largest standard deviation of the blur in pixels; drawn for each picture"""

    def __post_init__(self) -> None:
        within(self, 1, len(RADII), "objects")
        within(self, 2, len(COLOURS), "colours")
        within(self, 2, len(SHAPES), "shapes")
        within(self, 1, len(TEXTURES), "textures")
        within(self, 1, PHRASINGS, "phrasings")
        within(self, 0, self.colours * self.shapes // 2, "held_out")
        within(self, 0, 1, "noise")
        within(self, 0, 8, "blur")
        for name in self.relations:
            if name not in RELATIONS:
                raise WrongUse(f"unknown relation {name}{did_you_mean(name, RELATIONS)}")
        if not self.relations or len(set(self.relations)) != len(self.relations):
            raise WrongUse(f"relations is {list(self.relations)}: name each once, and at least one")
        if self.backgrounds not in BACKGROUNDS:
            near = did_you_mean(self.backgrounds, BACKGROUNDS)
            raise WrongUse(f"unknown backgrounds {self.backgrounds}{near}")
        if "inside" in self.relations and (self.objects != 2 or self.counts or self.sizes):
            raise WrongUse(
                "inside is a relation of two objects, without counts and sizes: use objects 2"
            )

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name these scenes and this version of their drawing."""
        content = json.dumps(dataclasses.asdict(self) | {"version": WORLD_VERSION}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def label_names(world: Shapes) -> list[str]:
    """Names of the columns of `Scenes.labels`: colour 1, shape 1, colour 2, shape 2, relation."""
    several = world.objects > 1 and not world.counts
    each = ["colour", "shape"] + ["size"] * world.sizes + ["texture"] * (world.textures > 1)
    if world.counts:
        return [*each, "count"]
    if not several:
        return each
    names = [f"{name} {i + 1}" for i in range(world.objects) for name in each]
    links = world.objects - 1
    return names + (["relation"] if links == 1 else [f"relation {i + 1}" for i in range(links)])


def label_sizes(world: Shapes) -> list[int]:
    """Number of values of each label, in the order of `label_names`."""
    known = {
        "colour": world.colours,
        "shape": world.shapes,
        "size": len(SIZES),
        "texture": world.textures,
        "count": world.objects,
        "relation": len(world.relations),
    }
    return [known[name.split(" ")[0]] for name in label_names(world)]


@cache
def held_pairs(world: Shapes) -> tuple[tuple[int, int], ...]:
    """The (colour, shape) pairs that are held out: diagonals of the table, so all of both occur."""
    more, fewer = max(world.colours, world.shapes), min(world.colours, world.shapes)
    cells = [(i % more, (i % more + i // more) % fewer) for i in range(world.held_out)]
    turned = world.shapes > world.colours
    return tuple((b, a) if turned else (a, b) for a, b in cells)


@cache
def shown_pairs(world: Shapes) -> tuple[tuple[int, int], ...]:
    """The (colour, shape) pairs of the train split."""
    held = set(held_pairs(world))
    pairs = [(c, s) for c in range(world.colours) for s in range(world.shapes)]
    return tuple(pair for pair in pairs if pair not in held)


@dataclass(frozen=True)
class Scenes:
    """Scenes as arrays; what a caption says is in `labels`, all else is free."""

    world: Shapes
    labels: Integers  # (n, factors), in the order of `label_names`
    colour: Integers  # (n, objects), as all that follow up to texture
    shape: Integers
    size: Integers
    texture: Integers
    relation: Integers  # (n, objects - 1): place in world.relations; 0 where there is none
    count: Integers  # (n,): how many of the objects are there
    x: Floats  # (n, objects): of the centres
    y: Floats
    radius: Floats  # (n, objects): half the side of a square around the shape
    velocity: Floats  # (n, objects, 2): sides a unit of time, for videos
    background: Floats  # (n, 9): two colours, and direction and phase of what lies between them
    phrasing: Integers  # (n,)
    key: npt.NDArray[np.uint64]  # (n,): of the noise and the blur

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> "Scenes":
        """A selection of the scenes: a slice, a mask or an array of indices."""
        rest = {
            f.name: getattr(self, f.name)[rows]
            for f in dataclasses.fields(self)
            if f.name != "world"
        }
        return dataclasses.replace(self, **rest)


def checked_labels(world: Shapes, labels: npt.ArrayLike) -> Integers:
    """Labels as an array (n, factors); WrongUse where one is outside its range."""
    labels_given = np.asarray(labels)
    sizes = label_sizes(world)
    if (
        labels_given.ndim != 2
        or labels_given.shape[1] != len(sizes)
        or labels_given.dtype.kind not in "iu"
    ):
        raise WrongUse(
            f"labels have shape {labels_given.shape}: use whole numbers of shape (n, {len(sizes)})"
        )
    wrong = (labels_given < 0) | (labels_given >= np.array(sizes))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise WrongUse(
            f"label {label_names(world)[column]} is {labels_given[row, column]}: use 0 to {sizes[column] - 1}"
        )
    return np.ascontiguousarray(labels_given, np.int64)
