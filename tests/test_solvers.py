"""Solvers against diffusers' schedulers, and against a distribution whose solution is known."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from maquette.base.errors import WrongUse
from maquette.nn.noise_schedule import NoiseSchedule
from maquette.serving import solvers
from maquette.serving.solvers import EVALUATIONS, SOLVERS, ddim, evaluations, solve, times

THOUSAND = 1000
STEPS = [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]  # of diffusers: time (i + 1) / 1000
GRID = torch.tensor([(i + 1) / THOUSAND for i in STEPS] + [0.0], dtype=torch.float64)


def curved(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A denoiser with nothing special about it: smooth, bounded, and no straight line."""
    shifted = torch.roll(x, 1, dims=-1)
    return torch.tanh(0.7 * x + 0.3 * shifted + 0.2 * torch.sin(3 * t).to(x)) * (1 - 0.3 * t.to(x))


def start(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator)


def betas(schedule: NoiseSchedule) -> list[float]:
    """The schedule as a thousand discrete steps."""
    t = torch.arange(0, THOUSAND + 1, dtype=torch.float64) / THOUSAND
    kept = schedule.alpha(t).square()
    return (1 - kept[1:] / kept[:-1]).tolist()


def theirs(scheduler: object, schedule: NoiseSchedule, **options: object) -> torch.Tensor:
    """Run a scheduler of diffusers on the same times, model and noise; it wants clean pictures."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    t = torch.arange(1, THOUSAND + 1, dtype=torch.float64) / THOUSAND
    scheduler.alphas_cumprod.copy_(schedule.alpha(t).square())  # theirs are rounded to fp32
    x, generator = start(), torch.Generator().manual_seed(5)
    for i in STEPS:
        out = curved(x, torch.tensor((i + 1) / THOUSAND, dtype=torch.float64))
        x = scheduler.step(out, i, x, generator=generator, **options).prev_sample
    return x


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_diffusers(kind, eta):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule(kind)
    scheduler = diffusers.DDIMScheduler(
        trained_betas=betas(schedule), prediction_type="sample", clip_sample=False, set_alpha_to_one=True,
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(len(STEPS))
    assert scheduler.timesteps.tolist() == STEPS
    expected = theirs(scheduler, schedule, eta=eta)
    generator = torch.Generator().manual_seed(5)
    ours = ddim(curved, start(), GRID, schedule, eta=eta, generator=generator)
    assert float((ours - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_ddpm_is_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule(kind)
    scheduler = diffusers.DDPMScheduler(
        trained_betas=betas(schedule), prediction_type="sample", clip_sample=False,
        variance_type="fixed_small", timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(len(STEPS))
    expected = theirs(scheduler, schedule)
    generator = torch.Generator().manual_seed(5)
    ours = solve("ddpm", curved, start(), GRID, schedule, generator=generator)
    assert float((ours - expected).abs().max()) < 1e-4


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_dpm2m_is_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    schedule = NoiseSchedule(kind)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas(schedule), prediction_type="sample", algorithm_type="dpmsolver++",
        solver_order=2, solver_type="midpoint", final_sigmas_type="zero", lower_order_final=True,
    )  # fmt: skip
    scheduler.set_timesteps(timesteps=STEPS)
    exact = schedule.sigma(GRID) / schedule.alpha(GRID)
    assert_close(scheduler.sigmas.double(), exact, rtol=2e-3, atol=1e-6)
    scheduler.sigmas = exact  # theirs are rounded to fp32
    x = start()
    for i in STEPS:
        out = curved(x, torch.tensor((i + 1) / THOUSAND, dtype=torch.float64))
        x = scheduler.step(out, i, x).prev_sample
    ours = solve("dpm2m", curved, start(), GRID, schedule)
    assert float((ours - x).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_the_flow_solvers_are_diffusers(name):
    """Their models predict the velocity, and their times are sigmas."""
    diffusers = pytest.importorskip("diffusers")
    kinds = {
        "euler": diffusers.FlowMatchEulerDiscreteScheduler,
        "heun": diffusers.FlowMatchHeunDiscreteScheduler,
    }
    schedule, scheduler = NoiseSchedule("flow"), kinds[name](num_train_timesteps=THOUSAND)
    scheduler.set_timesteps(len(STEPS))
    grid = times(len(STEPS), schedule)
    sigmas = grid.float()
    scheduler.sigmas = sigmas if name == "euler" else heun_twice(sigmas)
    stamps = sigmas[:-1] * THOUSAND
    scheduler.timesteps = stamps if name == "euler" else heun_twice(sigmas)[:-1] * THOUSAND
    x = start()
    for stamp in scheduler.timesteps:
        t = stamp.double() / THOUSAND
        velocity = (x - curved(x, t)) / t
        x = scheduler.step(velocity, stamp, x).prev_sample
    ours = solve(name, curved, start(), grid, schedule)
    assert float((ours - x).abs().max()) < 1e-4


def heun_twice(sigmas: torch.Tensor) -> torch.Tensor:
    """Every time but the first and the last two times over, as their Heun reads them."""
    return torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])


MEAN, SPREAD = 0.3, 0.6


def gaussian(schedule: NoiseSchedule):
    """The exact denoiser of pictures from N(0.3, 0.36): the mean of x_0 given x_t."""

    def clean(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = schedule.alpha(t), schedule.sigma(t)
        gain = a * SPREAD**2 / (a.square() * SPREAD**2 + s.square())
        return MEAN + gain * (x - a * MEAN)

    return clean


def exact(
    x: torch.Tensor, t: torch.Tensor, s: torch.Tensor, schedule: NoiseSchedule
) -> torch.Tensor:
    """Where the equation leads: it keeps a picture's place among the others in deviations."""

    def deviation(u: torch.Tensor) -> torch.Tensor:
        return (schedule.alpha(u).square() * SPREAD**2 + schedule.sigma(u).square()).sqrt()

    return schedule.alpha(s) * MEAN + deviation(s) / deviation(t) * (x - schedule.alpha(t) * MEAN)


