"""The transformer block of every model: attention and a feed-forward layer beside the residual stream.

    serial block                                parallel block (Wang and Komatsuzaki 2021)
      x ---> norm -> attention ----------+        x ---> norm -+-> attention ----+
      |                                  v        |            +-> feed-forward -+
      x -------------------------------> +        |                              v
     (x ---> norm -> attention to ctx. --+)       x ---------------------------> +
      |                                  v
      x ---> norm -> feed-forward -----> +

Pre-norm (Radford et al. 2019; Dosovitskiy et al. 2020). Optional: attention to a context (captions, an
encoder's output), and a condition that shifts, scales and gates each branch, as adaLN-Zero (Peebles and
Xie 2023, section 3.2): the layer that makes the gates starts at zero, so that the block starts as the
identity. What a position may attend to is told at each call, so that one block serves encoders and
decoders. Left out: norms after the branches, mixture of experts.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.attention import Attention, CrossAttention, LayerCache, Prefix, Rotation
from maquette.nn.feedforward import AnyActivation, FeedForward
from maquette.nn.linear import Linear
from maquette.nn.mask import Mask
from maquette.nn.norm import make_norm
from maquette.nn.parametrisation import scaled
from maquette.nn.rules import Scaling


class TransformerBlock(nn.Module):
    """One block; see the file's docstring.

    kv_heads: number of key-value heads, None for heads. head_dim: dimensions of a head, None for width /
    heads. hidden: width of the feed-forward layer, None for 4 width. context: width of the sequence of
    the cross-attention. condition: width of the vector that modulates the block.
    """

    branches: ClassVar[tuple[str, ...]] = ("attention", "context_attention", "feedforward")

    def __init__(
        self,
        width: int,
        heads: int,
        scaling: Scaling,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        hidden: int | None = None,
        activation: AnyActivation = "gelu",
        norm: Literal["layernorm", "rmsnorm"] = "layernorm",
        norm_bias: bool = True,
        epsilon: float = 1e-6,
        attention_bias: bool = True,
        feedforward_bias: bool = True,
        parallel: bool = False,
        dropout: float = 0.0,
        alibi: bool = False,
        rotary_pairs: Literal["half", "interleaved"] = "half",
        context: int | None = None,
        condition: int | None = None,
    ) -> None:
        super().__init__()
        assert not parallel or context is condition is None, "a parallel block has no third branch"
        head = head_dim or width // heads
        scale = scaling.attention_scale(head)
        self.multiplier, self.dropout = scaling.residual_multiplier, dropout

        def make() -> nn.Module:
            return make_norm(norm, width, bias=norm_bias, epsilon=epsilon)

        self.attention_norm = make()
        self.attention = Attention(
            width,
            heads,
            kv_heads or heads,
            head,
            scale=scale,
            bias=attention_bias,
            alibi=alibi,
            rotary_pairs=rotary_pairs,
        )
        self.context_norm: nn.Module | None = None
        self.context_attention: CrossAttention | None = None
        if context is not None:
            self.context_norm = make()
            self.context_attention = CrossAttention(
                width, context, heads, head, scale=scale, bias=attention_bias
            )
        self.feedforward_norm = None if parallel else make()
        self.feedforward = FeedForward(
            width, hidden or 4 * width, activation, bias=feedforward_bias
        )
        self.modulation = (
            None if condition is None else Linear(condition, 6 * width, bias=True, start=0.0)
        )

    def forward(
        self,
        x: Tensor,  # (batch, time, width)
        *,
        mask: Mask,
        rotation: Rotation | None = None,
        bias: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        condition: Tensor | None = None,
        cache: LayerCache | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """rotation: cosines and sines of `rotary_table`. bias: added to the scores, see `attend`.

        context: (batch, tokens, context width), needed until the cache has read it; context_mask:
        (batch, tokens), True where a token may be attended to. condition: (batch, condition width).
        cache: keys and values of the positions before and of the context. prefix: attended to before
        the sequence.
        """
        if self.modulation is None:
            normed = self.attention_norm(x)
            y = self.attention(normed, mask, rotation, bias, cache, prefix)
            if self.feedforward_norm is None:
                return x + self._branch(y + self.feedforward(normed))
            x = self._with_context(x + self._branch(y), context, context_mask, cache)
            return x + self._branch(self.feedforward(self.feedforward_norm(x)))
        assert condition is not None and self.feedforward_norm is not None, "a condition is missing"
        parts = self.modulation(F.silu(condition).to(x.dtype)).unsqueeze(1).chunk(6, dim=2)
        shift, scale, gate, shift2, scale2, gate2 = parts  # (batch, 1, width) each
        y = self.attention_norm(x) * (1 + scale) + shift
        x = x + self._branch(gate * self.attention(y, mask, rotation, bias, cache, prefix))
        x = self._with_context(x, context, context_mask, cache)
        y = self.feedforward_norm(x) * (1 + scale2) + shift2
        return x + self._branch(gate2 * self.feedforward(y))

    def cache(self, batch: int, room: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """An empty key-value cache of `room` positions of `batch` sequences, and of the context."""
        return self.attention.cache(batch, room, dtype, device)

    def _with_context(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        if self.context_attention is None or self.context_norm is None:
            return x
        y = self.context_attention(self.context_norm(x), context, mask, cache)
        return x + self._branch(y)

    def _branch(self, y: Tensor) -> Tensor:
        return F.dropout(scaled(y, self.multiplier), self.dropout, self.training)
