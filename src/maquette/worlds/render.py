"""Pictures of scenes, with the truth of every pixel: instance masks and boxes.

Each shape is its signed distance d to the edge, negative inside (the formulas of Quilez's catalogue,
https://iquilezles.org/articles/distfunctions2d), and covers a pixel by 1/2 - d in pixels, kept within
0 and 1: edges are smooth over one pixel at every size. Sizes are 8 to 256 pixels.
"""

import math

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse
from maquette.base.jit import jit
from maquette.worlds.draw import GOLDEN, INSIDE, mix
from maquette.worlds.shapes import BACKGROUNDS, RELATIONS, Floats, Integers, Scenes

LEAST, MOST = 8, 256  # pixels a side
Pictures = npt.NDArray[np.uint8]
PAINTS = np.array(
    [
        (0.90, 0.10, 0.10),  # red
        (0.10, 0.70, 0.15),  # green
        (0.10, 0.20, 0.90),  # blue
        (0.95, 0.90, 0.10),  # yellow
        (0.85, 0.10, 0.80),  # magenta
        (0.10, 0.85, 0.90),  # cyan
        (1.00, 0.55, 0.05),  # orange
        (1.00, 1.00, 1.00),  # white
    ],
    np.float32,
)
HALO = 0.025  # of background around a shape that is inside another one
DARK = 0.45  # of the colour, between stripes and in dots
SQUARE, BAR, RING, STAR = 0.86, 0.34, (0.74, 0.26), 0.45
BOXES = np.array(  # left, top, right and bottom of each shape, in radii
    [
        (-1.0, -1.0, 1.0, 1.0),
        (-0.86, -0.86, 0.86, 0.86),
        (-1.0, -0.9, 1.0, 0.9),
        (-1.0, -1.0, 1.0, 1.0),
        (-0.9511, -1.0, 0.9511, 0.809),
        (-1.0, -1.0, 1.0, 1.0),
        (-1.0, -1.0, 1.0, 1.0),
        (-1.0001, -0.9289, 1.0001, 0.8998),
    ]
)
SQRT2 = math.sqrt(2)
SLOPE = math.sqrt(1.8**2 + 1)  # of a triangle 2 wide and 1.8 high
C36, S36 = math.cos(math.pi / 5), math.sin(math.pi / 5)
C18, S18 = math.cos(math.pi / 10), math.sin(math.pi / 10)


@jit
def _bar(x: float, y: float, a: float, b: float) -> float:
    """Distance to a box of half sides a and b."""
    dx, dy = abs(x) - a, abs(y) - b
    if dx > 0 and dy > 0:
        return math.sqrt(dx * dx + dy * dy)
    return max(dx, dy)


@jit
def _star(x: float, y: float) -> float:
    """Distance to a five-pointed star of radius 1, a point upwards; y up."""
    x = abs(x)
    t = 2 * max(C36 * x - S36 * y, 0.0)
    x, y = x - t * C36, y + t * S36
    t = 2 * max(-C36 * x - S36 * y, 0.0)
    x, y = abs(x + t * C36), y + t * S36
    y -= 1.0
    bx, by = STAR * S36, STAR * C36 - 1.0
    h = min(max((x * bx + y * by) / (bx * bx + by * by), 0.0), 1.0)
    d = math.sqrt((x - bx * h) ** 2 + (y - by * h) ** 2)
    return d if y * bx - x * by > 0 else -d


@jit
def _heart(x: float, y: float) -> float:
    """Distance to a heart whose tip is (0, 0) and whose lobes end at height 1.1; y up."""
    x = abs(x)
    if y + x > 1.0:
        return math.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - SQRT2 / 4
    low = 0.5 * max(x + y, 0.0)
    d = min(x * x + (y - 1.0) ** 2, (x - low) ** 2 + (y - low) ** 2)
    return math.sqrt(d) if x > y else -math.sqrt(d)


@jit
def distance(shape: int, x: float, y: float, r: float) -> float:
    """Signed distance from (x, y), y down, to the edge of a shape of radius r around (0, 0)."""
    if shape == 0:
        return math.sqrt(x * x + y * y) - r
    if shape == 1:
        return _bar(x, y, SQUARE * r, SQUARE * r)
    if shape == 2:  # the nearest of three lines: too short outside the corners, which round nothing
        return max((1.8 * abs(x) - y - 0.9 * r) / SLOPE, y - 0.9 * r)
    if shape == 3:
        return min(_bar(x, y, r, BAR * r), _bar(x, y, BAR * r, r))
    if shape == 4:
        return _star(x / r, -y / r) * r
    if shape == 5:
        return abs(math.sqrt(x * x + y * y) - RING[0] * r) - RING[1] * r
    if shape == 6:
        return (abs(x) + abs(y) - r) / SQRT2
    scale = 1.657 * r  # a heart is 1.207 wide and 1.104 high before it is scaled
    return _heart(x / scale, 0.543 - y / scale) * scale


