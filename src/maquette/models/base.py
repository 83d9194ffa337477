"""Base classes of models and of their batches: what the trainer calls, for language and for pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from maquette.base.errors import WrongUse
from maquette.models.picture_config import PictureConfig
from maquette.models.registry import ModelConfig
from maquette.nn.attention import Prefix
from maquette.nn.linear import Embedding, Linear
from maquette.nn.loss import linear_cross_entropy, linear_log_likelihoods
from maquette.nn.parametrisation import initialise, scaled
from maquette.nn.rules import Parametrisation, Scaling
from maquette.nn.stack import Stack


@dataclass
class Batch:
    """One micro-batch of any kind: a dataclass of tensors whose first dimension is its samples."""

    def __len__(self) -> int:
        first = getattr(self, fields(self)[0].name)
        return len(first)

    def to(self, device: torch.device) -> Self:
        """The batch on that device, copied without blocking the host."""

        def move(t: Tensor) -> Tensor:
            return t if t.device == device else t.pin_memory().to(device, non_blocking=True)

        return self if device.type == "cpu" else self._each(move)

    def rows(self, start: int, end: int) -> Self:
        """The samples from start to before end."""
        return self._each(lambda t: t[start:end])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        known = {f.name: getattr(self, f.name) for f in fields(self)}

        def changed(value: Any) -> Any:
            if isinstance(value, Batch):
                return value._each(change)
            return change(value) if isinstance(value, Tensor) else value

        return replace(self, **{name: changed(value) for name, value in known.items()})


@dataclass
class TokenBatch(Batch):
    """One micro-batch of token sequences.

    tokens, targets: (batch, time) int64, a negative target is not counted. document_ids: (batch,
    time), the number of each token's document, where attention must respect boundaries.
    positions: (batch, time), each token's place in its document, with document_ids.
    """

    tokens: Tensor
    targets: Tensor
    document_ids: Tensor | None = None
    positions: Tensor | None = None


@dataclass
class PictureBatch(Batch):
    """One micro-batch of pictures, with captions, labels and embeddings.

    pictures: (batch, 3, height, width) fp32 in [-1, 1]. captions: (batch, caption_length) int64, padded on
    the right with EOS tokens, at least one. labels: (batch, factors) int64.
    embedding, text_embedding: (batch, d) of length 1, what a frozen CLIP says of picture and caption.
    encoder_captions: (batch, its caption_length) int64, the captions as that CLIP reads them.
    """

    pictures: Tensor
    captions: Tensor | None = None
    labels: Tensor | None = None
    embedding: Tensor | None = None
    text_embedding: Tensor | None = None
    encoder_captions: Tensor | None = None


@dataclass
class Loss:
    """The loss of a batch: sums over `count` targets.

    total: the sum to differentiate, regularisers included. value: the plain loss to report. recorded: what
    is recorded beside it, by name: a sum, and the count that its mean is over.
    """

    total: Tensor
    value: Tensor
    count: Tensor | int
    recorded: Mapping[str, tuple[Tensor, Tensor | int]] = field(default_factory=dict)


class Model(nn.Module):
    """A model of any kind, as the trainer calls it.

    compute: precision of the activations (weights stay as they are and are cast where they are used).
    uncounted: why no target of a whole step may count, and the mend.
    """

    task_parameters: ClassVar[tuple[str, ...]] = ()
    """patterns of the parameters that belong to a task, as the heads of a classifier"""
    uncounted: ClassVar[str] = "no target counts, for all of them are masked: use other data"

    def __init__(self, parametrisation: Parametrisation, width: int, depth: int) -> None:
        super().__init__()
        self.scaling = Scaling(parametrisation, width, depth)
        self.compute = torch.float32
        self._recompute = False

    @property
    def recompute(self) -> bool:
        """Whether a block's activations are computed again in the backward pass, in every stack."""
        return self._recompute

    @recompute.setter
    def recompute(self, on: bool) -> None:
        self._recompute = on
        for stack in self.stacks():
            stack.recompute = on

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def stacks(self) -> list[Stack]:
        """The `Stack` modules of the model."""
        return [module for module in self.modules() if isinstance(module, Stack)]

    @property
    def attends_to_tokens_alone(self) -> bool:
        """Whether a cache holds keys and values of tokens alone: no adapter puts others before them."""
        return not any(stack._forward_pre_hooks for stack in self.stacks())

    def initialise(self, seed: int) -> Self:
        """Fill the parameters from the seed; returns self."""
        initialise(self, self.scaling, seed)
        return self

    @property
    def least_batch(self) -> int:
        """Smallest number of samples of the first batch."""
        return 1

    def prepare(self, batch: Any) -> None:
        """Fit the model's buffers to the first batch of a run."""

    def loss(self, batch: Any, z_loss: float = 0.0) -> Loss:
        """Sums over the batch's counted targets; random numbers come from torch's generator."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """Compile the blocks of every stack, each kind once; takes effect at their first call."""
        for stack in self.stacks():
            stack.compile_blocks()


class LanguageModel(Model):
    """A language model: token indices in, the next token's logits out.

    An architecture makes `embedding`, `blocks`, `norm` and `output`, in the order its checkpoints have
    them, and says what `hidden` is.
    """

    config: ModelConfig
    embedding: Embedding
    blocks: Stack
    norm: nn.Module
    output: Linear

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.parametrisation, config.width, config.depth)
        self.config = config

    def hidden(
        self,
        tokens: Tensor,  # (batch, time)
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: list[Any] | None = None,
    ) -> Tensor:
        """The normed residual stream (batch, time, width) that the logits are read from.

        positions: (batch, time) or None for 0, 1, ... after what the cache holds. document_ids:
        (batch, keys), positions with equal numbers see each other.
        """
        raise NotImplementedError

    def prefixes(self, vectors: Tensor) -> list[Prefix]:
        """What vectors (length, width) before a sequence leave in every block, for `Stack.forward`.

        With a batch before, (rows, length, width), every row of a batch of sequences has its own.
        Raises WrongUse for an architecture without attention.
        """
        raise self._without_attention()

    def prefix_shape(self, length: int) -> tuple[int, int, int, int]:
        """Shape of the keys of all `prefixes`: (blocks, kv_heads, length, head_dim)."""
        raise self._without_attention()

    def _without_attention(self) -> WrongUse:
        return WrongUse(
            f"a {self.config.kind} has no attention that a prefix could stand before: use lora or bottleneck"
        )

    def cache(self, batch: int, room: int) -> list[Any]:
        """An empty cache of `room` positions for every block, for step-by-step decoding."""
        return self.blocks.make_caches(batch, room, self.compute, self.device)

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: list[Any] | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocabulary) in fp32. See `hidden` for the arguments."""
        x = self.hidden(tokens, positions=positions, document_ids=document_ids, cache=cache)
        return self.logits(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary), fp32."""
        scores = scaled(self.output.product(hidden).float(), self.scaling.output_multiplier)
        return scores if self.output.bias is None else scores + self.output.bias.float()

    def counted(self, batch: TokenBatch) -> Tensor:
        """The targets (batch, time) that the loss counts: those that are not negative."""
        return batch.targets

    def loss(self, batch: TokenBatch, z_loss: float = 0.0) -> Loss:
        """Summed cross-entropy in nats of the counted targets, without ever holding all logits."""
        targets = self.counted(batch)
        x = self.hidden(batch.tokens, positions=batch.positions, document_ids=batch.document_ids)
        total, value = linear_cross_entropy(
            x.flatten(0, 1),
            self.output.weight,
            targets.flatten(),
            self.output.bias,
            self.scaling.output_multiplier,
            z_loss,
        )
        return Loss(total, value, (targets >= 0).sum())

    def log_likelihoods(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities of the counted targets in nats, 0 elsewhere: (batch, time), differentiable."""
        targets = self.counted(batch)
        x = self.hidden(batch.tokens, positions=batch.positions, document_ids=batch.document_ids)
        return linear_log_likelihoods(
            x.flatten(0, 1),
            self.output.weight,
            targets.flatten(),
            self.output.bias,
            self.scaling.output_multiplier,
        ).view_as(targets)

    def flops_per_token(self, time: int) -> float:
        """Operations of a training step per token; see the config's method."""
        return self.config.flops_per_token(time)

    def kv_bytes_per_token(self) -> int:
        """Bytes of the key-value cache per token."""
        return self.config.kv_bytes_per_token(self.compute.itemsize)


class PictureModel(Model):
    """A model of pictures, or of pictures and their captions. Its loss counts pictures."""

    config: PictureConfig
    grids: ClassVar[dict[str, int]] = {}
    """learned positions of a square grid of patches: parameter name and number of rows before the grid"""

    def __init__(self, config: PictureConfig) -> None:
        super().__init__(config.parametrisation, config.width, config.depth)
        self.config = config

    def loss(self, batch: PictureBatch, z_loss: float = 0.0) -> Loss:
        """The summed loss of the pictures of a batch."""
        raise NotImplementedError
