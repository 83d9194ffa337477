"""LoRA: low-rank changes beside the linear maps of a model's blocks (Hu et al. 2021; `nn/low_rank.py`).

Merging adds the changes to the weights, so that the model computes as fast as its base; the base's weights
are kept and put back as they were.
"""

from fnmatch import fnmatchcase

import torch
from torch import Tensor

from maquette.adaptation.adapters.adapter import (
    Adapter,
    adapters_of,
    add_submodule,
    blocks_of,
    detach,
    unsupported_model,
)
from maquette.adaptation.adapters.config import LoRAConfig
from maquette.base.errors import WrongUse, did_you_mean
from maquette.models.base import Model
from maquette.nn.linear import Linear
from maquette.nn.low_rank import LowRank
from maquette.nn.quantised import QuantisedLinear


class LoRA(Adapter):
    """Changes of the linear maps that the config's patterns name."""

    config: LoRAConfig

    def __init__(self, config: LoRAConfig, model: Model) -> None:
        super().__init__(config, model)
        maps = linear_layers(model)
        if not maps:
            raise unsupported_model(
                model, "lora", "models with linear maps in their blocks", "bias or full"
            )
        for pattern in config.target_modules:
            if not any(fnmatchcase(name, pattern) for name in maps):
                raise WrongUse(
                    f"adapter.target_modules: no linear map is called {pattern}{did_you_mean(pattern, maps)}"
                )
        self.changes: dict[str, LowRank] = {}
        for name, linear in maps.items():
            if any(fnmatchcase(name, pattern) for pattern in config.target_modules):
                self.changes[name] = LowRank(linear, config.rank, config.alpha)
                add_submodule(self, name, self.changes[name])

    def hook(self, model: Model) -> None:
        for name, change in self.changes.items():
            self.add(model.get_submodule(name), change)


def linear_layers(model: Model) -> dict[str, Linear]:
    """The linear maps inside a model's blocks, by name."""
    return {
        f"{path}.{name}": module
        for path, block in blocks_of(model)
        for name, module in block.named_modules()
        if isinstance(module, Linear)
    }


class Merged:
    """All LoRA adapters of a model in its weights, until `undo`.

    Raises WrongUse where one has weights by row, and for a model whose maps are quantised.
    """

    @torch.no_grad()
    def __init__(self, model: Model) -> None:
        self._adapters = [
            a for a in adapters_of(model).values() if isinstance(a, LoRA) and not a.off
        ]
        self._base: dict[Tensor, Tensor] = {}
        for adapter in self._adapters:
            if isinstance(adapter.weight, Tensor):
                raise WrongUse(
                    "an adapter with weights by row cannot be merged: give it one weight"
                )
        for adapter in self._adapters:
            if any(isinstance(model.get_submodule(n), QuantisedLinear) for n in adapter.changes):
                raise WrongUse(
                    "an adapter cannot be merged into quantised weights: write them out with dequantise"
                )
        for adapter in self._adapters:
            for name, change in adapter.changes.items():
                weight = model.get_parameter(f"{name}.weight")
                self._base.setdefault(weight, weight.detach().clone())
                weight.add_((change.matrix() * adapter.weight).to(weight.dtype))
            adapter.off = True

    @torch.no_grad()
    def undo(self) -> None:
        """Put the base's weights back, bit for bit."""
        for weight, before in self._base.items():
            weight.copy_(before)
        for adapter in self._adapters:
            adapter.weight = adapter.weight  # on again
        self._base.clear()


def merge_and_detach(model: Model) -> None:
    """Merge all adapters of a model into its weights, for good.

    Raises WrongUse for one that is no change of weights.
    """
    for name, adapter in adapters_of(model).items():
        if not isinstance(adapter, LoRA) and any(True for _ in adapter.parameters()):
            raise WrongUse(
                f"{name} is a {adapter.config.kind}, which cannot be merged into weights: only lora can"
            )
    Merged(model)
    for name in adapters_of(model):
        detach(model, name)
