"""Adapter layers after every branch of every block (Houlsby et al. 2019, figure 2; `nn/bottleneck.py`).

y -> y + up(gelu(down(y))) for the output y of attention and of the feed-forward layer, before it is added
to the residual stream. A second adapter reads what the first has made. Left out: new layer norms beside
them, which the paper trains too.
"""

from torch import Tensor, nn

from maquette.adaptation.adapters.adapter import (
    Adapter,
    add_submodule,
    blocks_of,
    unsupported_model,
    weighted,
)
from maquette.adaptation.adapters.config import BottleneckConfig
from maquette.models.base import Model
from maquette.nn.bottleneck import Bottleneck


class Bottlenecks(Adapter):
    """A `Bottleneck` after each module that a block names in `branches`."""

    config: BottleneckConfig

    def __init__(self, config: BottleneckConfig, model: Model) -> None:
        super().__init__(config, model)
        self.layers: dict[str, Bottleneck] = {}
        for path, block in blocks_of(model):
            for branch in getattr(block, "branches", ()):
                module = getattr(block, branch)
                if module is not None:
                    layer = Bottleneck(width_of(module), config.size)
                    self.layers[f"{path}.{branch}"] = layer
                    add_submodule(self, f"{path}.{branch}", layer)
        if not self.layers:
            raise unsupported_model(
                model, "bottleneck", "models of blocks with branches", "bias or full"
            )

    def hook(self, model: Model) -> None:
        for name, layer in self.layers.items():
            self.add_handle(
                model.get_submodule(name).register_forward_hook(BottleneckHook(self, layer))
            )


class BottleneckHook:
    """A forward hook: a module's output y, and what an adapter makes of y."""

    def __init__(self, adapter: Adapter, layer: nn.Module) -> None:
        self.adapter, self.layer = adapter, layer

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        if self.adapter.off:
            return output
        return output + weighted(self.layer(output), self.adapter.weight)


def width_of(branch: nn.Module) -> int:
    """Size of what a branch writes into the residual stream."""
    last = next(m for m in branch.modules() if getattr(m, "residual", False))
    weight = last.weight
    assert isinstance(weight, Tensor)
    return weight.shape[-2]
