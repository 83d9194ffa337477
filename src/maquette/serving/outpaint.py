"""A larger picture around a given one: a denoiser of small pictures on windows of a canvas.

    sliding   windows one after the other, each half over what is there already, as inpainting
    joint     all windows at once: at every step the canvas' denoised picture is the weighted mean of
              what the windows say of it

Sliding is the product of Ramesh et al. 2022 (DALL-E 2's outpainting). Joint is MultiDiffusion (Bar-Tal et
al. 2023, eq. 5), here on denoised pictures and with weights that fall smoothly to a window's edge: it takes
as many evaluations and needs no order, but a window hears of the given picture only through those between,
once a step, while its level is decided in the first steps. `systems/outpainting.py` measures that, and is
why sliding, with a solver that draws fresh noise, is what `extend` does unless told otherwise. The given
picture is put in as in `inpaint`, and is there to the bit at the end. Everything else starts from noise.
Left out: windows of several sizes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.models.diffusion.drawing import AROUND, Drawing
from maquette.models.diffusion.model import Diffusion
from maquette.nn.noise import Generators, generators
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule
from maquette.serving.inpaint import RESAMPLING, Method, Resampling, inpaint, method_for, shown
from maquette.serving.solvers import times

DenoiserOf = Callable[[Sequence[int], Tensor, Tensor], Denoiser]
"""(numbers of k windows, known pixels (k n, 3, s, s), their mask (k n, 1, s, s)) -> the windows' denoiser"""
Conditions = Mapping[str, Tensor]
"""values of conditions of n pictures, by conditioner"""
TOGETHER = 64  # pictures in a batch


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Pixels that a picture grows by on each side. Raises WrongUse where nothing grows."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        left, right, top, bottom = self.left, self.right, self.top, self.bottom
        if min(left, right, top, bottom) < 0 or left + right + top + bottom == 0:
            raise WrongUse(
                f"the picture grows by {left} left, {right} right, {top} above and {bottom} below: "
                f"use at least 0 everywhere and more on one side"
            )


@dataclass(frozen=True)
class Layout:
    """Positions of windows of `image_size` and of the given picture on a canvas (height, width).

    windows: (top, left) of each, those nearest to the picture first; none lies inside the picture.
    """

    height: int
    width: int
    image_size: int
    top: int
    left: int
    windows: tuple[tuple[int, int], ...]

    def cut(self, canvas: Tensor, which: Sequence[int]) -> Tensor:
        """(n, c, height, width) -> (k n, c, height, width), window by window."""
        return torch.cat([canvas[self.at(i)] for i in which])

    def at(self, window: int) -> tuple[slice, ...]:
        """The slices of a window on a canvas."""
        y, x = self.windows[window]
        return (
            slice(None),
            slice(None),
            slice(y, y + self.image_size),
            slice(x, x + self.image_size),
        )


def lay_out(height: int, width: int, image_size: int, sides: Sides, overlap: float = 0.5) -> Layout:
    """Windows over a picture (height, width) that grows on some sides.

    overlap: the part of a window that the next one covers too. Raises WrongUse where the canvas is
    smaller than a window.
    """
    left, right, top, bottom = sides.left, sides.right, sides.top, sides.bottom
    if not 0 < overlap < 1:
        raise WrongUse(f"overlap is {overlap}: use more than 0 and less than 1")
    tall, wide = height + top + bottom, width + left + right
    if min(tall, wide) < image_size:
        raise WrongUse(
            f"the canvas would be {tall} x {wide}: this model needs at least {image_size} x {image_size}"
        )
    stride = max(1, round(image_size * (1 - overlap)))
    rows, columns = _starts(tall, image_size, top, stride), _starts(wide, image_size, left, stride)
    near = sorted(product(rows, columns), key=lambda w: abs(w[0] - top) + abs(w[1] - left))
    needed = [  # a window inside the picture has nothing to say
        (y, x)
        for y, x in near
        if not (top <= y <= top + height - image_size and left <= x <= left + width - image_size)
    ]
    return Layout(tall, wide, image_size, top, left, tuple(needed))


