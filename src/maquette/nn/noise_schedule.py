"""Noise schedules in continuous time: x_t = alpha(t) x_0 + sigma(t) noise.

    x_t = alpha(t) x_0 + sigma(t) e       t in [0, 1]: the picture at 0, (nearly) pure noise at 1

    kind     alpha                                                          source
    cosine   cos(0.995 t pi/2), sigma its sine                              Nichol and Dhariwal 2021
    linear   exp(-19.9 t^2/4 - 0.1 t/2), sigma = sqrt(1 - alpha^2)          Song et al. 2021, eq. 33
    flow     1 - t, sigma = t                                               Liu et al. 2022

A denoiser maps (x, t) to the denoised picture; guidance, known pixels and windows are wrappers around
one, and solvers know nothing else. The cosine stops short of alpha = 0, where the picture could not be
told from a prediction of the noise. Left out: EDM's preconditioning, learned variances.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ScheduleKind = Literal["cosine", "linear", "flow"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x (n, ...), t () or (n,)) -> the denoised picture, shaped as x"""

ANGLE = 0.995 * math.pi / 2  # of the cosine schedule at t = 1
BETA_MIN, BETA_MAX = 0.1, 20.0  # of the linear schedule: 1,000 steps from 1e-4 to 0.02


@dataclass(frozen=True)
class NoiseSchedule:
    """A noise schedule: x_t = alpha(t) x_0 + sigma(t) noise. alpha and sigma have the shape of t."""

    kind: ScheduleKind = "cosine"

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the picture at time t."""
        if self.kind == "cosine":
            return torch.cos(ANGLE * t)
        if self.kind == "linear":
            return torch.exp(self._log_alpha(t))
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time t."""
        if self.kind == "cosine":
            return torch.sin(ANGLE * t)
        if self.kind == "linear":
            return torch.sqrt(-torch.expm1(2 * self._log_alpha(t)))
        return t

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), infinite at t = 0; falls with t. DPM-Solver's lambda is half of it."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor) -> Tensor:
        """The time of a log_snr; at most 1."""
        if self.kind == "cosine":
            return (torch.atan(torch.exp(-log_snr / 2)) / ANGLE).clamp(max=1)
        if self.kind == "linear":
            half = F.softplus(-log_snr) / 2  # -log alpha, a quadratic in t
            root = (BETA_MIN**2 / 4 + (BETA_MAX - BETA_MIN) * half).sqrt()
            return (2 * half / (BETA_MIN / 2 + root)).clamp(max=1)
        return torch.sigmoid(-log_snr / 2)

    def mix(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy picture at time t, () or (n,)."""
        alpha, sigma = self.factors(t, x0)
        return alpha * x0 + sigma * noise

    def noise_of(self, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """The noise in x at t > 0, given the denoised picture."""
        alpha, sigma = self.factors(t, x)
        return (x - alpha * denoised) / sigma

    def factors(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times () or (n,), shaped to multiply x (n, ...)."""
        return _like(self.alpha(t), x), _like(self.sigma(t), x)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -(BETA_MAX - BETA_MIN) * t.square() / 4 - BETA_MIN * t / 2


def _like(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient () or (n,), shaped to multiply pictures (n, ...)."""
    return coefficient.to(x.dtype).reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))
