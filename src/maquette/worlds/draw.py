"""Drawing scenes: every number is a hash of (seed, split, index, place), so order does not matter.

A picture has three streams of SplitMix64 (Steele et al. 2014): what it shows, where that stands, and
how it looks. Places are drawn until they fit: everything is inside the picture, squares around the
shapes keep `GAP` apart, and relations hold by `MARGIN`.
"""

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse, did_you_mean
from maquette.base.jit import jit
from maquette.worlds.shapes import (
    BACKGROUNDS,
    MARGIN,
    RADII,
    RELATIONS,
    SPLITS,
    WORLD_VERSION,
    Floats,
    Integers,
    Scenes,
    Shapes,
    checked_labels,
    held_pairs,
    label_sizes,
    shown_pairs,
)

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
BORDER, GAP = 0.02, 0.05  # to the picture's edge and between shapes
TRIES = 50  # then all shapes shrink by a twentieth: no setting can loop for ever
OUTER = (0.26, 0.36)  # radius of a shape with another one inside
INNER = 0.62  # radius of that one, over the radius of a circle in the outer shape
ROOM = np.array([1.0, 0.86, 0.62, 0.62, 0.5, 0.52, 0.7, 0.62])  # the circle's, over the shape's own
BELOW = np.array([0.0, 0.0, 0.25, 0.0, 0.06, 0.0, 0.0, -0.1])  # how far down its centre is
LEVELS = (0.2, 0.6)  # of backgrounds
SPEED = 0.06  # sides a unit of time, at most, along each axis
INSIDE = RELATIONS.index("inside")


