"""The transformer block of pictures and their captions: attention and a feed-forward layer.

    x -> norm -> attention -> +      optional: attention to a context (captions), between the two
    x -> norm -> feed-fwd. -> +      optional: shift, scale and gate of each branch from a condition

Pre-norm with LayerNorm (Dosovitskiy et al. 2020; Radford et al. 2021). The condition enters as adaLN-Zero
(Peebles and Xie 2023, section 3.2): the map that makes the gates starts at zero, so that the block
starts as the identity. Attention and feed-forward are the language models' own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.attention import Attention, CrossAttention
from maquette.nn.feedforward import AnyActivation, FeedForward
from maquette.nn.linear import Linear
from maquette.nn.norm import LayerNorm
from maquette.nn.parametrisation import apply
from maquette.nn.rules import Scaling


class TransformerBlock(nn.Module):
    """One block; see the file's docstring.

    hidden: size of the feed-forward layer, None for 4 width. context: width of what is attended to
    besides. condition: width of the vector that modulates the block.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        scaling: Scaling,
        *,
        hidden: int | None = None,
        causal: bool = False,
        activation: AnyActivation = "gelu",
        bias: bool = True,
        context: int | None = None,
        condition: int | None = None,
        epsilon: float = 1e-6,
    ) -> None:
        super().__init__()
        head = width // heads
        scale = scaling.attention_scale(head)
        self.multiplier = scaling.residual_multiplier
        self.attention_norm = LayerNorm(width, bias=True, epsilon=epsilon)
        self.attention = Attention(width, heads, heads, head, scale=scale, bias=bias, causal=causal)
        self.context_norm = (
            None if context is None else LayerNorm(width, bias=True, epsilon=epsilon)
        )
        self.context_attention = (
            None
            if context is None
            else CrossAttention(width, context, heads, head, scale=scale, bias=bias)
        )
        self.feedforward_norm = LayerNorm(width, bias=True, epsilon=epsilon)
        self.feedforward = FeedForward(width, hidden or 4 * width, activation, bias=bias)
        self.modulation = (
            None if condition is None else Linear(condition, 6 * width, bias=True, start=0.0)
        )

    def forward(
        self,
        x: Tensor,  # (batch, time, width)
        *,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        condition: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """context: (batch, tokens, context width). condition: (batch, condition width).

        mask, context_mask: (batch, keys), True where a key may be seen.
        """
        if self.modulation is None:
            x = x + self._branch(self.attention(self.attention_norm(x), mask=mask))
        else:
            assert condition is not None, "this block wants a condition"
            parts = self.modulation(F.silu(condition).to(x.dtype)).unsqueeze(1).chunk(6, dim=2)
            shift, scale, gate, shift2, scale2, gate2 = parts  # (batch, 1, width) each
            y = self.attention_norm(x) * (1 + scale) + shift
            x = x + self._branch(gate * self.attention(y, mask=mask))
        if self.context_attention is not None:
            assert self.context_norm is not None and context is not None, "this block wants context"
            y = self.context_attention(self.context_norm(x), context, context_mask)
            x = x + self._branch(y)
        y = self.feedforward_norm(x)
        if self.modulation is None:
            return x + self._branch(self.feedforward(y))
        return x + self._branch(gate2 * self.feedforward(y * (1 + scale2) + shift2))

    def _branch(self, y: Tensor) -> Tensor:
        return apply(y, self.multiplier)


def seen(tokens: Tensor, end: int) -> Tensor:
    """Which positions of captions (batch, words) count: all up to the first `end`, that one too."""
    ends = tokens == end
    return torch.cumsum(ends, dim=1) - ends.long() == 0
