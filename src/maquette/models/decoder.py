"""One decoder for the family that began with GPT-2: every member is a setting of its config.

    GPT-2, GPT-3  learned positions, LayerNorm, GELU, biases, tied; GPT-3 bands every second layer
    GPT-J         parallel block, rotary positions on part of each head, pairs interleaved
    PaLM          parallel block, SwiGLU, one key-value head, no biases, tied
    LLaMA         RMSNorm, SwiGLU, grouped queries, rotary positions
    BLOOM         ALiBi, a norm after the embedding, biases, tied

    serial block                     parallel block (Wang and Komatsuzaki 2021)
      x ---> norm -> attention -+      x ---> norm -+-> attention ----+
      |                         v      |            +-> feed-forward -+
      x ----------------------> +      |                              v
      x ---> norm -> feed-fwd. -> +    x ---------------------------> +

The settings themselves are in `families.py`. The defaults here are LLaMA's shape under
maximal-update parametrisation. Left out: encoder-decoder attention, mixture of experts.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from maquette.base.errors import WrongUse, within
from maquette.models.base import Batch, Loss
from maquette.nn.attention import Attention, LayerCache, Rotation
from maquette.nn.feedforward import Activation, FeedForward
from maquette.nn.linear import Embedding, Linear
from maquette.nn.loss import linear_cross_entropy
from maquette.nn.norm import make_norm
from maquette.nn.parametrisation import (
    Parametrisation,
    Role,
    Scaling,
    apply,
    declared,
    initialise,
)
from maquette.nn.position import rotary_table


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    vocabulary: int = 4096
    """symbols, the end of a document included"""
    context: int = 256
    """positions: the longest sequence"""
    width: int = 256
    """size of the residual stream"""
    depth: int = 4
    """blocks"""
    heads: int = 4
    """query heads"""
    kv_heads: int | None = None
    """key-value heads: None for as many as heads, 1 for multi-query, between for grouped"""
    head_dim: int | None = None
    """size of a head: None for width / heads"""
    hidden: int | None = None
    """size of the feed-forward layer: None for 4 width (SwiGLU: 8/3 width, up to 32s)"""
    activation: Activation = "swiglu"
    """non-linearity of the feed-forward layer"""
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    """normalisation"""
    norm_epsilon: float = 1e-5
    """added to the variance"""
    positions: Literal["learned", "rotary", "alibi", "none"] = "rotary"
    """how a token knows where it stands"""
    rotary_dims: int | None = None
    """dimensions of each head that turn: None for all"""
    rotary_base: float = 10000.0
    """longest wavelength of the rotation, over 2 pi"""
    rotary_pairs: Literal["half", "interleaved"] = "half"
    """which dimensions turn together: (i, i + d/2) or (2i, 2i + 1)"""
    block: Literal["serial", "parallel"] = "serial"
    """attention then feed-forward, or both from one norm"""
    norm_bias: bool = False
    """bias in LayerNorm"""
    attention_bias: bool = False
    """bias in the four attention maps"""
    feedforward_bias: bool = False
    """bias in the feed-forward maps"""
    output_bias: bool = False
    """bias on the logits"""
    embedding_norm: bool = False
    """normalise the embedding (BLOOM)"""
    tied: bool = False
    """the output matrix is the embedding"""
    band: int | None = None
    """every second block sees only so many positions back (GPT-3); None: all see everything"""
    dropout: float = 0.0
    """on the embedding and on what each branch adds"""
    parametrisation: Parametrisation = field(default_factory=Parametrisation)
    """how parameters scale with the size"""

    def __post_init__(self) -> None:
        sizes = (
            "vocabulary",
            "context",
            "width",
            "depth",
            "heads",
            "kv_heads",
            "head_dim",
            "hidden",
        )
        within(self, 1, float("inf"), *sizes, "band", "rotary_dims", "rotary_base")
        if self.head_dim is None and self.width % self.heads:
            heads = max(h for h in range(1, self.heads + 1) if self.width % h == 0)
            width = -(-self.width // self.heads) * self.heads
            raise WrongUse(
                f"width {self.width} is not divisible by heads {self.heads}: "
                f"use heads {heads} or width {width}"
            )
        if self.heads % self.group_heads:
            raise WrongUse(
                f"heads {self.heads} is not divisible by kv_heads {self.group_heads}: "
                f"every key-value head serves equally many query heads"
            )
        if self.positions == "rotary" and (self.turned % 2 or self.turned > self.head):
            raise WrongUse(
                f"rotary_dims {self.turned} does not fit a head of {self.head}: "
                f"use an even number up to {self.head - self.head % 2}"
            )
        if not 0 <= self.dropout < 1:
            raise WrongUse(f"dropout is {self.dropout}: use 0 to below 1")

    @property
    def head(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def group_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def turned(self) -> int:
        return self.rotary_dims or self.head

    @property
    def inner(self) -> int:
        if self.hidden is not None:
            return self.hidden
        return 4 * self.width if self.activation != "swiglu" else -(-8 * self.width // 96) * 32

    def window(self, layer: int) -> int | None:
        """Positions that block sees: GPT-3 alternates dense and banded blocks."""
        return self.band if layer % 2 else None

    def build(self) -> "Decoder":
        """The model, its parameters not yet filled."""
        return Decoder(self)


class Block(nn.Module):
    """Attention and a feed-forward layer, each adding to the residual stream."""

    def __init__(self, config: DecoderConfig, layer: int, scaling: Scaling) -> None:
        super().__init__()
        c = config
        self.parallel, self.dropout = c.block == "parallel", c.dropout
        self.multiplier = scaling.residual_multiplier
        self.attention_norm = make_norm(c.norm, c.width, bias=c.norm_bias, epsilon=c.norm_epsilon)
        self.attention = Attention(
            c.width,
            c.heads,
            c.group_heads,
            c.head,
            scale=scaling.attention_scale(c.head),
            bias=c.attention_bias,
            window=c.window(layer),
            alibi=c.positions == "alibi",
            rotary_pairs=c.rotary_pairs,
        )
        if not self.parallel:
            self.feedforward_norm = make_norm(
                c.norm, c.width, bias=c.norm_bias, epsilon=c.norm_epsilon
            )
        self.feedforward = FeedForward(c.width, c.inner, c.activation, bias=c.feedforward_bias)

    def forward(
        self,
        x: Tensor,  # (batch, time, width)
        rotation: Rotation | None = None,
        documents: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        normed = self.attention_norm(x)
        attended = self.attention(normed, rotation, documents, cache)
        if self.parallel:
            return x + self._branch(attended + self.feedforward(normed))
        x = x + self._branch(attended)
        return x + self._branch(self.feedforward(self.feedforward_norm(x)))

    def _branch(self, y: Tensor) -> Tensor:
        return F.dropout(apply(y, self.multiplier), self.dropout, self.training)


class Decoder(nn.Module):
    """Token indices in, the next token's logits out.

    `compute` is the precision of the activations (weights stay as they are and are cast where
    they are used); `recompute` trades a second forward pass of each block for its activations.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        c = self.config = config
        self.scaling = Scaling(c.parametrisation, c.width, c.depth)
        self.compute = torch.float32
        self.recompute = False
        self.embedding = Embedding(c.vocabulary, c.width)
        self.position = Embedding(c.context, c.width) if c.positions == "learned" else None
        self.embedding_norm = (
            make_norm(c.norm, c.width, bias=c.norm_bias, epsilon=c.norm_epsilon)
            if c.embedding_norm
            else None
        )
        self.blocks = nn.ModuleList(Block(c, layer, self.scaling) for layer in range(c.depth))
        self.norm = make_norm(c.norm, c.width, bias=c.norm_bias, epsilon=c.norm_epsilon)
        self.output = Linear(c.width, c.vocabulary, bias=c.output_bias, role=Role.OUTPUT)
        if c.tied:
            self.output.weight = self.embedding.weight

    def initialise(self, seed: int) -> "Decoder":
        """Fill the parameters from the seed; returns self."""
        initialise(self, self.scaling, seed)
        return self

    def hidden(
        self,
        tokens: Tensor,  # (batch, time)
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Tensor:
        """The normed residual stream (batch, time, width) that the logits are read from.

        positions: (batch, time) or None for 0, 1, ... after what the cache holds. documents:
        (batch, keys), positions with equal numbers see each other.
        """
        c = self.config
        if positions is None:
            past = cache[0].length if cache else 0
            positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        x = apply(self.embedding(tokens), self.scaling.input_multiplier)
        if self.position is not None:
            x = x + apply(self.position(positions), self.scaling.input_multiplier)
        x = x.to(self.compute)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = F.dropout(x, c.dropout, self.training)
        rotation = None
        if c.positions == "rotary":
            rotation = rotary_table(positions, c.turned, c.rotary_base)
        for layer, block in enumerate(self.blocks):
            if cache is not None:
                x = block(x, rotation, documents, cache[layer])
            elif self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, documents, use_reentrant=False)
            else:
                x = block(x, rotation, documents)
        return self.norm(x)  # type: ignore[no-any-return]

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocabulary) in fp32. See `hidden` for the arguments."""
        x = self.hidden(tokens, positions=positions, documents=documents, cache=cache)
        return self.logits(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary), fp32."""
        scores = apply(self.output.product(hidden).float(), self.scaling.output_multiplier)
        return scores if self.output.bias is None else scores + self.output.bias.float()

    def loss(self, batch: Batch, z_loss: float = 0.0) -> Loss:
        """Summed cross-entropy in nats of the batch's targets, without ever holding all logits."""
        x = self.hidden(batch.tokens, positions=batch.positions, documents=batch.documents)
        total, value = linear_cross_entropy(
            x.flatten(0, 1),
            self.output.weight,
            batch.targets.flatten(),
            self.output.bias,
            self.scaling.output_multiplier,
            z_loss,
        )
        return Loss(total, value, int((batch.targets >= 0).sum()))

    def cache(self, batch: int, room: int) -> list[LayerCache]:
        """Empty keys and values for `room` positions of `batch` sequences, for every block."""
        c, like = self.config, self.embedding.weight
        shape = (batch, c.group_heads, room, c.head)

        def empty() -> Tensor:
            return torch.empty(shape, dtype=self.compute, device=like.device)

        return [LayerCache(empty(), empty()) for _ in range(c.depth)]

    def compile_blocks(self) -> None:
        """Compile the block once for all layers; takes effect at its first call."""
        for block in self.blocks:
            block.compile(dynamic=False)

    def parameters_by_role(self) -> dict[str, int]:
        """How many parameters play each role; they sum to the model's size."""
        counts = dict.fromkeys((role.value for role in Role), 0)
        for p in declared(self):
            counts[p.role.value] += p.tensor.numel()
        return counts

    def flops_per_token(self, time: int) -> float:
        """Operations of a training step a token: 6 per matrix parameter, and attention.

        Attention counts all `time` keys, as if it were not causal (the convention of Chowdhery et
        al. 2022, appendix B), or the band's; forward is a third of it.
        """
        c = self.config
        matrices = sum(p.tensor.numel() for p in declared(self) if p.role == Role.HIDDEN)
        matrices += self.output.weight.numel()
        seen = sum(min(time, c.window(layer) or time) for layer in range(c.depth))
        return 6.0 * matrices + 12.0 * c.heads * c.head * seen

    def kv_bytes_per_token(self) -> int:
        """Bytes the cache grows by with each token."""
        c = self.config
        return 2 * c.depth * c.group_heads * c.head * self.compute.itemsize