def _starts(total: int, image_size: int, first: int, stride: int) -> list[int]:
    """Starts of windows on an axis: `first` and every stride from it, within the edges."""
    last = total - image_size
    steps = range(-(first // stride) - 1, (last - first) // stride + 2)
    return sorted({min(max(first + k * stride, 0), last) for k in steps})


@torch.no_grad()
def outpaint(
    denoiser: DenoiserOf,
    picture: Tensor,
    layout: Layout,
    schedule: NoiseSchedule,
    grid: Tensor,
    *,
    solver: str,
    method: Method,
    joint: bool = False,
    resampling: Resampling = RESAMPLING,
    generator: Generators = None,
) -> Tensor:
    """The canvas (n, 3, layout.height, layout.width) around pictures (n, 3, h, w) in [-1, 1].

    denoiser: makes that of some windows, see `DenoiserOf`. joint: all windows at once. grid, solver,
    method, resampling, generator: as in `inpaint`.
    """
    n, _, height, width = picture.shape
    canvas = picture.new_zeros(n, 3, layout.height, layout.width)
    known = picture.new_zeros(n, 1, layout.height, layout.width)
    inner = (..., slice(layout.top, layout.top + height), slice(layout.left, layout.left + width))
    canvas[inner], known[inner] = picture, 1

    def filled(of: Denoiser, part: Tensor, mask: Tensor) -> Tensor:
        return inpaint(
            of,
            part,
            mask,
            schedule,
            grid,
            solver=solver,
            method=method,
            resampling=resampling,
            generator=generator,
        )

    if joint:
        return filled(_joint(denoiser, layout, canvas, known), canvas, known)
    for window in range(len(layout.windows)):
        part, mask = layout.cut(canvas, [window]), layout.cut(known, [window])
        canvas[layout.at(window)] = filled(denoiser([window], part, mask), part, mask)
        known[layout.at(window)] = 1
    return canvas


def _joint(denoiser: DenoiserOf, layout: Layout, canvas: Tensor, known: Tensor) -> Denoiser:
    """The denoiser of a canvas: the mean of its windows', weighted by the distance from their edges."""
    n, count = len(canvas), len(layout.windows)
    size = max(1, TOGETHER // n)
    chunks = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
    parts = [denoiser(c, layout.cut(canvas, c), layout.cut(known, c)) for c in chunks]
    ramp = torch.hann_window(layout.image_size + 2, periodic=False, device=canvas.device)[1:-1]
    weight = ramp[:, None] * ramp[None, :]  # (height, width)
    total = canvas.new_zeros(1, 1, layout.height, layout.width)
    for window in range(count):
        total[layout.at(window)] += weight

    def denoised(x: Tensor, t: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for chunk, part in zip(chunks, parts, strict=True):
            rows = t if t.ndim == 0 else t.repeat(len(chunk))
            for window, prediction in zip(
                chunk, part(layout.cut(x, chunk), rows).split(n), strict=True
            ):
                out[layout.at(window)] += weight * prediction
        return out / total.clamp(min=1e-12)  # 0 where all is known

    return denoised


@torch.no_grad()
def extend(
    model: Diffusion,
    picture: Tensor,
    sides: Sides,
    drawing: Drawing = AROUND,
    *,
    conditions: Conditions | Sequence[Conditions] | None = None,
    joint: bool = False,
    method: Method | None = None,
    generator: Generators = None,
) -> Tensor:
    """Continue pictures (n, 3, h, w) on some sides with a trained model.

    conditions: the pictures' other conditions, as `Diffusion.condition` takes them; several: of each window
    that `lay_out` names. joint: all windows at once. method: None for "condition" where the model was
    trained to inpaint and "replace" elsewhere. generator: as in `fill`.
    """
    method = method_for(model, method, "replace")
    n, _, height, width = picture.shape
    layout = lay_out(height, width, model.config.image_size, sides)
    count = len(layout.windows)
    values = (
        [conditions or {}] * count
        if conditions is None or isinstance(conditions, Mapping)
        else list(conditions)
    )
    if len(values) != count:
        raise WrongUse(f"there are conditions of {len(values)} windows: use one, or {count}")

    def denoiser(which: Sequence[int], part: Tensor, mask: Tensor) -> Denoiser:
        joined = {
            name: torch.cat([values[window][name] for window in which]) for name in values[which[0]]
        }
        return shown(model, part, mask, drawing, joined)

    return outpaint(
        denoiser,
        picture,
        layout,
        model.process.schedule,
        times(drawing.steps, model.process.schedule),
        solver=drawing.solver,
        method=method,
        joint=joint,
        generator=generators(drawing.seed, n) if generator is None else generator,
    )
