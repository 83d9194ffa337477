"""Convolutions and group normalisation for pictures (batch, channels, height, width).

As in `linear`, weights are fp32 and computed in their input's precision; what comes in channels last
goes out channels last. GroupNorm: Wu and He 2018.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.rules import Role


class Conv(nn.Module):
    """A convolution with "same" padding: the output's height and width are the input's over `stride`."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        kernel: int,
        stride: int = 1,
        *,
        bias: bool = True,
        role: Role = Role.HIDDEN,
        start: float | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.roles = {"weight": role, "bias": Role.VECTOR}
        self.start = {} if start is None else {"weight": start}
        self.stride, self.groups = stride, groups
        self.padding = (kernel - 1) // 2
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(fan_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # (batch, fan_in, h, w) -> (batch, fan_out, h/s, w/s)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        weight = self.weight.to(x.dtype)
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)


class GroupNorm(nn.Module):
    """Each group of channels of a picture to mean 0 and variance 1, then a gain and a bias.

    Statistics are in fp32 (torch's kernel keeps them so in any precision).
    """

    def __init__(self, channels: int, groups: int = 8, *, affine: bool = True) -> None:
        super().__init__()
        self.roles = {"weight": Role.VECTOR, "bias": Role.VECTOR}
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(channels)) if affine else None
        self.bias = nn.Parameter(torch.empty(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:  # (batch, channels, h, w), the same
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.group_norm(x, self.groups, weight, bias, 1e-5)
