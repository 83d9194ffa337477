"""A stack of blocks: recomputation, compilation and caches, for every model in one place.

A block is a module of (x, **inputs) that returns an x; `mask` and `prefix` may be among its inputs, and
`cache` where it has a method of that name. `branches` names its modules whose output is added to x.
Recomputation is Chen et al. 2016's: the backward pass runs a block
again instead of keeping what was between its input and its output.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maquette.nn.mask import Mask


class Stack(nn.ModuleList):
    """A sequence of blocks.

    recompute: whether the activations inside a block are computed again in the backward pass.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.recompute = False

    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | Sequence[Mask] | None = None,
        caches: Sequence[Any] | None = None,
        prefixes: Sequence[Any] | None = None,
        **inputs: Any,
    ) -> Tensor:
        """The output of all blocks. inputs: keyword arguments of every block.

        mask: of all blocks, or a mask for each. caches: a cache for each block, from `make_caches`.
        prefixes: a prefix for each block.
        """
        for layer, block in enumerate(self):
            own = dict(inputs)
            if mask is not None:
                own["mask"] = mask if isinstance(mask, Mask) else mask[layer]
            if caches is not None:
                own["cache"] = caches[layer]
            if prefixes is not None:
                own["prefix"] = prefixes[layer]
            x = self.run(block, x, **own)
        return x

    def run(self, block: nn.Module, x: Tensor, **inputs: Any) -> Tensor:
        """Run one block, recomputed in the backward pass where `recompute` is set."""
        if self.recompute and torch.is_grad_enabled() and inputs.get("cache") is None:
            return checkpoint(block, x, use_reentrant=False, **inputs)  # type: ignore[no-any-return]
        return block(x, **inputs)  # type: ignore[no-any-return]

    def compile_blocks(self) -> None:
        """Compile the blocks, each kind once for all layers; takes effect at their first call."""
        for block in self:
            block.compile(dynamic=False)

    def make_caches(
        self, batch: int, room: int, dtype: torch.dtype, device: torch.device
    ) -> list[Any]:
        """An empty cache of `room` positions of `batch` sequences for every block."""
        return [block.cache(batch, room, dtype, device) for block in self]  # type: ignore[operator]
