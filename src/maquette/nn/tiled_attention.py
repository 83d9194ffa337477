"""Causal attention for processors: row tiles, large matrix products, one compiled kernel a tile.

The scores of 128 query rows at a time are one batched matrix product against the keys those rows
can see (what a causal mask or a band hides is never computed), and a compiled kernel turns them
into probabilities in one pass. Backward recomputes them from the stored log-sum-exp. So scores
exist for one tile only, and memory grows with the length, not with its square.

The idea is FlashAttention's (Dao et al. 2022, algorithm 1; 2023, eq. for the backward pass) cut
for a cache of megabytes and a matrix library that wants large products: on 2 cores it takes half
the time of torch's own kernel at 256 positions (docs/log.md).
Left out: dropout on the probabilities.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from maquette.nn.fused import fused

ROWS = 128  # query rows a tile
TILE_BYTES = 1 << 25  # the scores of one tile stay in the last-level cache

Tile = tuple[slice, slice, slice]  # batch, query rows, keys


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int | None = None,
    slopes: Tensor | None = None,
    document_ids: Tensor | None = None,
) -> Tensor:
    """q: (batch, heads, time, head_dim); k, v: (batch, kv_heads, time, head_dim).

    slopes: (heads,); document_ids: (batch, time). Returns q's shape. See `attention.attend`.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out: Tensor = _forward(q, k, v, scale, window or 0, slopes, document_ids)[0]
    return out