@jit
def shade(texture: int, x: float, y: float, r: float, pixel: float) -> float:
    """Darkness of a shape's texture at a point, 0 to 1."""
    if texture == 0:
        return 0.0
    period = 0.62 * r
    if texture == 1:
        u = abs((y + 0.25 * period) / period - math.floor((y + 0.25 * period) / period + 0.5))
        d = (u - 0.25) * period
    else:
        u = x / period - math.floor(x / period + 0.5)
        v = y / period - math.floor(y / period + 0.5)
        d = (math.sqrt(u * u + v * v) - 0.3) * period
    return min(max(0.5 - d / pixel, 0.0), 1.0)


@jit
def _at(background: Floats, kind: int, x: float, y: float, channel: int) -> float:
    """The background's level at a point."""
    a, b = float(background[channel]), float(background[channel + 3])
    if kind < 2:
        return a
    fx, fy, phase = background[6], background[7], background[8]
    t: float = 0.5
    if kind == 2:
        t += fx * (x - 0.5) + fy * (y - 0.5)
    else:
        u, v = 6 + 4 * fx, 6 + 4 * fy
        wave = math.sin(u * 2 * x + v * y + 7 * phase) + math.sin(v * 2 * y - u * x + 5 * phase)
        t += 0.25 * wave
    return a + (b - a) * min(max(t, 0.0), 1.0)


@jit
def span(centre: float, radius: float, image_size: int) -> tuple[int, int]:
    """The pixels along one axis that a shape may cover."""
    low = math.floor((centre - radius) * image_size - 1)
    high = math.ceil((centre + radius) * image_size + 1)
    return max(0, low), min(image_size, high)


@jit
def _fill(picture: Pictures, background: Floats, kind: int) -> None:
    image_size = picture.shape[0]
    if kind == 0:
        picture[:] = np.uint8(background[0] * 255 + 0.5)
        return
    for i in range(image_size):
        for j in range(image_size):
            for c in range(3):
                level = _at(background, kind, (j + 0.5) / image_size, (i + 0.5) / image_size, c)
                picture[i, j, c] = np.uint8(level * 255 + 0.5)


@jit
def _paint(
    picture: Pictures,
    shape: int,
    paint: npt.NDArray[np.float32],
    texture: int,
    cx: float,
    cy: float,
    radius: float,
    grow: float,
    background: Floats,
    kind: int,
) -> None:
    """Draw one shape; with `grow` above 0 the background, so much beyond the shape's edge."""
    image_size = picture.shape[0]
    pixel = 1.0 / image_size
    top, bottom = span(cy, radius + grow, image_size)
    left, right = span(cx, radius + grow, image_size)
    for i in range(top, bottom):
        y = (i + 0.5) * pixel - cy
        for j in range(left, right):
            x = (j + 0.5) * pixel - cx
            cover = 0.5 - (distance(shape, x, y, radius) - grow) * image_size
            if cover <= 0:
                continue
            cover = min(cover, 1.0)
            dark = 1.0 - (1.0 - DARK) * shade(texture, x, y, radius, pixel)
            for c in range(3):
                level = paint[c] * dark
                if grow > 0:
                    level = _at(background, kind, x + cx, y + cy, c)
                old = np.float64(picture[i, j, c])
                picture[i, j, c] = np.uint8(old + (level * 255 - old) * cover + 0.5)


