"""A moving average of the weights: what a picture model is looked at and kept with.

Polyak and Juditsky 1992; the decay warms up as min(decay, (1 + step) / (10 + step)), so that a short run
does not average over its start (as in the training of Song et al. 2020).
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """The averaged parameters of a model, by name; `decay` 0 keeps none."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.tensors: dict[str, Tensor] = {}
        self.begin()

    def begin(self) -> None:
        """Start from the model's parameters of now."""
        if self._decay:
            self.tensors = {n: p.detach().clone() for n, p in self._model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimiser step `step` (from 1)."""
        if not self._decay:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        moving = [
            (self.tensors[n], p) for n, p in self._model.named_parameters() if p.requires_grad
        ]
        torch._foreach_lerp_([a for a, _ in moving], [p for _, p in moving], 1 - decay)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """The model has the averaged parameters inside, and its own after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self._model.named_parameters():
            if name in self.tensors:
                p.data, self.tensors[name] = self.tensors[name], p.data
