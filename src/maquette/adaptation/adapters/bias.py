"""BitFit: changes of the biases alone (Ben Zaken et al. 2021).

A change is a vector that is added to a module's output, where its bias is added. Heads and output maps are
left out: they are the task's. A model without biases gets some at its blocks' linear maps.
"""

import torch
from torch import Tensor, nn

from maquette.adaptation.adapters.adapter import Adapter, add_submodule, unsupported_model
from maquette.adaptation.adapters.config import BiasConfig
from maquette.adaptation.adapters.lora import linear_layers
from maquette.models.base import Model
from maquette.nn.convolution import Conv, GroupNorm
from maquette.nn.rules import Role


class BiasChange(nn.Module):
    """A vector, 0 at first. places_after: number of dimensions after the one that it belongs to."""

    def __init__(self, size: int, places_after: int) -> None:
        super().__init__()
        self.roles = {"bias": Role.VECTOR}
        self.bias = nn.Parameter(torch.empty(size))
        self.places_after = places_after

    def forward(self, x: Tensor) -> Tensor:  # -> (1, size) or (1, size, 1, 1), of x's type
        own = self.bias.to(x.dtype)
        return own.view(-1, *[1] * self.places_after).expand(len(x), *self._shape(x))

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        middle = x.dim() - 2 - self.places_after
        return (*[1] * middle, len(self.bias), *[1] * self.places_after)


class Bias(Adapter):
    """A `BiasChange` at every module that has a bias."""

    config: BiasConfig

    def __init__(self, config: BiasConfig, model: Model) -> None:
        super().__init__(config, model)
        sizes = {
            name: module.bias.shape[0]
            for name, module in model.named_modules()
            if isinstance(getattr(module, "bias", None), nn.Parameter)
            and module.bias.dim() == 1
            and getattr(module, "roles", {}).get("weight") not in (None, Role.OUTPUT)
        } or {name: linear.weight.shape[0] for name, linear in linear_layers(model).items()}
        if not sizes:
            raise unsupported_model(model, "bias", "models with biases or linear maps", "full")
        self.changes: dict[str, BiasChange] = {}
        for name, size in sizes.items():
            channels_first = isinstance(model.get_submodule(name), Conv | GroupNorm)
            self.changes[name] = BiasChange(size, 2 if channels_first else 0)
            add_submodule(self, name, self.changes[name])

    def hook(self, model: Model) -> None:
        for name, change in self.changes.items():
            self.add(model.get_submodule(name), change)
