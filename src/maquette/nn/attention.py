"""Attention: many queries per key-value head, under any mask, with ALiBi or a learned bias.

    heads = 4, kv_heads = 4     heads = 4, kv_heads = 2     heads = 4, kv_heads = 1
    multi-head                  grouped queries             multi-query
    v v v v                     v   v                       v
    k k k k                     k   k                       k
    q q q q                     q q q q                     q q q q

Sources: Vaswani et al. 2017 (attention); Shazeer 2019 (multi-query); Ainslie et al. 2023
(grouped); Press et al. 2022 (ALiBi). What a query may attend to is a `Mask`; `attend` chooses the kernel:
on a processor with compiled kernels the tiles of `tiled_attention`, which skip what a mask hides; on a
GPU with compiled kernels `flex_attention`, which does so too; elsewhere torch's fused
`scaled_dot_product_attention`, with a dense mask where it cannot do without.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn import fused, native
from maquette.nn.flex_attention import flex_attention
from maquette.nn.linear import Linear
from maquette.nn.mask import Mask
from maquette.nn.position import alibi_slopes, rotate
from maquette.nn.tiled_attention import tiled_attention

Rotation = tuple[Tensor, Tensor]
SHORT, CAPTION = 256 * 256, 32 * 32  # scores of a head, up to which plain products are taken


@dataclass
class Prefix:
    """Keys and values before those of a sequence, which every query attends to (Li and Liang 2021).

    keys, values: (kv_heads, length, head_dim), or with a batch before, each row its own. bias: added to the
    scores, (1 or batch, length); None: 0.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None

    def __len__(self) -> int:
        return self.keys.shape[-2]

    def after(self, other: "Prefix") -> "Prefix":
        """Both, the other first."""
        biases = [other.bias, self.bias]
        rows = max(1 if b is None else len(b) for b in biases)
        filled = [
            self.keys.new_zeros(rows, len(p)) if b is None else b.expand(rows, -1)
            for p, b in zip((other, self), biases, strict=True)
        ]
        return Prefix(
            torch.cat([other.keys, self.keys], -2),
            torch.cat([other.values, self.values], -2),
            torch.cat(filled, 1) if any(b is not None for b in biases) else None,
        )

    def before(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values (batch, kv_heads, time, head_dim) with these before them."""
        rows = len(k)
        keys, values = (t.to(k.dtype).expand(rows, -1, -1, -1) for t in (self.keys, self.values))
        return torch.cat([keys, k], 2), torch.cat([values, v], 2)


@dataclass
class LayerCache:
    """Key-value cache of one layer: (batch, kv_heads, room, head_dim).

    context: keys and values (batch, heads, tokens, head_dim) of the cross-attention, made at the first call.
    prefix: keys and values before the first position, in the room but not in the length.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    context: tuple[Tensor, Tensor] | None = None
    prefix: Prefix | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; return all of them so far, after the prefix."""
        before = 0 if self.prefix is None else len(self.prefix)
        start = before + self.length
        end = start + k.shape[2]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        self.length = end - before
        return self.keys[:, :, :end], self.values[:, :, :end]

    def begin_with(self, prefix: Prefix) -> None:
        """Put a prefix before the first position, and make room for it."""
        assert self.length == 0 and self.prefix is None, "the sequence has begun"
        self.keys, self.values = prefix.before(self.keys, self.values)
        self.prefix = prefix


class Attention(nn.Module):
    """Self-attention: project to queries, keys and values, rotate by position, attend, project back.

    scale: factor of q k, from the parametrisation.
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
        alibi: bool = False,
        rotary_pairs: Literal["half", "interleaved"] = "half",
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scale, self.rotary_pairs = scale, rotary_pairs
        self.qkv = Linear(width, (heads + 2 * kv_heads) * head_dim, bias=bias)
        self.out = Linear(heads * head_dim, width, bias=bias, residual=True)
        self.slopes: Tensor | None
        slopes = torch.tensor(alibi_slopes(heads)) if alibi else None
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(
        self,
        x: Tensor,  # (batch, time, width)
        mask: Mask,
        rotation: Rotation | None = None,
        bias: Tensor | None = None,
        cache: LayerCache | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """rotation: cosines and sines of `rotary_table`. bias, prefix: see `attend`.

        cache: keys and values of the positions before, which grows by these; it keeps the prefix of the
        first call.
        """
        h, g, d = self.heads, self.kv_heads, self.head_dim
        qkv = self.qkv(x).unflatten(-1, (h + 2 * g, d))  # (batch, time, heads, head_dim)
        q, k, v = qkv.split((h, g, g), dim=2)
        if rotation is not None:
            q = rotate(q, *rotation, self.rotary_pairs)
            k = rotate(k, *rotation, self.rotary_pairs)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (batch, heads, time, head_dim)
        if cache is not None:
            if prefix is not None:
                cache.begin_with(prefix)
            k, v = cache.append(k, v)
            prefix = cache.prefix
        elif prefix is not None:
            k, v = prefix.before(k, v)
        if prefix is not None:
            y = attend_after(prefix, q, k, v, mask, scale=self.scale, slopes=self.slopes, bias=bias)
        else:
            y = attend(q, k, v, mask, scale=self.scale, slopes=self.slopes, bias=bias)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def cache(self, batch: int, room: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """Empty keys and values for `room` positions of `batch` sequences."""
        shape = (batch, self.kv_heads, room, self.head_dim)
        keys, values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        return LayerCache(keys, values)


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
        context: Tensor | None,  # (batch, tokens, context width)
        attention_mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """attention_mask: (batch, tokens), True where a token may be attended to; at least one a row.

        cache: keeps the keys and values of the context, which is read at the first call alone.
        """
        q = self.q(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if cache is not None and cache.context is not None:
            k, v = cache.context
        else:
            assert context is not None, "there is no context to attend to"
            k, v = self.keys_and_values(context, x.dtype)
            if cache is not None:
                cache.context = k, v
        y = attend(q, k, v, Mask(attention_mask=attention_mask), scale=self.scale)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def keys_and_values(self, context: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, heads, tokens, head_dim) of a context (batch, tokens, context width)."""
        k, v = self.kv(context.to(dtype)).unflatten(-1, (-1, self.head_dim)).chunk(2, dim=2)
        return k.transpose(1, 2), v.transpose(1, 2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    *,
    scale: float,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention of the queries to the keys that the mask allows, by the fastest kernel for that mask.

    q: (batch, heads, queries, head_dim); k, v: (batch, kv_heads, keys, head_dim). slopes: (heads,),
    ALiBi. bias: added to the scaled scores, (heads, queries, keys) or with a batch before; it may be
    learned. Returns (batch, heads, queries, head_dim).
    """
    batch, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    whole = queries == keys and queries > 1  # no cache: the queries are all positions
    biased = slopes is not None or bias is not None
    if mask.block_mask is not None and bias is None:
        return flex_attention(q, k, v, mask, scale=scale, slopes=slopes)
    if (
        whole
        and q.device.type == "cpu"
        and (fused.compiling() or native.usable(q))
        and _tiles_know(mask)
        and bias is None
    ):
        return tiled_attention(q, k, v, scale, mask.window, slopes, mask.document_ids)
    if queries == 1 and mask.only_causal and not biased:  # decoding: a query row a group, no copies
        grouped = q.view(batch, k.shape[1], -1, q.shape[3])
        return F.scaled_dot_product_attention(grouped, k, v, scale=scale).view(q.shape)
    if k.shape[1] != q.shape[1]:
        repeats = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(repeats, dim=1) for t in (k, v))
    if not biased and _plain(q, k, CAPTION if mask.causal else SHORT):
        return _products(q, k, v, scale, mask.dense(batch, queries, keys, q.device))
    if not biased and mask.only_causal and (whole or not mask.causal):
        return F.scaled_dot_product_attention(q, k, v, is_causal=mask.causal, scale=scale)
    allowed = mask.dense(batch, queries, keys, q.device)
    if biased:
        allowed = attention_bias(queries, keys, allowed, slopes, bias, q.device).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)


def attend_after(
    prefix: Prefix,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    *,
    scale: float,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """`attend` where the first keys and values are those of a prefix, which no mask hides.

    ALiBi and the bias are of the sequence alone.
    """
    length, batch, queries = len(prefix), q.shape[0], q.shape[2]
    keys = k.shape[2] - length
    plain = slopes is None and bias is None and prefix.bias is None and mask.only_causal
    if plain and (queries == 1 or not mask.causal):  # every query may attend to every key
        return attend(q, k, v, Mask(), scale=scale)
    allowed = mask.dense(batch, queries, keys, q.device)
    added = attention_bias(queries, keys, allowed, slopes, bias, q.device)
    added = added[(None,) * (4 - added.ndim)].expand(-1, -1, queries, keys)
    first = added.new_zeros(1, length) if prefix.bias is None else prefix.bias.to(added)
    rows = max(len(first), len(added))
    first = first[:, None, None].expand(rows, added.shape[1], queries, length)
    added = torch.cat([first, added.expand(rows, -1, -1, -1)], dim=3)
    if k.shape[1] != q.shape[1]:
        repeats = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(repeats, dim=1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added.to(q.dtype), scale=scale)


def _tiles_know(mask: Mask) -> bool:
    return mask.causal and mask.attention_mask is None and mask.pair_mask is None


def _plain(q: Tensor, k: Tensor, most: int) -> bool:
    """Whether plain products are faster: training in bf16 on a CPU with at most `most` scores.

    torch's fused kernel takes 3 times as long there, forward and backward, at 64 positions.
    """
    small = q.shape[2] * k.shape[2] <= most
    return small and q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16


def _products(q: Tensor, k: Tensor, v: Tensor, scale: float, allowed: Tensor | None) -> Tensor:
    scores = (q * scale) @ k.transpose(-1, -2)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def attention_bias(
    queries: int,
    keys: int,
    allowed: Tensor | None,
    slopes: Tensor | None,
    bias: Tensor | None,
    device: torch.device,
) -> Tensor:
    """The bias of the scores: ALiBi's slope times the distance, a learned bias, -inf where not allowed.

    Returns (batch or 1, heads, queries, keys), fp32.
    """
    added = torch.zeros((), device=device)
    if slopes is not None:
        position = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
        distance = torch.arange(keys, device=device) - position  # (queries, keys)
        added = slopes.float()[None, :, None, None] * distance
    if bias is not None:
        added = added + bias.float()
    return added if allowed is None else added.masked_fill(~allowed, -torch.inf)
