"""LoRA: a change of a linear map that is a product of two thin matrices (Hu et al. 2021, section 4.1).

    change(x) = (alpha / rank) (x A^T) B^T        A: (rank, in), drawn;  B: (out, rank), 0

At the start B is 0 and the change nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.linear import Linear
from maquette.nn.rules import Role


class LowRank(nn.Module):
    """A change of rank `rank` for a `Linear` of the same fan-in and fan-out."""

    def __init__(self, like: Linear, rank: int, alpha: float) -> None:
        super().__init__()
        fan_out, fan_in = like.weight.shape
        self.roles = {"lora_a": Role.HIDDEN, "lora_b": Role.HIDDEN}
        self.start = {"lora_b": 0.0}
        self.residual = like.residual
        self.factor = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, fan_in))
        self.lora_b = nn.Parameter(torch.empty(fan_out, rank))

    def forward(self, x: Tensor) -> Tensor:  # (..., fan_in) -> (..., fan_out)
        thin = F.linear(x, self.lora_a.to(x.dtype))  # (..., rank)
        return F.linear(thin, self.lora_b.to(x.dtype)) * self.factor

    def matrix(self) -> Tensor:
        """alpha / rank B A, (fan_out, fan_in)."""
        return self.lora_b @ self.lora_a * self.factor
