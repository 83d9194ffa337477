"""Noise schedules: their shape, their inverse, and those they are named after."""

import math

import pytest
import torch
from torch.testing import assert_close

from maquette.nn.noise_schedule import NoiseSchedule

KINDS = ("cosine", "linear", "flow")


def grid(steps: int = 101) -> torch.Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_goes_from_the_picture_to_noise(kind):
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


def test_the_linear_schedule_is_ddpms():
    """Its thousand steps of beta from 1e-4 to 0.02, at the middle of each step."""
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = (1 - beta).cumprod(0).sqrt()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert_close(NoiseSchedule("linear").alpha(t), alpha, atol=2e-3, rtol=0)


def test_the_cosine_schedule_is_improved_ddpms_but_for_its_ends():
    """cos^2((t + 0.008) / 1.008 pi/2) over its value at 0."""
    t = grid()

    def f(u: torch.Tensor) -> torch.Tensor:
        return torch.cos((u + 0.008) / 1.008 * math.pi / 2)

    assert_close(NoiseSchedule("cosine").alpha(t), f(t) / f(t[0]), atol=0.012, rtol=0)
