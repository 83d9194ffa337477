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

The settings are in `config.py`, those of the published
models in `families.py`. Left out: encoder-decoder attention, mixture of experts.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from maquette.models.base import Model
from maquette.models.config import DecoderConfig
from maquette.nn.attention import Attention, LayerCache, Rotation
from maquette.nn.feedforward import FeedForward
from maquette.nn.linear import Embedding, Linear
from maquette.nn.norm import make_norm
from maquette.nn.parametrisation import apply
from maquette.nn.position import rotary_table
from maquette.nn.rules import Role, Scaling


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


class Decoder(Model):
    """The decoder of a config; see `Model` for what it offers."""

    config: DecoderConfig

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        c = config
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

    def hidden(
        self,
        tokens: Tensor,  # (batch, time)
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Tensor:
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

    def cache(self, batch: int, room: int) -> list[LayerCache]:
        """Empty keys and values for `room` positions of `batch` sequences, for every block."""
        c, like = self.config, self.embedding.weight
        shape = (batch, c.group_heads, room, c.head)

        def empty() -> Tensor:
            return torch.empty(shape, dtype=self.compute, device=like.device)

        return [LayerCache(empty(), empty()) for _ in range(c.depth)]
