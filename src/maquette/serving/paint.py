"""Filling holes in pictures: known pixels as a wrapper around any denoiser and any solver.

    method      how known pixels reach the sample                                 source
    replace     after each step they are put in, with the noise of that step      Song et al. 2021, app. I.2
    repaint     the same, and each `jump` steps are taken `repeats` times         Lugmayr et al. 2022, alg. 1
    condition   the network was trained to see them (task "inpaint")              Nichol et al. 2022, sec. 4

Whatever the method, the sample is cut along the mask at the end, so that known pixels are the given
ones to the bit, also as uint8. A hole starts from noise; a grey one would be a picture of grey. Solvers
that draw fresh noise (ddpm) let both parts agree; those that keep theirs commit to the first steps.

`known` is (n, 1, h, w), 1 where a pixel is known (many programs' masks say the opposite). "condition"
asks for a denoiser whose condition holds the picture; `paint` makes it. Left out: soft masks, and the
gradient of the known pixels' error through the network (Chung et al. 2023).
"""

from typing import Literal

import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.models.diffusion.model import Diffusion
from maquette.nn.noise import Generators, draw
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule
from maquette.serving.solvers import Callback, solve, times

Method = Literal["replace", "repaint", "condition"]


@torch.no_grad()
def inpaint(
    denoiser: Denoiser,
    picture: Tensor,
    known: Tensor,
    schedule: NoiseSchedule,
    grid: Tensor,
    *,
    method: Method = "replace",
    solver: str = "ddpm",
    jump: int = 5,
    repeats: int = 3,
    generator: Generators = None,
) -> Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] that are `picture` where `known` is 1.

    grid: falling times, as `solvers.times` gives them. jump, repeats: of "repaint"; `repeats` 1 is
    "replace" to the bit. generator: of all noise, of all pictures or
    one of each. Raises WrongUse for shapes that do not fit, and for
    a mask of other numbers than 0 and 1.
    """
    check_known(picture, known)
    if jump < 1 or repeats < 1:
        raise WrongUse(f"jump is {jump} and repeats {repeats}: use at least 1 of each")
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
def paint(
    model: Diffusion,
    picture: Tensor,
    known: Tensor,
    *,
    captions: Tensor | None = None,
    labels: Tensor | None = None,
    guidance: float = 3.0,
    steps: int = 20,
    method: Method | None = None,
    solver: str = "ddpm",
    jump: int = 5,
    repeats: int = 3,
    generator: Generators = None,
) -> Tensor:
    """Fill the unknown pixels of pictures (n, 3, size, size) with a trained model.

    method: None for "condition" where the model was trained to inpaint and "repaint" elsewhere.
    captions: (n, words), labels: (n, factors), as `Diffusion.condition` takes them. guidance: 1 for
    none. Raises WrongUse where the method does not fit the model.
    """
    fine_tuned = model.config.task == "inpaint"
    if method is None:
        method = "condition" if fine_tuned else "repaint"
    if method == "condition" and not fine_tuned:
        raise WrongUse(
            "this model was not trained to inpaint: use method repaint, or train one with "
            "--model.task inpaint"
        )
    check_known(picture, known)
    size = model.config.size
    if picture.shape[-2:] != (size, size):
        height, width = picture.shape[-2:]
        raise WrongUse(f"the pictures are {height} x {width}: this model's are {size} x {size}")
    hidden = {"known_pixels": (picture, known)} if fine_tuned else {}
    condition = model.condition(len(picture), text=captions, label=labels, **hidden)
    denoiser = model.denoiser(condition, guidance)
    return inpaint(
        denoiser,
        picture,
        known,
        model.process.schedule,
        times(steps, model.process.schedule),
        method=method,
        solver=solver,
        jump=jump,
        repeats=repeats,
        generator=generator,
    )


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
