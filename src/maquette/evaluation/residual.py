"""Render residual: the difference between a picture and the best-fitting scene.

Given the labels that a picture should show, the free factors (places, sizes, the background's level)
are fitted so that the scene's rendering comes nearest, and the distance of that rendering is the
residual, as a peak signal-to-noise ratio. A network that reads labels is lenient on blur and on odd
shapes; the residual is not. The fitted factors also tell how various pictures of one caption are.

The fit is a search, not a descent: places on a grid for each shape, the row of places with the
largest gain in which the relations hold (Viterbi 1967), then smaller and smaller steps. It is for
worlds of grey backgrounds and of relations in rows: left of and above.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.base.jit import jit
from maquette.worlds.draw import scenes
from maquette.worlds.render import DARK, PAINTS, Pictures, distance, render, shade, span
from maquette.worlds.shapes import RADII, RELATIONS, Floats, Integers, Scenes, Shapes

GRID = 21  # places along each axis that a shape is first looked for at
FIRST, LAST = 0.024, 0.0007  # steps of the search, in sides of the picture
ROUNDS = 2  # of search, and of the background's level in between
BEYOND = (0.6, 1.4)  # radii that are tried, over those of the world
NOISE = 0.1  # on pictures in [-1, 1], whose residual is the most that a good picture may have


@dataclass(frozen=True)
class Fit:
    """The scenes that explain pictures best."""

    scenes: Scenes
    psnr: Floats  # (n,): in decibels, of the whole picture


@dataclass(frozen=True)
class Diversity:
    """Standard deviations of fitted factors, over those of the world's own scenes: 1 is as many."""

    position: float
    size: float
    background: float

    @property
    def mean(self) -> float:
        """Mean of the three."""
        return (self.position + self.size + self.background) / 3


@jit
def _gain(
    picture: Floats, level: float, paint: Floats, shape: int, texture: int, position: Floats
) -> float:
    """Reduction of the squared error when a shape is drawn on the background."""
    image_size = picture.shape[0]
    pixel = 1.0 / image_size
    cx, cy, radius = position
    top, bottom = span(cy, radius, image_size)
    left, right = span(cx, radius, image_size)
    total = 0.0
    for i in range(top, bottom):
        y = (i + 0.5) * pixel - cy
        for j in range(left, right):
            x = (j + 0.5) * pixel - cx
            cover = 0.5 - distance(shape, x, y, radius) * image_size
            if cover <= 0:
                continue
            cover = min(cover, 1.0)
            dark = 1.0 - (1.0 - DARK) * shade(texture, x, y, radius, pixel)
            for c in range(3):
                step = (paint[c] * dark - level) * cover
                total += step * (2 * (picture[i, j, c] - level) - step)
    return total


@jit
def _level(picture: Floats, shape: Integers, positions: Floats) -> float:
    """Mean level of the pixels that no shape covers."""
    image_size = picture.shape[0]
    total, count = 0.0, 0
    for i in range(image_size):
        for j in range(image_size):
            free = True
            for k in range(len(shape)):
                x, y = (
                    (j + 0.5) / image_size - positions[k, 0],
                    (i + 0.5) / image_size - positions[k, 1],
                )
                if distance(shape[k], x, y, positions[k, 2]) * image_size < 1:
                    free = False
            if free:
                for c in range(3):
                    total += picture[i, j, c]
                count += 3
    return total / count if count else picture.mean()


@jit
def _search(
    picture: Floats, level: float, paint: Floats, shape: int, texture: int, position: Floats,
    low: float, high: float, first: float, last: float,
) -> None:  # fmt: skip
    """Improve one shape's place in smaller and smaller steps along x, y and radius."""
    best = _gain(picture, level, paint, shape, texture, position)
    trial = position.copy()
    step = first
    while step > last:
        better = False
        for axis in range(3):
            for sign in (-1.0, 1.0):
                trial[:] = position
                trial[axis] += sign * step
                if axis == 2 and not low <= trial[2] <= high:
                    continue
                if axis < 2 and not 0 <= trial[axis] <= 1:
                    continue
                gain = _gain(picture, level, paint, shape, texture, trial)
                if gain > best:
                    best, better = gain, True
                    position[:] = trial
        if not better:
            step *= 0.5


@jit
def _row(gains: Floats, positions: Floats, relation: Integers, apart: float) -> Integers:
    """The index in `positions` of each shape, with the largest total gain under which the relations hold."""
    objects, count = gains.shape
    best = gains.copy()
    came = np.zeros((objects, count), np.int64)
    for k in range(1, objects):
        axis = relation[k - 1]
        for j in range(count):
            top = -np.inf
            for i in range(count):
                along = positions[j, axis] - positions[i, axis]
                across = positions[j, 1 - axis] - positions[i, 1 - axis]
                if along > max(abs(across), apart) and best[k - 1, i] > top:
                    top = best[k - 1, i]
                    came[k, j] = i
            best[k, j] = gains[k, j] + top
    chosen = np.zeros(objects, np.int64)
    chosen[-1] = np.argmax(best[-1])
    for k in range(objects - 1, 0, -1):
        chosen[k - 1] = came[k, chosen[k]]
    return chosen


