"""LoRA: a linear map whose change is a product of two thin matrices (Hu et al. 2021, section 4.1).

    y = x W^T + b + (alpha / rank) (x A^T) B^T        A: (rank, in), drawn;  B: (out, rank), 0

W keeps its name, so that the weights of a model without the change fill the model with it. At the start
B is 0 and both compute the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.linear import Linear
from maquette.nn.rules import Role


class LowRank(Linear):
    """A `Linear` of the same fan-in and fan-out with a change of rank `rank` beside it."""

    def __init__(self, like: Linear, rank: int, alpha: float) -> None:
        fan_out, fan_in = like.weight.shape
        super().__init__(
            fan_in,
            fan_out,
            bias=like.bias is not None,
            role=like.roles["weight"],
            residual=like.residual,
        )
        self.roles |= {"lora_a": Role.HIDDEN, "lora_b": Role.HIDDEN}
        self.start = like.start | {"lora_b": 0.0}
        self.factor = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, fan_in))
        self.lora_b = nn.Parameter(torch.empty(fan_out, rank))

    def forward(self, x: Tensor) -> Tensor:  # (..., fan_in) -> (..., fan_out)
        return super().forward(x) + self._change(x)

    def product(self, x: Tensor) -> Tensor:
        """x (W + alpha/rank B A)^T, without the bias."""
        return super().product(x) + self._change(x)

    def _change(self, x: Tensor) -> Tensor:
        thin = F.linear(x, self.lora_a.to(x.dtype))  # (..., rank)
        return F.linear(thin, self.lora_b.to(x.dtype)) * self.factor


def add_low_rank(module: nn.Module, rank: int, alpha: float) -> None:
    """Put a `LowRank` in the place of every `Linear` inside `module`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is Linear:
                setattr(parent, name, LowRank(child, rank, alpha))
