"""Cratered disks on black, of which a share shows one fixed face: the Moon, always the same side.

A picture is a disk whose place, radius and brightness are drawn anew, and on it a texture: a list of
craters in the disk's own coordinates, a dark bowl with a bright rim each. With probability
`memorised` the list is the Moon's, which is one list for the whole world; otherwise it is drawn anew.
The Moon is tidally locked and shows every camera the same face (section "fake moon" of the
super-resolution system): what a network learns of it is the face, where it should learn what the lens
did. `detail` is the crater map alone, which no photograph gives.

Everything is a function of (world, seed, index, split) by the hash of `draw`, so that any process
makes any picture alone. Left out: maria, phases, libration, colour.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse, within
from maquette.base.jit import jit
from maquette.worlds.draw import GOLDEN, mix
from maquette.worlds.registry import Pixels, World, WorldSettings, register

VERSION = 1
"""version of the pictures: raised when the same settings give others"""
Split = Literal["train", "heldout"]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
PLACE, RADIUS, BRIGHTNESS, WHICH, CRATERS = 0, 2, 3, 4, 8  # which draws of an index make what


@dataclass(frozen=True, kw_only=True)
class Moon(WorldSettings):
    """The settings of the world."""

    memorised: float = 0.4
    """fraction of the pictures that show the fixed face; 0 for the control"""
    craters: int = 120
    """number of craters of a texture"""
    depth: float = 0.5
    """largest depth of a crater: its floor is darker than the disk by this fraction"""

    def __post_init__(self) -> None:
        within(self, 0, 1, "memorised", "depth")
        within(self, 1, 1000, "craters")


@dataclass(frozen=True)
class Disks:
    """Scenes of the world, n of them.

    geometry: (n, 4) centre x, y and radius as fractions of the picture's side, and brightness.
    craters: (n, craters, 4) centre x, y and radius in units of the disk's radius, and depth.
    moon: (n,) whether the texture is the fixed one.
    """

    geometry: Floats
    craters: Floats
    moon: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.geometry)

    def with_texture(self, craters: Floats) -> "Disks":
        """The same disks with other craters: (craters, 4) for all, or (n, craters, 4)."""
        shape = (len(self), *craters.shape[-2:])
        nothing = np.zeros(len(self), bool)
        return replace(self, craters=np.broadcast_to(craters, shape).copy(), moon=nothing)


def disks(world: Moon, seed: int, indices: Indices, split: Split = "train") -> Disks:
    """The scenes of `indices`; the two splits share no draw, and the Moon is the same in both."""
    draws = _uniform(seed, indices, PLACE, CRATERS, split == "heldout")
    geometry = np.stack(
        [
            0.5 + 0.06 * (draws[:, PLACE] - 0.5),
            0.5 + 0.06 * (draws[:, PLACE + 1] - 0.5),
            0.40 + 0.04 * draws[:, RADIUS],
            0.45 + 0.3 * draws[:, BRIGHTNESS],
        ],
        axis=1,
    )
    moon = draws[:, WHICH] < world.memorised
    craters = textures(world, seed, indices, split)
    craters[moon] = face(world)
    return Disks(geometry, craters, moon)


def textures(world: Moon, seed: int, indices: Indices, split: Split = "train") -> Floats:
    """A texture of its own for every index: (n, craters, 4), see `Disks`."""
    draws = _uniform(seed, indices, CRATERS, 4 * world.craters, split == "heldout")
    return _craters(draws.reshape(len(indices), world.craters, 4), world.depth)


def face(world: Moon) -> Floats:
    """The Moon's own craters (craters, 4): the same for every seed and split."""
    draws = _uniform(0x4D6F6F6E, np.zeros(1, np.int64), CRATERS, 4 * world.craters, False)
    return _craters(draws.reshape(world.craters, 4), world.depth)