@jit
def _fit(
    pictures: Floats, paints: Floats, colour: Integers, shape: Integers, texture: Integers,
    relation: Integers, low: float, high: float, out: Floats, levels: Floats,
) -> None:  # fmt: skip
    objects = colour.shape[1]
    positions = np.empty((GRID * GRID, 2))
    for i in range(GRID):
        for j in range(GRID):
            positions[i * GRID + j] = (j + 0.5) / GRID, (i + 0.5) / GRID
    gains = np.empty((objects, GRID * GRID))
    start = np.empty((objects, GRID * GRID))
    position = np.empty(3)
    for n in range(len(pictures)):
        picture = pictures[n]
        level = np.median(picture)
        for k in range(objects):
            paint = paints[colour[n, k]]
            for p in range(GRID * GRID):
                gains[k, p] = -np.inf
                for radius in (low + (high - low) / 4, high - (high - low) / 4):
                    position[:2], position[2] = positions[p], radius
                    gain = _gain(picture, level, paint, shape[n, k], texture[n, k], position)
                    if gain > gains[k, p]:
                        gains[k, p], start[k, p] = gain, radius
        chosen = _row(gains, positions, relation[n], 2 * low)
        for k in range(objects):
            out[n, k, :2] = positions[chosen[k]]
            out[n, k, 2] = start[k, chosen[k]]
        first = FIRST
        for _ in range(ROUNDS):
            for k in range(objects):
                _search(
                    picture, level, paints[colour[n, k]], shape[n, k], texture[n, k], out[n, k],
                    BEYOND[0] * low, BEYOND[1] * high, first, LAST,
                )  # fmt: skip
            level = _level(picture, shape[n], out[n])
            first = FIRST / 8
        levels[n] = level


def fit(pictures: Tensor | Pictures, labels: Tensor | npt.ArrayLike, world: Shapes) -> Fit:
    """The scenes with these labels that come nearest to pictures, and how near.

    pictures: (n, 3, height, width) in [-1, 1], or uint8 (n, height, width, 3). labels: (n, factors).
    Raises WrongUse for a world with other backgrounds than grey, counts, or the relation inside.
    """
    if world.backgrounds != "grey" or world.counts or "inside" in world.relations:
        raise WrongUse(
            "a residual is fitted to grey backgrounds and shapes in rows: use a world without "
            "other backgrounds, counts and inside"
        )
    quiet = dataclasses.replace(world, noise=0.0, blur=0.0, held_out=0)
    wanted = np.asarray(labels)
    drawn = scenes(quiet, 0, np.arange(len(wanted)), labels=wanted)
    pixels = as_pixels(pictures)
    positions, levels = np.zeros((*drawn.x.shape, 3)), np.zeros(len(drawn))
    low, high = RADII[world.objects - 1]
    codes = np.array([RELATIONS.index(name) for name in world.relations])
    _fit(
        pixels, PAINTS.astype(np.float64), drawn.colour, drawn.shape, drawn.texture,
        codes[drawn.relation], low, high, positions, levels,
    )  # fmt: skip
    background = drawn.background.copy()
    background[:, :3] = levels[:, None].clip(0, 1)
    fitted = dataclasses.replace(
        drawn,
        x=positions[..., 0],
        y=positions[..., 1],
        radius=positions[..., 2],
        background=background,
    )
    error = render(fitted, pixels.shape[1]) / 255.0 - pixels
    square = np.square(error).mean((1, 2, 3))
    return Fit(fitted, -10 * np.log10(np.maximum(square, 1e-6)))


def acceptable(world: Shapes, image_size: int = 32, n: int = 200, seed: int = 0) -> float:
    """The residual, in decibels, below which a picture is no picture of its labels.

    It is the median of the world's own pictures with white noise of standard deviation 0.1 on a
    range of [-1, 1]: what looks worse than that is not drawn as the world draws.
    """
    quiet = dataclasses.replace(world, noise=0.0, blur=0.0, held_out=0)
    drawn = scenes(quiet, seed, np.arange(n), "heldout")
    clean = render(drawn, image_size) / 127.5 - 1
    noisy = clean + NOISE * np.random.default_rng(seed).standard_normal(clean.shape)
    pixels = np.round((noisy.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return float(np.median(fit(pixels, drawn.labels, quiet).psnr))


def diversity(fitted: Scenes, seed: int = 0) -> Diversity:
    """Diversity of the free factors of scenes, relative to the world's scenes of the same labels.

    Raises WrongUse for fewer than two scenes.
    """
    n = len(fitted)
    if n < 2:
        raise WrongUse("two scenes at least have a spread: fit more pictures")
    times = max(1, 2000 // n)
    labels = np.repeat(fitted.labels, times, 0)
    own = scenes(fitted.world, seed, np.arange(n * times), labels=labels)

    def over(*names: str) -> float:
        here = [getattr(fitted, name).std(0) for name in names]
        there = [getattr(own, name).std(0) for name in names]
        return float(np.mean(np.concatenate(here) / np.concatenate(there)))

    level = fitted.background[:, 0].std() / own.background[:, 0].std()
    return Diversity(over("x", "y"), over("radius"), float(level))


def as_pixels(pictures: Tensor | Pictures) -> Floats:
    """Pictures as (n, height, width, 3) in [0, 1], contiguous; what is outside is clipped."""
    if isinstance(pictures, Tensor):
        x = pictures.detach().float().cpu().permute(0, 2, 3, 1).numpy() / 2 + 0.5
    else:
        x = pictures / np.float32(255)
    return np.ascontiguousarray(x.clip(0, 1), np.float64)
