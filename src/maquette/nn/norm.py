"""Normalisation over the last dimension, in fp32 whatever comes in.

LayerNorm: Ba et al. 2016. RMSNorm: Zhang and Sennrich 2019.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from maquette.nn import native, native_operators
from maquette.nn.rules import Role


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias."""

    def __init__(self, width: int, *, bias: bool = False, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.roles = {"weight": Role.VECTOR, "bias": Role.VECTOR}
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:  # (..., width) -> (..., width)
        if native.usable(x):
            return native_operators.layer_norm(x, self.weight, self.bias, self.epsilon)
        bias = None if self.bias is None else self.bias.float()
        y = nn.functional.layer_norm(
            x.float(), self.weight.shape, self.weight.float(), bias, self.epsilon
        )
        return y.to(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean square + epsilon) * weight."""

    def __init__(self, width: int, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.roles = {"weight": Role.VECTOR}
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:  # (..., width) -> (..., width)
        if native.usable(x):
            return native_operators.rms_norm(x, self.weight, self.epsilon)
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.epsilon)
        return (y * self.weight.float()).to(x.dtype)


def make_norm(
    kind: Literal["layernorm", "rmsnorm"], width: int, *, bias: bool, epsilon: float
) -> nn.Module:
    """The normalisation layer of a kind."""
    if kind == "layernorm":
        return LayerNorm(width, bias=bias, epsilon=epsilon)
    return RMSNorm(width, epsilon=epsilon)