@pytest.mark.parametrize("kind", ["cosine", "linear", "flow"])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("dpm2m", 2), ("heun", 2)])
def test_the_order_of_convergence(kind, name, order):
    """Half the step divides the error by 2 at first order, by 4 at second."""
    schedule, x = NoiseSchedule(kind), start()
    errors = []
    for steps in (100, 200, 400):
        grid = times(steps, schedule, start=0.9, end=0.1)
        out = solve(name, gaussian(schedule), x, grid, schedule)
        errors.append(float((out - exact(x, grid[0], grid[-1], schedule)).abs().max()))
    for coarse, fine in itertools.pairwise(errors):
        assert 0.85 * 2**order < coarse / fine < 1.2 * 2**order, errors


@pytest.mark.parametrize("spacing", ["time", "log_snr"])
@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("kind", ["cosine", "linear", "flow"])
def test_a_solver_draws_the_distribution(name, kind, spacing):
    """From noise to t = 0: mean and deviation of 60,000 numbers, and no number that is none."""
    schedule = NoiseSchedule(kind)
    if kind == "flow" and spacing == "log_snr":
        return  # it begins at a log_snr of minus infinity
    x = torch.randn(60_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grid = times(400 if name == "ddpm" else 200, schedule, spacing=spacing)
    out = solve(
        name, gaussian(schedule), x, grid, schedule, generator=torch.Generator().manual_seed(2)
    )
    assert bool(out.isfinite().all())
    assert abs(float(out.mean()) - MEAN) < 0.02
    assert abs(float(out.std()) / SPREAD - 1) < 0.03


def test_euler_is_ddim_on_every_path():
    for kind in ("cosine", "linear", "flow"):
        schedule = NoiseSchedule(kind)
        grid = times(7, schedule)
        assert_close(
            solve("euler", curved, start(), grid, schedule),
            solve("ddim", curved, start(), grid, schedule),
        )


@pytest.mark.parametrize("name", list(SOLVERS))
def test_how_often_a_solver_asks(name):
    asked = []

    def counting(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        asked.append(float(t))
        return curved(x, t)

    schedule = NoiseSchedule()
    solve(name, counting, start(), times(6, schedule), schedule)
    assert len(asked) == evaluations(name, 6)
    assert EVALUATIONS[name] * 6 - len(asked) in (0, 1)
    assert min(asked) > 0  # where there is no noise there is nothing to ask


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_solver_keeps_nothing_between_calls(name):
    schedule = NoiseSchedule()

    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return solve(name, curved, start(), times(5, schedule), schedule, generator=generator)

    first = run()
    solve(name, curved, start(9), times(4, schedule), schedule)
    assert torch.equal(run(), first)


def test_fresh_noise_is_drawn_where_its_generator_is(monkeypatch):
    """A generator of one device draws for another: torch.randn on the other one refuses it."""
    drawn, randn = [], torch.randn

    def recorded(*shape, **options):
        drawn.append(str(options["device"]))
        return randn(*shape, **options)

    monkeypatch.setattr(torch, "randn", recorded)
    generator = torch.Generator().manual_seed(0)
    made = solvers.draw(torch.empty(2, 3, device="meta"), generator)
    assert drawn == ["cpu"] and made.device.type == "meta"
    asked = []
    monkeypatch.setattr(solvers, "draw", lambda *given: asked.append(given[1]) or given[0])
    solve(
        "ddpm",
        curved,
        torch.zeros(1, 3, 4, 4),
        times(3, NoiseSchedule()),
        NoiseSchedule(),
        generator=generator,
    )
    assert asked == [generator] * 3


def test_a_step_may_be_replaced_from_outside():
    """What the callback returns is what the next step begins with."""
    schedule, seen = NoiseSchedule(), []

    def paste(step: int, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        seen.append((step, float(t)))
        return torch.zeros_like(x) if step == 5 else None

    out = solve("ddim", curved, start(), times(5, schedule), schedule, callback=paste)
    assert float(out.abs().max()) == 0
    assert [s for s, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[-1][1] == 0.0


def test_known_pixels_come_out_to_the_bit():
    """The last picture is the last clean one: a denoiser that pastes known pixels is obeyed."""
    schedule, known = NoiseSchedule(), start(4)
    mask = torch.zeros_like(known)
    mask[:, :, :4] = 1

    def pasted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return mask * known + (1 - mask) * curved(x, t)

    for name in SOLVERS:
        out = solve(name, pasted, start(), times(5, schedule), schedule)
        if name in ("ddim", "ddpm", "dpm2m"):
            assert torch.equal(out[:, :, :4], known[:, :, :4]), name
        else:
            assert_close(out[:, :, :4], known[:, :, :4])


def test_what_a_user_may_get_wrong():
    schedule = NoiseSchedule()
    with pytest.raises(WrongUse, match="at least 1"):
        times(0, schedule)
    with pytest.raises(WrongUse, match="from 0.2 to 0.5"):
        times(3, schedule, start=0.2, end=0.5)
    with pytest.raises(WrongUse, match=r"unknown solver hein.*heun"):
        solve("hein", curved, start(), times(3, schedule), schedule)
    assert math.isclose(float(times(4, schedule)[1]), 0.75)
