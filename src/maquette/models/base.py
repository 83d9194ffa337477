"""What the trainer asks of a model, whatever it models."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from maquette.nn.parametrisation import Scaling


@dataclass
class Batch:
    """One micro-batch of token sequences.

    tokens, targets: (batch, time) int64, a negative target is not counted. documents: (batch,
    time), which document each token belongs to, when attention must respect boundaries.
    positions: (batch, time), each token's place in its document, with documents.
    """

    tokens: Tensor
    targets: Tensor
    documents: Tensor | None = None
    positions: Tensor | None = None


@dataclass
class Loss:
    """What a model says of a batch: sums over `count` targets.

    total: what is differentiated, regularisers included. value: the plain loss that is reported.
    """

    total: Tensor
    value: Tensor
    count: int


class Model(Protocol):
    """A trainable model: a loss, its scaling, its costs. `torch.nn.Module` besides."""

    scaling: Scaling

    def loss(self, batch: Batch) -> Loss:
        """The summed loss of one micro-batch."""
        ...

    def flops_per_token(self, time: int) -> float:
        """Operations of one training step, forward and backward, a token at that length."""
        ...

    def parameters_by_role(self) -> dict[str, int]:
        """How many parameters play each role; the values sum to the model's size."""
        ...
