"""Filling holes in pictures: known pixels as a wrapper around any denoiser and any solver.

    method      how known pixels reach the sample                                 source
    replace     after each step they are put in, with the noise of that step      Song et al. 2021, app. I.2
    repaint     the same, and each `jump` steps are taken `repeats` times         Lugmayr et al. 2022, alg. 1
    condition   the network was trained to see them (task "inpaint")              Nichol et al. 2022, sec. 4

Whatever the method, the sample is cut along the mask at the end, so that known pixels are the given
ones to the bit, also as uint8. A hole starts from noise; a grey one would be a picture of grey. Solvers
that draw fresh noise (ddpm) let both parts agree; those that keep theirs commit to the first steps.

`known` is (n, 1, h, w), 1 where a pixel is known (many programs' masks say the opposite). "condition"
asks for a denoiser whose condition holds the picture; `fill` makes it. Left out: soft masks, and the
gradient of the known pixels' error through the network (Chung et al. 2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from maquette.base.errors import WrongUse, within
from maquette.models.diffusion.drawing import AROUND, Drawing
from maquette.models.diffusion.model import Diffusion
from maquette.nn.noise import Generators, draw, generators
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule
from maquette.serving.sample import guidance_of
from maquette.serving.solvers import Callback, solve, times

Method = Literal["replace", "repaint", "condition"]
SEEN = "known_pixels"  # the conditioner of a model that was trained to inpaint


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """Resampling of RePaint: Lugmayr et al. 2022, section 4.2."""

    jump: int = 5
    """number of steps that are taken again"""
    repeats: int = 3
    """number of times that each step is taken; 1 is replacement"""

    def __post_init__(self) -> None:
        within(self, 1, float("inf"), "jump", "repeats")


RESAMPLING = Resampling()


@torch.no_grad()
def inpaint(
    denoiser: Denoiser,
    picture: Tensor,
    known: Tensor,
    schedule: NoiseSchedule,
    grid: Tensor,
    *,
    solver: str,
    method: Method,
    resampling: Resampling = RESAMPLING,
    generator: Generators = None,
) -> Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] that are `picture` where `known` is 1.

    grid: falling times, as `solvers.times` gives them. resampling: of "repaint"; with one repeat it is
    "replace" to the bit. generator: one for all pictures or one for each. Raises WrongUse for
    shapes that do not fit, and for a mask of other numbers than 0 and 1.
    """
    check_known(picture, known)
    jump, repeats = resampling.jump, resampling.repeats
    x = draw(picture, generator)
    if method == "condition":
        x = solve(solver, denoiser, x, grid, schedule, generator=generator)
        return composite(x, picture, known)
    put = replacing(picture, known, schedule, generator)
    steps = len(grid) - 1
    if method == "replace" or repeats == 1:  # one run, in which a solver may look back
        jump, repeats = steps, 1
    for first in range(0, steps, jump):
        part = grid[first : min(first + jump, steps) + 1]
        for turn in range(repeats):
            if turn:
                x = renoise(x, part[-1], part[0], schedule, generator)
            x = solve(solver, denoiser, x, part, schedule, generator=generator, callback=put)
    return composite(x, picture, known)


@torch.no_grad()
def fill(
    model: Diffusion,
    picture: Tensor,
    known: Tensor,
    drawing: Drawing = AROUND,
    *,
    conditions: Mapping[str, Any] | None = None,
    method: Method | None = None,
    resampling: Resampling = RESAMPLING,
    generator: Generators = None,
) -> Tensor:
    """Fill the unknown pixels of pictures (n, 3, height, width) with a trained model.

    conditions: the pictures' other conditions, as `Diffusion.condition` takes them. method: None for
    "condition" where the model was trained to inpaint and "repaint" elsewhere. generator: one for
    all pictures or one for each; None: one for each, from the drawing's seed. Raises WrongUse where the
    method does not fit the model.
    """
    method = method_for(model, method, "repaint")
    check_known(picture, known)
    image_size = model.config.image_size
    if picture.shape[-2:] != (image_size, image_size):
        height, width = picture.shape[-2:]
        raise WrongUse(
            f"the pictures are {height} x {width}: this model's are {image_size} x {image_size}"
        )
    return inpaint(
        shown(model, picture, known, drawing, conditions or {}),
        picture,
        known,
        model.process.schedule,
        times(drawing.steps, model.process.schedule),
        solver=drawing.solver,
        method=method,
        resampling=resampling,
        generator=generators(drawing.seed, len(picture)) if generator is None else generator,
    )


def method_for(model: Diffusion, method: Method | None, otherwise: Method) -> Method:
    """The method, by default "condition" where the model sees known pixels and `otherwise` elsewhere.

    Raises WrongUse for "condition" with a model that was not trained to see them.
    """
    sees = SEEN in model.conditioners
    if method == "condition" and not sees:
        raise WrongUse(
            "this model was not trained to inpaint: use method replace or repaint, or train one with "
            "--model.task inpaint"
        )
    return method or ("condition" if sees else otherwise)


def shown(
    model: Diffusion,
    picture: Tensor,
    known: Tensor,
    drawing: Drawing,
    conditions: Mapping[str, Any],
) -> Denoiser:
    """The denoiser of pictures, given their known pixels where the model was trained to inpaint."""
    seen = {SEEN: (picture, known)} if SEEN in model.conditioners else {}
    condition = model.condition(len(picture), **conditions, **seen)
    return model.denoiser(condition, guidance_of(model, drawing))


def composite(made: Tensor, picture: Tensor, known: Tensor) -> Tensor:
    """`picture` where `known` is 1, `made` elsewhere: a choice of bits, and no sum."""
    return torch.where(known.bool(), picture, made)


def replacing(
    picture: Tensor, known: Tensor, schedule: NoiseSchedule, generator: Generators = None
) -> Callback:
    """After a step to time t: known pixels become alpha(t) picture + sigma(t) fresh noise."""

    def put(step: int, t: Tensor, x: Tensor) -> Tensor:
        return composite(x, schedule.mix(picture, draw(picture, generator), t), known)

    return put


def renoise(
    x: Tensor, at: Tensor, to: Tensor, schedule: NoiseSchedule, generator: Generators = None
) -> Tensor:
    """A sample at time `at` taken back up to the time `to` by the forward process.

    x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) z, s = at, t = to.
    """
    at, to = at.double(), to.double()
    ratio = schedule.alpha(to) / schedule.alpha(at)
    more = (schedule.sigma(to).square() - (ratio * schedule.sigma(at)).square()).clamp(min=0).sqrt()
    return ratio.to(x.dtype) * x + more.to(x.dtype) * draw(x, generator)


def check_known(picture: Tensor, known: Tensor) -> None:
    """Raise WrongUse unless `known` is a mask of 0 and 1 for `picture` (n, channels, h, w)."""
    n, _, height, width = picture.shape
    if known.shape not in ((n, 1, height, width), (1, 1, height, width)):
        raise WrongUse(
            f"the mask has shape {tuple(known.shape)}: use ({n}, 1, {height}, {width}), 1 where known"
        )
    if not bool(((known == 0) | (known == 1)).all()):
        raise WrongUse("the mask has numbers between 0 and 1: use 1 where a pixel is known, else 0")
