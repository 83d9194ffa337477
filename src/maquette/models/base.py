"""What the trainer asks of a model, whatever it models; and what a language model offers besides."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from maquette.models.registry import ModelConfig
from maquette.nn.linear import Embedding
from maquette.nn.rules import Scaling


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
    """A language model, as training, evaluation and generation see it; it is an `nn.Module` too.

    compute: precision of the activations. recompute: whether blocks are computed twice to save memory.
    embedding: its weight says on which device the model is.
    """

    compute: torch.dtype
    recompute: bool

    @property
    def config(self) -> ModelConfig:
        """Its shape: `context`, `vocabulary`, `width` and whatever its kind has besides."""
        ...

    @property
    def scaling(self) -> Scaling:
        """The parametrisation at its size."""
        ...

    @property
    def embedding(self) -> Embedding: ...

    @property
    def blocks(self) -> nn.ModuleList:
        """Called with the residual stream (batch, time, width) alone or with more."""
        ...

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: list[Any] | None = None,
    ) -> Tensor:
        """(batch, time) -> the residual stream that the logits are read from.

        positions: (batch, time), None for 0, 1, ... after what the cache holds. documents: (batch,
        keys), equal numbers see each other.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary), fp32."""
        ...

    def loss(self, batch: Batch, z_loss: float = 0.0) -> Loss:
        """Summed over the batch's targets."""
        ...

    def cache(self, batch: int, room: int) -> list[Any]:
        """What step-by-step decoding keeps of the past, empty, for every block."""
        ...

    def compile_blocks(self) -> None:
        """Compile them at their first call."""
        ...

    def flops_per_token(self, time: int) -> float:
        """Operations of a training step a token."""
        ...

    def kv_bytes_per_token(self) -> int:
        """Bytes the cache grows by with each token."""
        ...

    def modules(self) -> Any:
        """As of `nn.Module`."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As of `nn.Module`."""
        ...

    def eval(self) -> Any:
        """As of `nn.Module`."""
        ...

    def to(self, device: Any) -> Any:
        """As of `nn.Module`."""
        ...

    def __call__(self, tokens: Tensor) -> Any:
        """(batch, time) -> logits (batch, time, vocabulary), fp32."""
        ...