@torch.library.custom_op("maquette::tiled_attention", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int,
    slopes: Tensor | None,
    document_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(q)
    logsumexp = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    grouped = _group(q, k)
    for batch, rows, keys in _tiles(grouped, window):
        scores = _product(grouped[batch, :, :, rows], k[batch, :, keys])
        allowed = _document_ids(document_ids, batch, rows, keys)
        probabilities, lse = _softmax(scores, scale, window, _heads(slopes, grouped), *allowed)
        _group(out, k)[batch, :, :, rows] = _apply(probabilities, v[batch, :, keys])
        _group(logsumexp, k)[batch, :, :, rows] = lse
    return out, logsumexp


@torch.library.custom_op("maquette::tiled_attention_backward", mutates_args=())
def _backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    window: int,
    slopes: Tensor | None,
    document_ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    d_q = torch.empty_like(q)
    d_k, d_v = (torch.zeros_like(t, dtype=torch.float32) for t in (k, v))
    grouped, d_out = _group(q, k), _group(d_out, k)
    delta = _row_products(d_out, _group(out, k))
    logsumexp = _group(logsumexp, k)
    for batch, rows, keys in _tiles(grouped, window):
        q_rows, d_rows = grouped[batch, :, :, rows], d_out[batch, :, :, rows]
        scores = _product(q_rows, k[batch, :, keys])
        d_probabilities = _product(d_rows, v[batch, :, keys])
        probabilities, d_scores = _softmax_backward(
            scores,
            d_probabilities,
            logsumexp[batch, :, :, rows],
            delta[batch, :, :, rows],
            scale,
            window,
            _heads(slopes, grouped),
            *_document_ids(document_ids, batch, rows, keys),
        )
        _group(d_q, k)[batch, :, :, rows] = _apply(d_scores, k[batch, :, keys])
        d_k[batch, :, keys] += _apply_transposed(d_scores, q_rows)
        d_v[batch, :, keys] += _apply_transposed(probabilities, d_rows)
    return d_q, d_k.to(k.dtype), d_v.to(v.dtype)


# Shapes below: grouped q (batch, kv_heads, group, time, head_dim), where `group` query heads share
# a key-value head; a tile's scores (batch, kv_heads, group, rows, keys).


@fused
def _softmax(
    scores: Tensor,
    scale: float,
    window: int,
    slopes: Tensor | None,
    row_ids: Tensor | None,
    key_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    x = _visible(scores, scale, window, slopes, row_ids, key_ids)
    top = x.amax(-1, keepdim=True)
    weight = torch.exp(x - top)
    total = weight.sum(-1, keepdim=True)
    return (weight / total).to(scores.dtype), (top + total.log()).squeeze(-1)


@fused
def _softmax_backward(
    scores: Tensor,
    d_probabilities: Tensor,
    logsumexp: Tensor,
    delta: Tensor,
    scale: float,
    window: int,
    slopes: Tensor | None,
    row_ids: Tensor | None,
    key_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    x = _visible(scores, scale, window, slopes, row_ids, key_ids)
    p = torch.exp(x - logsumexp.unsqueeze(-1))
    d_scores = p * (d_probabilities.float() - delta.unsqueeze(-1)) * scale
    return p.to(scores.dtype), d_scores.to(scores.dtype)


def _visible(
    scores: Tensor,
    scale: float,
    window: int,
    slopes: Tensor | None,
    row_ids: Tensor | None,
    key_ids: Tensor | None,
) -> Tensor:
    """Scaled scores in fp32 with ALiBi added and -inf where hidden. Rows and keys end together."""
    rows, keys = scores.shape[-2:]
    distance = torch.arange(keys, device=scores.device) - (keys - rows)
    distance = distance - torch.arange(rows, device=scores.device).unsqueeze(1)  # (rows, keys)
    allowed = distance <= 0
    if window:
        allowed = allowed & (distance > -window)
    x = scores.float() * scale
    if slopes is not None:  # (kv_heads, group)
        x = x + slopes[:, :, None, None] * distance
    if row_ids is not None and key_ids is not None:
        same = row_ids.unsqueeze(-1) == key_ids.unsqueeze(-2)  # (batch, rows, keys)
        allowed = allowed & same[:, None, None]
    return torch.where(allowed, x, -torch.inf)


@fused
def _row_products(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() * b.float()).sum(-1)


def _tiles(q: Tensor, window: int) -> Iterator[Tile]:
    batch, kv_heads, group, time, _ = q.shape
    sequence_bytes = kv_heads * group * min(ROWS, time) * time * q.element_size()
    step = max(1, TILE_BYTES // sequence_bytes)
    for b in range(0, batch, step):
        for start in range(0, time, ROWS):
            end = min(start + ROWS, time)
            first = max(0, start - window + 1) if window else 0
            yield slice(b, b + step), slice(start, end), slice(first, end)


def _group(x: Tensor, k: Tensor) -> Tensor:
    """View (batch, heads, ...) as (batch, kv_heads, group, ...)."""
    grouped: Tensor = x.unflatten(1, (k.shape[1], -1))
    return grouped


def _heads(slopes: Tensor | None, q: Tensor) -> Tensor | None:
    return None if slopes is None else slopes.view(q.shape[1], q.shape[2])


def _document_ids(
    document_ids: Tensor | None, batch: slice, rows: slice, keys: slice
) -> tuple[Tensor | None, Tensor | None]:
    return (
        (None, None)
        if document_ids is None
        else (document_ids[batch, rows], document_ids[batch, keys])
    )


def _product(q_rows: Tensor, k: Tensor) -> Tensor:
    """(b, g, group, rows, d) x (b, g, keys, d) -> (b, g, group, rows, keys)."""
    b, g, group, rows, d = q_rows.shape
    flat = torch.bmm(q_rows.reshape(b * g, group * rows, d), _flat(k).transpose(1, 2))
    return flat.view(b, g, group, rows, -1)


def _apply(weights: Tensor, v: Tensor) -> Tensor:
    """(b, g, group, rows, keys) x (b, g, keys, d) -> (b, g, group, rows, d)."""
    b, g, group, rows, keys = weights.shape
    flat = torch.bmm(weights.view(b * g, group * rows, keys), _flat(v))
    return flat.view(b, g, group, rows, -1)


def _apply_transposed(weights: Tensor, x_rows: Tensor) -> Tensor:
    """(b, g, group, rows, keys) x (b, g, group, rows, d) -> (b, g, keys, d)."""
    b, g, group, rows, keys = weights.shape
    x = x_rows.reshape(b * g, group * rows, -1)
    flat = torch.bmm(weights.view(b * g, group * rows, keys).transpose(1, 2), x)
    return flat.view(b, g, keys, -1)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:])


@_forward.register_fake
def _(q, k, v, scale, window, slopes, document_ids):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@_backward.register_fake
def _(d_out, q, k, v, out, logsumexp, scale, window, slopes, document_ids):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _remember(ctx, inputs, output):  # type: ignore[no-untyped-def]
    q, k, v, scale, window, slopes, document_ids = inputs
    ctx.save_for_backward(q, k, v, *output, slopes, document_ids)
    ctx.scale, ctx.window = scale, window


def _gradient(ctx, d_out, _):  # type: ignore[no-untyped-def]
    q, k, v, out, logsumexp, slopes, document_ids = ctx.saved_tensors
    gradients = _backward(
        d_out.contiguous(), q, k, v, out, logsumexp, ctx.scale, ctx.window, slopes, document_ids
    )
    return *gradients, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_remember)
