"""What the trainer asks of a model, whatever it models."""

from dataclasses import dataclass

from torch import Tensor


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
