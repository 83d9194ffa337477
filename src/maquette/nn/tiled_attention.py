"""Causal attention for processors: row tiles, large matrix products, one compiled kernel a tile.

The scores of 256 query rows at a time are one batched matrix product against the keys those rows
can see (keys that a causal mask or a band hides from all of them are left out), and a kernel, of
`native.py` or compiled by torch, turns them into probabilities in one pass. Backward recomputes them
from the stored log-sum-exp. So scores exist for one tile only, and memory grows with the length, not
with its square.

The idea is FlashAttention's (Dao et al. 2022, algorithm 1; 2023, eq. for the backward pass) cut
for a cache of megabytes and a matrix library that wants large products: on 2 cores it takes half
the time of torch's own kernel at 256 positions (docs/log.md).
Left out: dropout on the probabilities.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.nn import native, native_rows
from maquette.nn.fused import fused

ROWS = 256  # query rows a tile
TILE_BYTES = 1 << 22  # the scores of one tile stay in the last-level cache


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
    for tile in _tiles(q, k, scale, window, slopes, document_ids):
        batch, rows, keys = tile.where
        scores = _product(q[batch, :, rows], k[batch, :, keys])
        probabilities, logsumexp[batch, :, rows] = tile.softmax(scores)
        out[batch, :, rows] = _apply(probabilities, v[batch, :, keys])
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
    whole = q.shape[2] <= ROWS  # a sequence is one tile, and nothing is summed over tiles
    d_k, d_v = (
        torch.empty_like(t) if whole else torch.zeros_like(t, dtype=torch.float32) for t in (k, v)
    )
    delta = (native_rows.row_products if native.usable(out) else _row_products)(d_out, out)
    for tile in _tiles(q, k, scale, window, slopes, document_ids):
        batch, rows, keys = tile.where
        q_rows, d_rows = q[batch, :, rows], d_out[batch, :, rows]
        probabilities, d_scores = tile.softmax_backward(
            _product(q_rows, k[batch, :, keys]),
            _product(d_rows, v[batch, :, keys]),
            logsumexp[batch, :, rows],
            delta[batch, :, rows],
        )
        d_q[batch, :, rows] = _apply(d_scores, k[batch, :, keys])
        tile_d_k = _apply_transposed(d_scores, q_rows, k.shape[1])
        tile_d_v = _apply_transposed(probabilities, d_rows, k.shape[1])
        if whole:
            d_k[batch], d_v[batch] = tile_d_k, tile_d_v
        else:
            d_k[batch, :, keys] += tile_d_k
            d_v[batch, :, keys] += tile_d_v
    return d_q, d_k.to(k.dtype), d_v.to(v.dtype)


@dataclass(frozen=True)
class Tile:
    """Some query rows of some sequences against the keys that they can see.

    where: places of the sequences, rows and keys. slopes: (heads,). document_ids: (sequences, time).
    """

    where: tuple[slice, slice, slice]
    scale: float
    window: int
    slopes: Tensor | None
    document_ids: Tensor | None

    def softmax(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities in the place of scores (batch, heads, rows, keys); (batch, heads, rows)."""
        if native.usable(scores):
            return scores, native_rows.softmax_(scores, self._native(scores))
        return _softmax(scores, *self._arguments())

    def softmax_backward(
        self, scores: Tensor, d_probabilities: Tensor, logsumexp: Tensor, delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Probabilities and the scores' gradient, (batch, heads, rows, keys) each."""
        if native.usable(scores):
            lse, means = logsumexp.contiguous(), delta.contiguous()
            native_rows.softmax_backward_(scores, d_probabilities, lse, means, self._native(scores))
            return scores, d_probabilities
        return _softmax_backward(scores, d_probabilities, logsumexp, delta, *self._arguments())

    def _native(self, scores: Tensor) -> native_rows.Tile:
        _, rows, keys = self.where
        ids = self.document_ids
        return native_rows.make_tile(
            scores, rows.start, keys.start, self.window, self.scale, self.slopes, ids
        )

    def _arguments(self) -> tuple[float, int, Tensor | None, Tensor | None, Tensor | None]:
        _, rows, keys = self.where
        ids = self.document_ids
        row_ids, key_ids = (None, None) if ids is None else (ids[:, rows], ids[:, keys])
        return self.scale, self.window, self.slopes, row_ids, key_ids


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
    if slopes is not None:
        x = x + slopes[:, None, None] * distance
    if row_ids is not None and key_ids is not None:
        same = row_ids.unsqueeze(-1) == key_ids.unsqueeze(-2)  # (batch, rows, keys)
        allowed = allowed & same[:, None]
    return torch.where(allowed, x, -torch.inf)


@fused
def _row_products(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() * b.float()).sum(-1)


def _tiles(
    q: Tensor,
    k: Tensor,
    scale: float,
    window: int,
    slopes: Tensor | None,
    document_ids: Tensor | None,
) -> Iterator[Tile]:
    batch, heads, time, _ = q.shape
    slopes = None if slopes is None else slopes.float().contiguous()
    ids = None
    if document_ids is not None:
        ids = document_ids.int().expand(batch, -1).contiguous()
    sequence_bytes = heads * min(ROWS, time) * time * q.element_size()
    step = max(1, TILE_BYTES // sequence_bytes)
    for b in range(0, batch, step):
        some = slice(b, b + step)
        for start in range(0, time, ROWS):
            end = min(start + ROWS, time)
            first = max(0, start - window + 1) if window else 0
            where = some, slice(start, end), slice(first, end)
            yield Tile(where, scale, window, slopes, None if ids is None else ids[some])


# Below, `group` = heads / kv_heads query heads share a key-value head.


def _product(q_rows: Tensor, k: Tensor) -> Tensor:
    """(b, heads, rows, d) x (b, kv_heads, keys, d) -> (b, heads, rows, keys)."""
    b, heads, rows, d = q_rows.shape
    grouped = q_rows.reshape(b * k.shape[1], -1, d)  # (b kv_heads, group rows, d)
    return torch.bmm(grouped, _flat(k).transpose(1, 2)).view(b, heads, rows, -1)


def _apply(weights: Tensor, v: Tensor) -> Tensor:
    """(b, heads, rows, keys) x (b, kv_heads, keys, d) -> (b, heads, rows, d)."""
    b, heads, rows, keys = weights.shape
    grouped = weights.view(b * v.shape[1], -1, keys)
    return torch.bmm(grouped, _flat(v)).view(b, heads, rows, -1)


def _apply_transposed(weights: Tensor, x_rows: Tensor, kv_heads: int) -> Tensor:
    """(b, heads, rows, keys) x (b, heads, rows, d) -> (b, kv_heads, keys, d)."""
    b, _, _, keys = weights.shape
    x = x_rows.reshape(b * kv_heads, -1, x_rows.shape[3])
    flat = torch.bmm(weights.view(b * kv_heads, -1, keys).transpose(1, 2), x)
    return flat.view(b, kv_heads, keys, -1)


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
