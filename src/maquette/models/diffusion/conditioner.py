"""Conditioners of a diffusion model: their values from a batch, their signal, their null value.

A condition enters the network by three doors only: tokens that blocks attend to, a vector added to the
time's, and channels beside the noisy picture. A conditioner is a module for one kind of condition. It says
what a training picture's condition is, leaves a share of them out, and turns values into a `Signal`.
Guidance (Ho and Salimans 2022) compares the network's outputs with the guided conditions and without;
what is not guided (known pixels, a low-resolution picture) stays on both sides.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.models.base import PictureBatch
from maquette.models.diffusion.config import DiffusionConfig
from maquette.nn.rules import Scaling


@dataclass(frozen=True)
class Signal:
    """The signal of n pictures for the network.

    vector: (n, vector), added to the time's. tokens: (n, k, text_width), mask: (n, k), True where a
    token counts, None where all do. channels: (n, extra, height, width), put beside the noisy picture.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    channels: Tensor | None = None

    def rows(self, start: int, end: int) -> "Signal":
        """The signal of the pictures from start to before end."""
        parts = (getattr(self, f.name) for f in fields(self))
        return Signal(*(None if part is None else part[start:end] for part in parts))

    def beside(self, other: "Signal") -> "Signal":
        """Both as one batch; the fewer tokens are padded with some that do not count."""

        def join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            assert (a is None) == (b is None), "signals of the same conditioners"
            return None if a is None or b is None else torch.cat([a, b])

        count = max(0 if s.tokens is None else s.tokens.shape[1] for s in (self, other))
        a, b = self._padded(count), other._padded(count)
        return Signal(
            join(a.vector, b.vector),
            join(a.tokens, b.tokens),
            join(a.mask, b.mask),
            join(a.channels, b.channels),
        )

    def _padded(self, count: int) -> "Signal":
        if self.tokens is None or self.mask is None:
            assert self.tokens is None or self.tokens.shape[1] == count, "tokens without a mask"
            return self
        missing = count - self.tokens.shape[1]
        tokens = F.pad(self.tokens, (0, 0, 0, missing))
        return Signal(
            self.vector, tokens, F.pad(self.mask, (0, missing), value=False), self.channels
        )


@dataclass(frozen=True)
class Condition:
    """The condition of n pictures, encoded once for all evaluations of a solver.

    signals: the signal of each conditioner, by its name.
    """

    count: int
    signals: dict[str, Signal]

    def __len__(self) -> int:
        return self.count

    def rows(self, start: int, end: int) -> "Condition":
        """The condition of the pictures from start to before end."""
        cut = {name: signal.rows(start, end) for name, signal in self.signals.items()}
        return Condition(len(range(self.count)[start:end]), cut)

    def joined(self) -> Signal:
        """One signal: vectors are added, tokens and channels stand one after the other."""
        signals = list(self.signals.values())
        vectors = [s.vector for s in signals if s.vector is not None]
        attended = [s for s in signals if s.tokens is not None]
        channels = [s.channels for s in signals if s.channels is not None]
        masked = any(s.mask is not None for s in attended)
        return Signal(
            sum(vectors[1:], vectors[0]) if vectors else None,
            torch.cat([s.tokens for s in attended if s.tokens is not None], 1)
            if attended
            else None,
            torch.cat([_mask(s) for s in attended], 1) if masked else None,
            torch.cat(channels, 1) if channels else None,
        )


def _mask(signal: Signal) -> Tensor:
    assert signal.tokens is not None
    if signal.mask is not None:
        return signal.mask
    return torch.ones(signal.tokens.shape[:2], dtype=torch.bool, device=signal.tokens.device)


class Conditioner(nn.Module):
    """One kind of condition; the classes and their names: `conditioners.CONDITIONERS`.

    A value is a tensor, or a tuple of tensors, with a row for each picture.
    """

    guided: ClassVar[bool] = True
    """whether classifier-free guidance leaves this condition out"""
    attended: ClassVar[bool] = False
    """whether the conditioner adds tokens"""
    channels: ClassVar[int] = 0
    """number of channels added to the network's input"""
    drop: float = 0.0
    """fraction of training pictures that are left without this condition"""

    @classmethod
    def of(cls, config: DiffusionConfig, scaling: Scaling) -> Self | None:
        """The conditioner of a model with this config; None: the model has no such condition."""
        raise NotImplementedError

    def null(self, n: int, device: torch.device) -> Any:
        """The null value, no condition, of n pictures."""
        raise NotImplementedError

    def example(self, batch: PictureBatch) -> Any:
        """The value of each picture of a batch, none left out.

        Raises UserError where the batch does not hold it.
        """
        raise NotImplementedError

    def learned(self, batch: PictureBatch) -> Any:
        """The value of each training picture, a fraction `drop` of them null."""
        value = self.example(batch)
        n, device = len(value), value.device
        share = self.drop if self.training else 0.0
        absent = torch.rand(n, 1, device=device) < share
        absent = absent.view(n, *(1,) * (value.ndim - 1))
        return torch.where(absent, self.null(n, device), value)

    def forward(self, value: Any, compute: torch.dtype) -> Signal:
        """The signal of values; compute: precision of the tokens."""
        raise NotImplementedError