@jit
def mix(h: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@jit
def uniform(state: npt.NDArray[np.uint64], stream: int) -> float:
    """The next number of a stream in [0, 1)."""
    state[stream] += GOLDEN
    return np.float64(mix(state[stream]) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit
def below(state: npt.NDArray[np.uint64], stream: int, n: int) -> int:
    """The next number of a stream in 0 ... n - 1."""
    return int(uniform(state, stream) * n)


@jit
def _apart(x: Floats, y: Floats, radius: Floats, count: int) -> bool:
    """Whether the squares around the shapes keep their distance."""
    for i in range(count):
        for j in range(i + 1, count):
            if max(abs(x[j] - x[i]), abs(y[j] - y[i])) < radius[i] + radius[j] + GAP:
                return False
    return True


@jit
def _between(state: npt.NDArray[np.uint64], low: float, high: float) -> float:
    """The next number of the stream of places, in [low, high)."""
    return low + (high - low) * uniform(state, 1)


@jit
def _row(state: npt.NDArray[np.uint64], positions: Floats, codes: Integers) -> bool:
    """Place each shape after the one before it, with room for those to come; False where none is.

    positions: (objects, 3), x, y and radius. codes: (objects - 1,), the relation of each to the next.
    """
    objects = len(positions)
    end = np.empty((objects, 2))  # the furthest right and down that a shape may stand
    for i in range(objects - 1, -1, -1):
        for axis in range(2):
            end[i, axis] = 1 - BORDER - positions[i, 2]
            if i < objects - 1:
                step = positions[i, 2] + positions[i + 1, 2] + GAP if codes[i] == axis else 0.0
                end[i, axis] = min(end[i, axis], end[i + 1, axis] - step)
    for i in range(objects):
        edge = BORDER + positions[i, 2]
        if i == 0:
            for axis in range(2):
                if end[i, axis] < edge:
                    return False
                positions[i, axis] = _between(state, edge, end[i, axis])
            continue
        axis = codes[i - 1]
        low = max(edge, positions[i - 1, axis] + positions[i - 1, 2] + positions[i, 2] + GAP)
        if end[i, axis] < low:
            return False
        positions[i, axis] = _between(state, low, end[i, axis])
        reach = positions[i, axis] - positions[i - 1, axis] - MARGIN
        across = 1 - axis
        low = max(edge, positions[i - 1, across] - reach)
        high = min(end[i, across], positions[i - 1, across] + reach)
        if high < low:
            return False
        positions[i, across] = _between(state, low, high)
    return True


@jit
def _scatter(state: npt.NDArray[np.uint64], positions: Floats) -> None:
    """Place each shape anywhere in the picture."""
    for i in range(len(positions)):
        edge = BORDER + positions[i, 2]
        for axis in range(2):
            positions[i, axis] = _between(state, edge, 1 - edge)


@jit
def _draw(
    key: np.uint64,
    indices: Integers,
    fixed: bool,
    counted: bool,
    first: Integers,
    rest: Integers,
    sizes: int,
    textures: int,
    codes: Integers,
    ranges: Floats,
    kind: int,
    phrasings: int,
    attributes: Integers,  # (n, objects, 4): colour, shape, size, texture
    relation: Integers,
    count: Integers,
    positions: Floats,  # (n, objects, 3): x, y, radius
    velocity: Floats,
    background: Floats,
    phrasing: Integers,
    keys: npt.NDArray[np.uint64],
) -> None:
    objects = attributes.shape[1]
    state = np.empty(3, np.uint64)
    for n in range(len(indices)):
        own = mix(key + (np.uint64(indices[n]) + np.uint64(1)) * GOLDEN)
        for s in range(3):
            state[s] = mix(own + np.uint64(s + 1))
        keys[n] = mix(own + np.uint64(4))
        if not fixed:
            count[n] = 1 + below(state, 0, objects) if counted else objects
            for i in range(objects):
                source = first if i == 0 else rest
                pair = source[below(state, 0, len(source))]
                attributes[n, i, 0], attributes[n, i, 1] = pair[0], pair[1]
                attributes[n, i, 2] = below(state, 0, sizes)
                attributes[n, i, 3] = below(state, 0, textures)
                if counted and i:
                    attributes[n, i] = attributes[n, 0]
            for i in range(objects - 1):
                relation[n, i] = 0 if counted else below(state, 0, len(codes))
        own_place = positions[n]
        x, y, radius = own_place[:, 0], own_place[:, 1], own_place[:, 2]
        linked = not counted
        inside = linked and objects == 2 and codes[relation[n, 0]] == INSIDE
        for i in range(objects):
            low, high = ranges[attributes[n, i, 2]]
            radius[i] = low + (high - low) * uniform(state, 1)
        if inside:
            radius[1] = OUTER[0] + (OUTER[1] - OUTER[0]) * uniform(state, 1)
        tries = 0
        while True:
            if linked and not inside:
                fits = _row(state, own_place, codes[relation[n]])
            else:
                _scatter(state, own_place)
                fits = True
            if fits and (inside or _apart(x, y, radius, count[n])):
                break
            tries += 1
            if tries % TRIES == 0:
                for i in range(objects):
                    radius[i] *= 0.95
        if inside:
            hole = radius[1] * ROOM[attributes[n, 1, 1]]
            radius[0] = hole * INNER * (0.9 + 0.1 * uniform(state, 1))
            slack = 0.15 * (hole - radius[0])
            x[0] = x[1] + slack * (2 * uniform(state, 1) - 1)
            y[0] = (
                y[1] + radius[1] * BELOW[attributes[n, 1, 1]] + slack * (2 * uniform(state, 1) - 1)
            )
        for c in range(6):
            background[n, c] = LEVELS[0] + (LEVELS[1] - LEVELS[0]) * uniform(state, 2)
        for c in range(6, 9):
            background[n, c] = 2 * uniform(state, 2) - 1
        if kind == 0:
            background[n, 1] = background[n, 0]
            background[n, 2] = background[n, 0]
        phrasing[n] = below(state, 2, phrasings)
        for i in range(objects):
            for axis in range(2):
                velocity[n, i, axis] = SPEED * (2 * uniform(state, 2) - 1)


def scenes(
    world: Shapes,
    seed: int,
    indices: npt.ArrayLike,
    split: str = "train",
    labels: npt.ArrayLike | None = None,
) -> Scenes:
    """Scenes number `indices` of a seed.

    indices: (n,) whole numbers from 0 on, without a last one.
    split: train or heldout. They share no scene.
    labels: (n, factors), what the scenes shall show, pairs of colour and shape that are held out
        too; drawn where it is None. All else is drawn as ever.

    Raises WrongUse for an unknown split or labels that this world lacks.
    """
    if split not in SPLITS:
        raise WrongUse(f"unknown split {split}{did_you_mean(split, SPLITS)}")
    positions = np.ascontiguousarray(indices, np.int64).reshape(-1)
    if len(positions) and positions.min() < 0:
        raise WrongUse(f"a scene has no number {positions.min()}: use 0 and more")
    fixed = None if labels is None else checked_labels(world, labels)
    if fixed is not None and len(fixed) != len(positions):
        raise WrongUse(f"{len(fixed)} rows of labels for {len(positions)} scenes: give as many")
    return _scenes(world, seed, positions, SPLITS.index(split), fixed)


def _scenes(
    world: Shapes, seed: int, indices: Integers, split: int, labels: Integers | None
) -> Scenes:
    """The scenes of checked arguments; see `scenes`."""
    n, objects = len(indices), world.objects
    key = _key(seed, split)
    attributes = np.zeros((n, objects, 4), np.int64)
    relation = np.zeros((n, max(0, objects - 1)), np.int64)
    count = np.full(n, objects, np.int64)
    if labels is not None:
        _fill(world, labels, attributes, relation, count)
    positions = np.zeros((n, objects, 3))
    velocity, background = np.zeros((n, objects, 2)), np.zeros((n, 9))
    phrasing, keys = np.zeros(n, np.int64), np.zeros(n, np.uint64)
    rest = np.array(shown_pairs(world) if split == 0 else _all_pairs(world), np.int64)
    first = np.array(held_pairs(world), np.int64) if split and world.held_out else rest
    low, high = RADII[objects - 1]
    third = (high - low) / 3  # small and large leave a third between them
    ranges = [(low, low + third), (high - third, high)] if world.sizes else [(low, high)]
    codes = np.array([RELATIONS.index(name) for name in world.relations], np.int64)
    _draw(
        key, indices, labels is not None, world.counts, first, rest, len(ranges), world.textures,
        codes, np.array(ranges), BACKGROUNDS.index(world.backgrounds), world.phrasings,
        attributes, relation, count, positions, velocity, background, phrasing, keys,
    )  # fmt: skip
    if labels is None:
        labels = _labels(world, attributes, relation, count)
    colour, shape, size, texture = (np.ascontiguousarray(attributes[:, :, i]) for i in range(4))
    x, y, radius = (np.ascontiguousarray(positions[:, :, i]) for i in range(3))
    return Scenes(
        world, labels, colour, shape, size, texture, relation, count, x, y, radius,
        velocity, background, phrasing, keys,
    )  # fmt: skip


def _key(seed: int, split: int) -> np.uint64:
    """A key of the seed, the split and the version of the drawing."""
    with np.errstate(over="ignore"):
        h = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        for part in (split, WORLD_VERSION):
            h = np.uint64(mix(h + np.uint64(part + 1) * GOLDEN))
        return h


def _all_pairs(world: Shapes) -> list[tuple[int, int]]:
    return [(c, s) for c in range(world.colours) for s in range(world.shapes)]


def _columns(world: Shapes) -> list[int]:
    """Indices of the attributes (colour, shape, size, texture) that are labels."""
    return [0, 1] + [2] * world.sizes + [3] * (world.textures > 1)


def _labels(world: Shapes, attributes: Integers, relation: Integers, count: Integers) -> Integers:
    shown = 1 if world.counts else world.objects
    columns = _columns(world)
    parts = [attributes[:, :shown, columns].reshape(len(attributes), shown * len(columns))]
    parts += [count[:, None] - 1] if world.counts else [relation]
    return np.ascontiguousarray(np.concatenate(parts, 1))


def _fill(
    world: Shapes, labels: Integers, attributes: Integers, relation: Integers, count: Integers
) -> None:
    """The inverse of `_labels`."""
    columns = _columns(world)
    shown = 1 if world.counts else world.objects
    assert labels.shape[1] == len(label_sizes(world))
    each = labels[:, : shown * len(columns)].reshape(len(labels), shown, len(columns))
    attributes[:, :, columns] = each  # one row for all where they are counted
    if world.counts:
        count[:] = labels[:, -1] + 1
    else:
        relation[:] = labels[:, shown * len(columns) :]
