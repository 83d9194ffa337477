"""An exponential moving average (EMA) of the weights, which is scored, sampled from and kept.

Polyak and Juditsky 1992; the decay warms up as min(decay, (1 + step) / (10 + step)), so that a short run
does not average over its start (as in the training of Song et al. 2020).
"""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

from maquette.models.store import tensors_of

M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """An averaged copy of the trained model.

    model: the averaged model, with the trained model's buffers; the trained model itself where `decay` is 0.
    """

    def __init__(self, trained: M, decay: float) -> None:
        self._trained, self._decay = trained, decay
        self.model = copy.deepcopy(trained).requires_grad_(False) if decay else trained

    @torch.no_grad()
    def begin(self) -> None:
        """Copy the current parameters and buffers."""
        if self._decay:
            now = tensors_of(self._trained)
            for name, tensor in tensors_of(self.model).items():
                tensor.copy_(now[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the parameters after optimiser step `step` (from 1)."""
        if not self._decay:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        pairs = zip(self.model.parameters(), self._trained.parameters(), strict=True)
        moving = [(mean, p) for mean, p in pairs if p.requires_grad]
        torch._foreach_lerp_([mean for mean, _ in moving], [p for _, p in moving], 1 - decay)
        for copied, buffer in zip(self.model.buffers(), self._trained.buffers(), strict=True):
            copied.copy_(buffer)
