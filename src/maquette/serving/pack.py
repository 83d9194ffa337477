"""Weights laid out for reading: on a processor, a decoding step is nothing but reading them.

torch's plain product of one row with a matrix reaches a fifth of the memory bandwidth here; the
same product on a matrix reordered once by oneDNN reaches about half (docs/log.md). The operators
are those that torch's own compiler uses for frozen weights; where a build lacks them, the plain
product stays. What hooks add to a map, as adapters do, is added to the packed one too.
"""

import torch
from torch import Tensor, nn

from maquette.models.base import LanguageModel
from maquette.nn.linear import Linear
from maquette.nn.quantised import HOOKS, QuantisedLinear


class PackedLinear(nn.Module):
    """A `Linear` whose weight has been reordered, with the hooks of the plain one; inference only."""

    def __init__(self, plain: Linear, dtype: torch.dtype) -> None:
        super().__init__()
        weight = plain.weight.detach().to(dtype)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        self.bias = None if plain.bias is None else plain.bias.detach().to(dtype)
        for name in HOOKS:  # the same tables, so that an adapter can still be detached
            setattr(self, name, getattr(plain, name))

    def forward(self, x: Tensor) -> Tensor:  # (..., fan_in) -> (..., fan_out)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y

    def product(self, x: Tensor) -> Tensor:
        """x W^T alone."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return y


def pack(model: LanguageModel) -> bool:
    """Replace every linear map of a model on the CPU by a packed one; whether that was possible."""
    ready = torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    )
    if not ready or model.device.type != "cpu":
        return False
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear) and not isinstance(child, QuantisedLinear):
                setattr(module, name, PackedLinear(child, model.compute))
    return True
