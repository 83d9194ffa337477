"""Attention: many queries per key-value head, causal or not, with bands, documents and ALiBi.

    heads = 4, kv_heads = 4     heads = 4, kv_heads = 2     heads = 4, kv_heads = 1
    multi-head                  grouped queries             multi-query
    v v v v                     v   v                       v
    k k k k                     k   k                       k
    q q q q                     q q q q                     q q q q

Sources: Vaswani et al. 2017 (attention); Shazeer 2019 (multi-query); Ainslie et al. 2023
(grouped); Child et al. 2019 (the band of GPT-3's sparse layers); Press et al. 2022 (ALiBi).
Two engines compute it: torch's fused `scaled_dot_product_attention`, and on a processor with
compiled kernels the tiles of `tiled_attention`, which skip what a mask hides.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn import fused
from maquette.nn.linear import Linear
from maquette.nn.position import alibi_slopes, rotate
from maquette.nn.tiled_attention import tiled_attention

Rotation = tuple[Tensor, Tensor]
SHORT, CAPTION = 256 * 256, 32 * 32  # scores of a head, up to which plain products are taken


@dataclass
class LayerCache:
    """The keys and values one layer has seen: (batch, kv_heads, room, head_dim) each."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; return all of them so far."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class Attention(nn.Module):
    """Project to queries, keys and values, turn them by their position, attend, project back.

    window: the last so many positions are seen (a band); None: all of them. causal: no position
    sees a later one; without it every position sees all that a mask lets it see.
    scale: the factor of q k, from the parametrisation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        scale: float,
        bias: bool,
        window: int | None = None,
        alibi: bool = False,
        rotary_pairs: Literal["half", "interleaved"] = "half",
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scale, self.window, self.rotary_pairs = scale, window, rotary_pairs
        self.qkv = Linear(width, (heads + 2 * kv_heads) * head_dim, bias=bias)
        self.out = Linear(heads * head_dim, width, bias=bias, residual=True)
        self.slopes: Tensor | None
        slopes = torch.tensor(alibi_slopes(heads)) if alibi else None
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(
        self,
        x: Tensor,  # (batch, time, width)
        rotation: Rotation | None = None,
        documents: Tensor | None = None,
        cache: LayerCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """mask: (batch, time), True where a position may be seen; only where causal is not set."""
        h, g, d = self.heads, self.kv_heads, self.head_dim
        qkv = self.qkv(x).unflatten(-1, (h + 2 * g, d))  # (batch, time, heads, head_dim)
        q, k, v = qkv.split((h, g, g), dim=2)
        if rotation is not None:
            q = rotate(q, *rotation, self.rotary_pairs)
            k = rotate(k, *rotation, self.rotary_pairs)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (batch, heads, time, head_dim)
        if cache is not None:
            k, v = cache.append(k, v)
        assert mask is None or not self.causal, "a causal layer takes documents, not a mask"
        if not self.causal:
            y = attend_all(q, k, v, scale=self.scale, mask=mask)
            return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
        y = attend(
            q, k, v, scale=self.scale, window=self.window, slopes=self.slopes, documents=documents
        )
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another (Vaswani et al. 2017, section 3.2.3)."""

    def __init__(
        self, width: int, context: int, heads: int, head_dim: int, *, scale: float, bias: bool
    ) -> None:
        super().__init__()
        self.head_dim, self.scale = head_dim, scale
        self.q = Linear(width, heads * head_dim, bias=bias)
        self.kv = Linear(context, 2 * heads * head_dim, bias=bias)
        self.out = Linear(heads * head_dim, width, bias=bias, residual=True)

    def forward(
        self,
        x: Tensor,  # (batch, time, width)
        context: Tensor,  # (batch, tokens, context width)
        mask: Tensor | None = None,
    ) -> Tensor:
        """mask: (batch, tokens), True where a token may be seen; at least one a row."""
        q = self.q(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        k, v = self.kv(context.to(x.dtype)).unflatten(-1, (-1, self.head_dim)).chunk(2, dim=2)
        y = attend_all(q, k.transpose(1, 2), v.transpose(1, 2), scale=self.scale, mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def attend_all(q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Tensor | None) -> Tensor:
    """Attention of every query to every key that the mask (batch, keys) lets it see."""
    seen = None if mask is None else mask[:, None, None, :]
    if _plain(q, k, SHORT):
        return _products(q, k, v, scale, seen)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)


def _plain(q: Tensor, k: Tensor, most: int) -> bool:
    """Whether plain products are faster: learning, in bf16, on a processor, at most so many scores.

    torch's fused kernel takes 3 times as long there, forward and backward, at 64 positions.
    """
    small = q.shape[2] * k.shape[2] <= most
    return small and q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16


def _products(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor | None) -> Tensor:
    scores = (q * scale) @ k.transpose(-1, -2)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: int | None = None,
    slopes: Tensor | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """Causal attention of the last `queries` positions to all `keys` positions.

    q: (batch, heads, queries, head_dim); k, v: (batch, kv_heads, keys, head_dim).
    slopes: (heads,), ALiBi. documents: (batch, keys), equal numbers see each other; padding on
    the left is one more document. Returns (batch, heads, queries, head_dim).
    """
    queries, keys = q.shape[2], k.shape[2]
    training = queries == keys and queries > 1
    if training and q.device.type == "cpu" and fused.compiling():
        return tiled_attention(q, k, v, scale, window, slopes, documents)
    masked = window is not None or slopes is not None or documents is not None
    if queries == 1 and not masked:  # a step of decoding: one query row per group, no copies
        grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[3])
        return F.scaled_dot_product_attention(grouped, k, v, scale=scale).view(q.shape)
    if k.shape[1] != q.shape[1]:
        repeats = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(repeats, dim=1) for t in (k, v))
    if training and not masked:
        if _plain(q, k, CAPTION):
            earlier = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril()
            return _products(q, k, v, scale, earlier)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    mask = attention_bias(queries, keys, window, slopes, documents, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), scale=scale)


def attention_bias(
    queries: int,
    keys: int,
    window: int | None,
    slopes: Tensor | None,
    documents: Tensor | None,
    device: torch.device,
) -> Tensor:
    """What is added to the scores: 0, -inf where hidden, ALiBi's slope times the distance.

    Returns (batch or 1, heads or 1, queries, keys), fp32.
    """
    row = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    distance = torch.arange(keys, device=device) - row  # (queries, keys), at most 0 where seen
    seen = distance <= 0
    if window is not None:
        seen = seen & (distance > -window)
    seen = seen[None, None]
    if documents is not None:
        rows = documents[:, keys - queries :]
        seen = seen & (rows[:, None, :, None] == documents[:, None, None, :])
    bias = torch.zeros(1, 1, 1, 1, device=device)
    if slopes is not None:
        bias = slopes.float()[None, :, None, None] * distance
    return bias.masked_fill(~seen, -torch.inf)
