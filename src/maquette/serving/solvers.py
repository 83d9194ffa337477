"""From noise to pictures: solvers of the differential equation that a denoiser defines.

    solver   what it does in a step                                    calls   source
    ddpm     draws from the posterior of the forward process           1       Ho et al. 2020, eq. 7
    ddim     keeps the noise it sees; eta: share drawn anew            1       Song et al. 2021, eq. 12
    dpm2m    DPM-Solver++(2M): a line through the last two pictures    1       Lu et al. 2022, algo. 2
    heun     the mean of the slopes at both ends                       2       Karras et al. 2022, algo. 1
    euler    the slope at the start                                    1       Lipman et al. 2023

Each is a function of a denoiser (x, t) -> denoised picture, the noise x and a falling grid of times, and
keeps nothing between calls. The noise of a step follows from the denoised picture, so that a denoiser that
clips its picture clips the noise with it.

Every schedule is the straight one, (1 - u) x_0 + u e with u = sigma / (alpha + sigma), times alpha + sigma;
`heun` and `euler` walk along u, where the slope e - x_0 is finite at both ends. Euler is then DDIM with
eta = 0, under its name for the flow path. Left out: solvers of order 3, adaptive steps.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from maquette.base.errors import WrongUse, did_you_mean
from maquette.nn.noise import Generators, draw
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule

Callback = Callable[[int, Tensor, Tensor], Tensor | None]
"""(steps taken, the time reached, x) -> the replacement of x, or None"""
Solver = Callable[..., Tensor]


def times(
    steps: int,
    schedule: NoiseSchedule,
    *,
    start: float = 1.0,
    spacing: str = "time",
    end: float = 0.0,
) -> Tensor:
    """steps + 1 times, fp64, falling from `start` to `end`, equally far apart.

    spacing: "log_snr" puts them equally far apart in log_snr instead, from `start` down to a time of
    0.001, and `end` = 0 after it. start: below 1, where one begins from a picture with noise on it.
    """
    if steps < 1:
        raise WrongUse(f"steps is {steps}: a solver takes at least 1")
    if not 0 <= end < start <= 1:
        raise WrongUse(
            f"times from {start} to {end}: use a start up to 1 and an end below it, at least 0"
        )
    if spacing == "time":
        return torch.linspace(start, end, steps + 1, dtype=torch.float64)
    ends = schedule.log_snr(torch.tensor([start, 1e-3], dtype=torch.float64))
    if not bool(ends.isfinite().all()):
        raise WrongUse(
            f"log_snr is infinite at time {start:g} of this schedule: use a start below 1"
        )
    grid = schedule.time(torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64))
    return torch.cat([grid, torch.tensor([end], dtype=torch.float64)])


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    *,
    eta: float = 0.0,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """eta: 0 adds no noise, 1 as much as the forward process's posterior has."""
    for step, t, s in _steps(times):
        denoised = denoiser(x, t)
        noise = schedule.noise_of(x, t, denoised)
        ratio = (schedule.alpha(t) / schedule.alpha(s)).square()
        drawn = eta * schedule.sigma(s) / schedule.sigma(t) * (1 - ratio).clamp(min=0).sqrt()
        kept = (schedule.sigma(s).square() - drawn.square()).clamp(min=0).sqrt()
        x = schedule.alpha(s) * denoised + kept * noise
        if eta:
            x = x + drawn * draw(x, generator)
        x = _called(callback, step, s, x)
    return x


def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling: DDIM with eta = 1 is the posterior's mean and standard deviation."""
    return ddim(denoiser, x, times, schedule, eta=1.0, generator=generator, callback=callback)


@torch.no_grad()
def dpm2m(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """The first step, and a last one to t = 0 (infinite in log_snr), are of first order."""
    before: tuple[Tensor, Tensor] | None = None  # the last picture, and its step in lambda
    for step, t, s in _steps(times):
        denoised = denoiser(x, t)
        h = (schedule.log_snr(s) - schedule.log_snr(t)) / 2
        point = denoised
        if before is not None and torch.isfinite(h):
            point = denoised + h / (2 * before[1]) * (denoised - before[0])
        x = schedule.sigma(s) / schedule.sigma(t) * x - schedule.alpha(s) * torch.expm1(-h) * point
        before = denoised, h
        x = _called(callback, step, s, x)
    return x


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """A last step to t = 0 is Euler's, as there is no slope at t = 0."""
    for step, t, s in _steps(times):
        slope = _slope(denoiser, x, t, schedule)
        ahead = _walk(x, slope, t, s, schedule)
        if s > 0:
            slope = (slope + _slope(denoiser, ahead, s, schedule)) / 2
            ahead = _walk(x, slope, t, s, schedule)
        x = _called(callback, step, s, ahead)
    return x


@torch.no_grad()
def euler(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """On the flow path, x + (s - t) times the velocity."""
    for step, t, s in _steps(times):
        x = _walk(x, _slope(denoiser, x, t, schedule), t, s, schedule)
        x = _called(callback, step, s, x)
    return x


SOLVERS: dict[str, Solver] = {  # as `models.diffusion.drawing` names them
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm2m": dpm2m,
    "heun": heun,
    "euler": euler,
}
EVALUATIONS = {"ddpm": 1, "ddim": 1, "dpm2m": 1, "heun": 2, "euler": 1}
"""evaluations of the denoiser per step; Heun's last step takes one"""


def evaluations(name: str, steps: int) -> int:
    """Number of evaluations of the denoiser in `steps` steps to t = 0."""
    return EVALUATIONS[name] * steps - (name == "heun")


def solve(
    name: str,
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run the solver of that name from x at times[0] to times[-1].

    x: noise of variance 1 (n, ...). generator: of ddpm's noise, one for all pictures or one
    for each. callback: called after each step.
    """
    if name not in SOLVERS:
        raise WrongUse(f"unknown solver {name}{did_you_mean(name, SOLVERS)}")
    return SOLVERS[name](denoiser, x, times, schedule, generator=generator, callback=callback)


def _steps(times: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(number from 1, from, to) of each step; times are fp64 numbers, whatever they came as."""
    grid = times.double().cpu()
    assert bool((grid[1:] < grid[:-1]).all()), "times fall"
    for step in range(1, len(grid)):
        yield step, grid[step - 1], grid[step]


def _called(callback: Callback | None, step: int, s: Tensor, x: Tensor) -> Tensor:
    replaced = callback(step, s, x) if callback is not None else None
    return x if replaced is None else replaced


def _slope(denoiser: Denoiser, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The slope e - x_0."""
    denoised = denoiser(x, t)
    return schedule.noise_of(x, t, denoised) - denoised


def _walk(x: Tensor, slope: Tensor, t: Tensor, s: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Along the slope from time t to s, on the straight path and back on its own."""
    before, after = schedule.alpha(t) + schedule.sigma(t), schedule.alpha(s) + schedule.sigma(s)
    u, v = schedule.sigma(t) / before, schedule.sigma(s) / after
    return after * (x / before + (v - u) * slope)
