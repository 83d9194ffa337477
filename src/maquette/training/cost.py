"""Operations and memory of a training step of any model, counted by running the step once.

Operations are torch's own count of matrix products and convolutions, forward and backward. Activations
are the bytes that autograd keeps for the backward pass, each storage once, parameters left out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maquette.models.base import Model


@dataclass(frozen=True)
class Cost:
    """Cost of one micro-batch."""

    flops: float
    """floating-point operations of forward and backward"""
    activations: float
    """bytes of activations kept for the backward pass"""


def measure_cost(model: Model, batch: Any) -> Cost:
    """Run one forward and backward pass on the batch, in the model's current precision."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = model.loss(batch).total
        total.backward()
    model.zero_grad(set_to_none=True)
    return Cost(float(counter.get_total_flops()), float(sum(kept.values())))