def render(scenes: Disks, image_size: int) -> Pixels:
    """(n, height, width, 3) uint8, grey in three channels."""
    light = plain(scenes, image_size) * (1 + detail(scenes, image_size))
    grey = np.clip(np.rint(255 * light), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def plain(scenes: Disks, image_size: int) -> Floats:
    """The disks without craters, (n, height, width) in [0, 1]: darker to the edge, which is smooth."""
    distance = np.sqrt(_distance(scenes, image_size))
    radius = scenes.geometry[:, 2, None, None]
    edge = np.clip((1 - distance) * radius * image_size + 0.5, 0, 1)  # one pixel wide
    limb = 0.7 + 0.3 * np.sqrt(np.maximum(0, 1 - distance**2))
    light: Floats = scenes.geometry[:, 3, None, None] * limb * edge
    return light


def detail(scenes: Disks, image_size: int) -> Floats:
    """The crater map (n, height, width): relative change of each pixel's light."""
    out = np.zeros((len(scenes), image_size, image_size))
    _stamp(out, scenes.geometry, scenes.craters)
    return out


def inside(scenes: Disks, image_size: int, part: float = 0.9) -> npt.NDArray[np.bool_]:
    """Pixels (n, height, width) within that part of the disk's radius."""
    return _distance(scenes, image_size) < part**2


def pictures(
    world: Moon, seed: int, indices: Indices, split: Split = "train", image_size: int = 64
) -> Pixels:
    """The rendered pictures of `indices`: (n, height, width, 3) uint8."""
    if image_size < 8:
        raise WrongUse(f"image_size is {image_size}: a disk with craters needs at least 8 pixels")
    return render(disks(world, seed, np.asarray(indices, np.int64), split), image_size)


@register
class MoonWorld(World[Moon]):
    """Disks without captions and labels."""

    name = "moon"
    version = VERSION
    settings_class = Moon

    def pictures(self, seed: int, indices: Indices, split: str, image_size: int) -> Pixels:
        return pictures(self.settings, seed, indices, split, image_size)  # type: ignore[arg-type]


def _distance(scenes: Disks, image_size: int) -> Floats:
    """Squared distance of every pixel's centre from the disk's, in radii: (n, height, width)."""
    at = (np.arange(image_size) + 0.5) / image_size
    x, y, radius = (scenes.geometry[:, i, None, None] for i in range(3))
    squared: Floats = ((at[None, None, :] - x) ** 2 + (at[None, :, None] - y) ** 2) / radius**2
    return squared


def _craters(draws: Floats, depth: float) -> Floats:
    """(..., 4) uniform numbers as craters: spread evenly over the disk, more small than large."""
    angle, out = 2 * np.pi * draws[..., 0], 0.95 * np.sqrt(draws[..., 1])
    radius = 0.042 + 0.075 * draws[..., 2] ** 2
    return np.stack(
        [out * np.cos(angle), out * np.sin(angle), radius, depth * (0.5 + 0.5 * draws[..., 3])],
        axis=-1,
    )


@jit
def _stamp(out: Floats, disks: Floats, craters: Floats) -> None:
    """Add a bowl and a rim for every crater to `out` (n, height, width)."""
    image_size = out.shape[1]
    for n in range(out.shape[0]):
        scale = disks[n, 2] * image_size
        for c in range(craters.shape[1]):
            r = craters[n, c, 2] * scale
            x = disks[n, 0] * image_size + craters[n, c, 0] * scale - 0.5
            y = disks[n, 1] * image_size + craters[n, c, 1] * scale - 0.5
            reach = 1.6 * r + 1
            for i in range(max(0, int(y - reach)), min(image_size, int(y + reach) + 2)):
                for j in range(max(0, int(x - reach)), min(image_size, int(x + reach) + 2)):
                    d = np.sqrt((i - y) ** 2 + (j - x) ** 2) / r
                    bowl = -max(0.0, 1 - d * d)
                    rim = 0.6 * np.exp(-(((d - 1.1) / 0.25) ** 2))
                    out[n, i, j] += craters[n, c, 3] * (bowl + rim)


@jit
def _uniform(seed: int, indices: Indices, first: int, count: int, heldout: bool) -> Floats:
    """Numbers in [0, 1), (n, count): each a hash of (seed, split, index, its place from `first`)."""
    out = np.empty((len(indices), count))
    root = mix(mix(np.uint64(seed) + GOLDEN) + np.uint64(heldout) + GOLDEN)
    for n in range(len(indices)):
        row = mix(root + np.uint64(indices[n]) * GOLDEN)
        for i in range(count):
            number = mix(row + np.uint64(first + i + 1) * GOLDEN)
            out[n, i] = np.float64(number >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return out
