"""The diffusion process: noising, the network's target, and the loss.

    training   t ~ stratified uniform, x_t = alpha x_0 + sigma e, || network(x_t, t) - target ||^2

    prediction   target                       source
    v            alpha e - sigma x_0          Salimans and Ho 2022, section 4
    noise        e                            Ho et al. 2020
    picture      x_0                          Ramesh et al. 2022, equation 2 (of embeddings)
    velocity     e - x_0 = dx/dt              Liu et al. 2022, the flow schedule

Data are tensors (n, ...): pictures and picture embeddings alike. A process knows no network and no
condition. Left out: weights of the loss by time, learned variances.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from maquette.nn.noise_schedule import NoiseSchedule

Prediction = Literal["v", "noise", "picture", "velocity"]


@dataclass(frozen=True)
class Process:
    """A noise schedule and what a network predicts.

    "v" and "noise" need alpha^2 + sigma^2 = 1 and alpha > 0; "velocity" needs the flow schedule.
    """

    schedule: NoiseSchedule
    prediction: Prediction

    def noised(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training examples of data (n, ...): x at times t (n,), t, and the network's target.

        Times are spread over the batch, one in each n-th of [0, 1].
        """
        n, device = len(x0), x0.device
        t = (torch.arange(n, device=device) + torch.rand(n, device=device)) / n
        noise = torch.randn_like(x0)
        return self.schedule.mix(x0, noise, t), t, self.target(x0, noise, t)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Target of the network at time t, () or (n,)."""
        if self.prediction == "v":
            alpha, sigma = self.schedule.factors(t, x0)
            return alpha * noise - sigma * x0
        if self.prediction == "velocity":
            return noise - x0
        return noise if self.prediction == "noise" else x0

    def denoised(self, x: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The denoised data x_0 of a network's output at (x, t)."""
        alpha, sigma = self.schedule.factors(t, x)
        if self.prediction == "v":
            return alpha * x - sigma * output
        if self.prediction == "velocity":
            return x - sigma * output
        return (x - sigma * output) / alpha if self.prediction == "noise" else output

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared error (n,) of outputs (n, ...), a mean over each one's numbers."""
        return (output - target).square().mean(tuple(range(1, output.ndim)))


def guided(outputs: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: u + w (c - u) of outputs (2 n, ...), c with the condition, then u without.

    guidance: w; for 1 there is nothing to compare, and outputs (n, ...) are c alone. Source: Ho and
    Salimans 2022, with w counted from 0 for the unconditional output.
    """
    if guidance == 1.0:
        return outputs
    conditional, unconditional = outputs.chunk(2)
    return unconditional + guidance * (conditional - unconditional)
