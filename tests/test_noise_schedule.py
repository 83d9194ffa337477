"""Paths from picture to noise: their shape, and that every prediction says the same picture."""

import math

import pytest
import torch
from torch.testing import assert_close

from maquette.nn.noise_schedule import NoiseSchedule

KINDS = ("cosine", "linear", "flow")
PREDICTIONS = [(k, p) for k in KINDS for p in ("v", "noise", "picture") if (k, p) != ("flow", "v")]
PREDICTIONS.append(("flow", "velocity"))


def grid(steps: int = 101) -> torch.Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_goes_from_the_picture_to_noise(kind):
    schedule, t = NoiseSchedule(kind), grid()
    a, s = schedule.alpha(t), schedule.sigma(t)
    assert a[0] == 1 and s[0] == 0
    assert a[-1] < 0.01 and s[-1] > 0.9999
    assert bool((a[1:] < a[:-1]).all() and (s[1:] > s[:-1]).all())
    if kind != "flow":
        assert_close(a.square() + s.square(), torch.ones_like(t))
        assert a[-1] > 1e-4  # or the picture could not be told from the noise


@pytest.mark.parametrize("kind", KINDS)
def test_time_and_log_snr_are_inverse(kind):
    schedule, t = NoiseSchedule(kind), grid()[1:-1]
    log_snr = schedule.log_snr(t)
    assert bool((log_snr[1:] < log_snr[:-1]).all())
    assert_close(schedule.time(log_snr), t)
    assert schedule.log_snr(torch.zeros(())) == math.inf
    assert schedule.time(torch.tensor(-1e4)) == 1


@pytest.mark.parametrize(("kind", "prediction"), PREDICTIONS)
def test_the_exact_prediction_gives_back_picture_and_noise(kind, prediction):
    schedule = NoiseSchedule(kind)
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 7, 3, 4, 4, dtype=torch.float64)
    t = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)  # a time for each picture
    x = schedule.mix(x0, noise, t)
    output = schedule.target(x0, noise, t, prediction)
    denoised = schedule.denoised(x, t, output, prediction)
    assert_close(denoised, x0)
    assert_close(schedule.noise_of(x, t, denoised), noise)
    for i in range(7):  # one time for all is the same
        assert_close(schedule.denoised(x[i], t[i], output[i], prediction), x0[i])


def test_the_linear_path_is_ddpms():
    """Its thousand steps of beta from 1e-4 to 0.02, at the middle of each step."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = (1 - beta).cumprod(0).sqrt()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert_close(NoiseSchedule("linear").alpha(t), alpha, atol=2e-3, rtol=0)


def test_the_cosine_path_is_improved_ddpms_but_for_its_ends():
    """cos^2((t + 0.008) / 1.008 pi/2) over its value at 0."""
    t = grid()

    def f(u: torch.Tensor) -> torch.Tensor:
        return torch.cos((u + 0.008) / 1.008 * math.pi / 2)

    assert_close(NoiseSchedule("cosine").alpha(t), f(t) / f(t[0]), atol=0.012, rtol=0)


def test_a_velocity_is_the_paths_derivative():
    schedule = NoiseSchedule("flow")
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64)
    slope = (schedule.mix(x0, noise, t + 1e-6) - schedule.mix(x0, noise, t - 1e-6)) / 2e-6
    assert_close(slope, schedule.target(x0, noise, t, "velocity"), atol=1e-6, rtol=0)