@jit
def _uniform(key: np.uint64, index: int) -> float:
    h: np.uint64 = mix(key + np.uint64(index) * GOLDEN)
    return float(h >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@jit
def _blurred(picture: Pictures, variance: float) -> None:
    """A Gaussian blur of that variance in pixels: passes of (w, 1 - 2w, w), each of variance 2w."""
    image_size = picture.shape[0]
    passes = np.int64(math.ceil(variance * 2))
    w = variance / (2 * passes)
    now = picture.astype(np.float32)
    after = now.copy()
    for _ in range(passes):
        for i in range(image_size):
            above, under = max(i - 1, 0), min(i + 1, image_size - 1)
            for j in range(image_size):
                for c in range(3):
                    after[i, j, c] = (1 - 2 * w) * now[i, j, c] + w * (
                        now[above, j, c] + now[under, j, c]
                    )
        for i in range(image_size):
            for j in range(image_size):
                before, behind = max(j - 1, 0), min(j + 1, image_size - 1)
                for c in range(3):
                    now[i, j, c] = (1 - 2 * w) * after[i, j, c] + w * (
                        after[i, before, c] + after[i, behind, c]
                    )
    for i in range(image_size):
        for j in range(image_size):
            for c in range(3):
                picture[i, j, c] = np.uint8(now[i, j, c] + 0.5)


@jit
def _noisy(picture: Pictures, key: np.uint64, amount: float) -> None:
    """Add noise of standard deviation `amount` x 255: the sum of four uniform numbers, scaled."""
    flat = picture.reshape(-1)
    mask = np.uint64(0xFFFF)
    for p in range(len(flat)):
        h = mix(key + np.uint64(p + 16) * GOLDEN)
        total = (h & mask) + ((h >> np.uint64(16)) & mask) + ((h >> np.uint64(32)) & mask)
        total += h >> np.uint64(48)
        normal = (np.float64(total) / 65536.0 - 2.0) * 1.7320508  # the sum's variance is 1/3
        flat[p] = np.uint8(min(max(flat[p] + normal * amount * 255 + 0.5, 0.0), 255.0))


@jit
def _render(
    out: Pictures,
    paints: npt.NDArray[np.float32],
    colour: Integers,
    shape: Integers,
    texture: Integers,
    inner: npt.NDArray[np.bool_],
    count: Integers,
    x: Floats,
    y: Floats,
    radius: Floats,
    background: Floats,
    kind: int,
    key: npt.NDArray[np.uint64],
    noise: float,
    blur: float,
) -> None:
    for n in range(len(out)):
        _fill(out[n], background[n], kind)
        for k in range(count[n] - 1, -1, -1):  # the first is on top
            paint = paints[colour[n, k]]
            position = (x[n, k], y[n, k], radius[n, k])
            if k == 0 and inner[n]:
                _paint(out[n], shape[n, k], paint, 0, *position, HALO, background[n], kind)
            _paint(out[n], shape[n, k], paint, texture[n, k], *position, 0.0, background[n], kind)
        deviation = blur * _uniform(key[n], 1)
        if deviation > 0:
            _blurred(out[n], deviation * deviation)
        amount = noise * _uniform(key[n], 2)
        if amount > 0:
            _noisy(out[n], key[n], amount)


@jit
def _masks(
    out: Pictures,
    shape: Integers,
    inner: npt.NDArray[np.bool_],
    count: Integers,
    x: Floats,
    y: Floats,
    radius: Floats,
) -> None:
    """Fill instance masks: a shape has the pixels that it covers by half; its halo is background."""
    image_size = out.shape[1]
    for n in range(len(out)):
        for k in range(count[n] - 1, -1, -1):
            halo = HALO if k == 0 and inner[n] else 0.0
            top, bottom = span(y[n, k], radius[n, k] + halo, image_size)
            left, right = span(x[n, k], radius[n, k] + halo, image_size)
            for i in range(top, bottom):
                for j in range(left, right):
                    dx, dy = (j + 0.5) / image_size - x[n, k], (i + 0.5) / image_size - y[n, k]
                    d = distance(shape[n, k], dx, dy, radius[n, k])
                    if d <= 0:
                        out[n, i, j] = k + 1
                    elif d <= halo:
                        out[n, i, j] = 0


def render(scenes: Scenes, image_size: int = 32) -> Pictures:
    """The pictures of scenes: uint8 (n, height, width, 3), red, green, blue.

    Raises WrongUse for an image size outside 8 to 256.
    """
    out = np.empty((len(scenes), _checked(image_size), image_size, 3), np.uint8)
    world = scenes.world
    _render(
        out, PAINTS, scenes.colour, scenes.shape, scenes.texture, inner(scenes), scenes.count,
        scenes.x, scenes.y, scenes.radius, scenes.background, BACKGROUNDS.index(world.backgrounds),
        scenes.key, world.noise, world.blur,
    )  # fmt: skip
    return out


def masks(scenes: Scenes, image_size: int = 32) -> Pictures:
    """Instance segments (n, height, width) uint8: 0 the background, 1 the first shape, 2 the second ...

    A pixel belongs to the topmost shape that covers at least half of it.
    """
    out = np.zeros((len(scenes), _checked(image_size), image_size), np.uint8)
    _masks(
        out, scenes.shape, inner(scenes), scenes.count, scenes.x, scenes.y, scenes.radius,
    )  # fmt: skip
    return out


def boxes(scenes: Scenes) -> Floats:
    """The box around each shape: (n, objects, 4), left, top, right, bottom as fractions of the side.

    Where a scene has fewer shapes than its world may have, the rest are zeros.
    """
    centre = np.stack([scenes.x, scenes.y, scenes.x, scenes.y], -1)
    out: Floats = centre + BOXES[scenes.shape] * scenes.radius[..., None]
    there = np.arange(scenes.x.shape[1])[None] < scenes.count[:, None]
    return out * there[..., None]


def inner(scenes: Scenes) -> npt.NDArray[np.bool_]:
    """Whether the first shape is inside the second, (n,)."""
    world = scenes.world
    if world.counts or RELATIONS[INSIDE] not in world.relations:
        return np.zeros(len(scenes), np.bool_)
    return np.equal(scenes.relation[:, 0], world.relations.index("inside"))


def _checked(image_size: int) -> int:
    if not LEAST <= image_size <= MOST:
        raise WrongUse(f"image_size is {image_size}: use {LEAST} to {MOST}")
    return image_size
