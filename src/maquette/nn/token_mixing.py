"""Mixing over time by learned matrices instead of attention: the spatial gating unit and its experts.

    h (time, hidden) --> u, v = halves;  v = norm(v)
    v --> chunks along the features:  v_1 ... v_E
    chunk i --> time x time matrix of an expert e(i), lower triangular --> g_i
    u * (1 + bias + g)

With one expert it is the spatial gating unit of gMLP (Liu et al. 2021, section 2.1, equation 3; the
matrix starts at 0 and the gate at 1). With several it is the sMoE module of Yu et al. 2022, section 3.
A row of the matrix belongs to one position, so no sequence is longer than the matrix. Which expert
mixes a chunk is its number (deterministic routing), or the choice of a gate that sees the mean of the
chunk over the first `prefix` positions of the document and never more than has been read.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.linear import Linear
from maquette.nn.moe import choose
from maquette.nn.norm import make_norm
from maquette.nn.rules import Role

Routing = Literal["deterministic", "partial", "naive"]


@dataclass
class MixCache:
    """Cache of one layer's values to mix: (batch, room, features)."""

    values: Tensor
    length: int = 0

    def append(self, v: Tensor) -> Tensor:
        """Store the new values; return all of them so far."""
        end = self.length + v.shape[1]
        self.values[:, self.length : end] = v
        self.length = end
        return self.values[:, :end]


@dataclass(frozen=True)
class QueryPositions:
    """Positions of queries when rows hold several documents, or start at different columns.

    positions: (batch, queries), the position of each query in its document. document_ids: (batch, keys),
    positions with equal numbers see each other.
    """

    positions: Tensor
    document_ids: Tensor | None


class SpatialGating(nn.Module):
    """u * (1 + bias + mixed v) for the halves u, v of its input.

    features: width of a half. experts: number of matrices, and of chunks that v is cut into. context:
    rows of a matrix. prefix: positions that the gate of "partial" routing sees. gate_multiplier: factor
    of the gate's scores, from the parametrisation. multiplier: factor of the mixing; as the matrices
    start at 0 and Adam's steps have one size, it sets how fast they learn.
    """

    def __init__(
        self,
        features: int,
        context: int,
        experts: int,
        *,
        routing: Routing = "deterministic",
        prefix: int = 1,
        norm: Literal["layernorm", "rmsnorm"] = "layernorm",
        epsilon: float = 1e-5,
        multiplier: float = 1.0,
        gate_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.experts, self.context = experts, context
        self.routing, self.prefix = routing, prefix
        self.multiplier, self.gate_multiplier = multiplier, gate_multiplier
        self.roles = {"mixing": Role.VECTOR, "bias": Role.VECTOR}  # no size grows with the width
        self.norm = make_norm(norm, features, bias=False, epsilon=epsilon)
        self.mixing = nn.Parameter(torch.empty(experts, context, context))
        self.bias = nn.Parameter(torch.empty(experts, context))
        self.gate: Linear | None = None
        if routing != "deterministic" and experts > 1:
            self.gate = Linear(features // experts, experts, role=Role.OUTPUT)

    def forward(
        self,
        h: Tensor,
        query_positions: QueryPositions | None = None,
        cache: MixCache | None = None,
    ) -> Tensor:  # (batch, queries, 2 features) -> (batch, queries, features)
        u, v = h.chunk(2, dim=-1)
        v = self.norm(v)
        if cache is not None:
            v = cache.append(v)
        queries, keys = u.shape[1], v.shape[1]
        chunks = v.unflatten(-1, (self.experts, -1))  # (batch, keys, chunks, chunk)
        if self.gate is None and query_positions is None:
            gating = self._by_number(chunks, queries)
        else:
            gating = self._by_choice(chunks, queries, keys, query_positions)
        return u * (1 + gating.flatten(-2))

    def _by_number(self, chunks: Tensor, queries: int) -> Tensor:
        """Chunk i is mixed by matrix i: one product for all sequences. (batch, queries, e, chunk)."""
        batch, keys, experts, size = chunks.shape
        rows = slice(keys - queries, keys)
        weight = self.mixing[:, rows, :keys].tril(keys - queries).to(chunks.dtype)
        together = chunks.permute(2, 1, 0, 3).reshape(experts, keys, batch * size)
        mixed = torch.bmm(weight, together) * self.multiplier
        mixed = mixed + self.bias[:, rows, None].to(chunks.dtype)
        mixed = mixed.view(experts, queries, batch, size)
        return mixed.permute(2, 1, 0, 3)

    def _by_choice(
        self, chunks: Tensor, queries: int, keys: int, query_positions: QueryPositions | None
    ) -> Tensor:
        """Mix each chunk at each position by the matrix of its expert."""
        device = chunks.device
        row = torch.arange(keys - queries, keys, device=device)  # columns of the queries
        position = (
            row[None] if query_positions is None else query_positions.positions
        )  # (batch or 1, queries)
        expert, strength = self._choice(chunks, row, position)  # (batch or 1, chunks, queries)
        index = expert * self.context + position[:, None]
        weight = F.embedding(index, self.mixing.flatten(0, 1))  # (batch, chunks, queries, context)
        distance = row[:, None] - torch.arange(keys, device=device)  # (queries, keys)
        column = position[..., None] - distance  # (batch or 1, queries, keys): the key's position
        allowed = (distance >= 0) & (column >= 0)
        if query_positions is not None and query_positions.document_ids is not None:
            asking = query_positions.document_ids[:, keys - queries :]
            allowed = allowed & (asking[..., None] == query_positions.document_ids[:, None])
        column = column.clamp(0, self.context - 1)[:, None].expand(*weight.shape[:3], keys)
        weight = weight.gather(-1, column) * allowed[:, None]
        weight = weight * (strength[..., None] * self.multiplier)
        mixed = weight.to(chunks.dtype) @ chunks.transpose(1, 2)  # (batch, chunks, queries, chunk)
        bias = F.embedding(index, self.bias.flatten()[:, None])
        return (mixed + bias.to(chunks.dtype)).transpose(1, 2)

    def _choice(self, chunks: Tensor, row: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The expert of each chunk at each query, and the strength of the gate: (batch, chunks, queries)."""
        if self.gate is None:
            number = torch.arange(self.experts, device=chunks.device)[None, :, None]
            return number, torch.ones((), device=chunks.device)[None, None, None]
        keys = chunks.shape[1]
        first = row - position  # where the query's document starts: (batch or 1, queries)
        if self.routing == "partial":
            last = torch.minimum(row, first + self.prefix - 1)
        else:
            last = torch.full_like(first, keys - 1)  # naive: all of the row, the future too
        sums = F.pad(
            chunks.float().cumsum(1), (0, 0, 0, 0, 1, 0)
        )  # (batch, keys + 1, chunks, chunk)
        total = _rows(sums, last + 1) - _rows(sums, first)
        summary = total / (last + 1 - first)[..., None, None]  # (batch, queries, chunks, chunk)
        scores = self.gate(summary.to(chunks.dtype)).float() * self.gate_multiplier
        settled = scores[:, -1].flatten(0, 1) if self.training else None
        expert, strength = choose(scores, settled)
        return expert.transpose(1, 2), strength.transpose(1, 2)


def _rows(sums: Tensor, index: Tensor) -> Tensor:
    """sums (batch, keys, ...) at index (batch or 1, queries)."""
    if index.shape[0] == 1:
        return sums[:, index[0]]
    return sums[torch.arange(sums.shape[0], device=sums.device)[:, None], index]


class TokenMixing(nn.Module):
    """width -> hidden -> spatial gating -> width: the gMLP block without its norm and its residual."""

    def __init__(self, width: int, hidden: int, gating: SpatialGating) -> None:
        super().__init__()
        self.features = hidden // 2
        self.up = Linear(width, hidden)
        self.gating = gating
        self.down = Linear(hidden // 2, width, residual=True)

    def forward(
        self,
        x: Tensor,
        query_positions: QueryPositions | None = None,
        cache: MixCache | None = None,
    ) -> Tensor:  # (batch, queries, width) -> (batch, queries, width)
        h = F.gelu(self.up(x))
        return self.down(self.gating(h, query_positions, cache))  # type: ignore[no-any-return]

    def cache(self, batch: int, room: int, dtype: torch.dtype, device: torch.device) -> MixCache:
        """An empty cache of `room` positions of `batch` sequences."""
        return MixCache(torch.empty(batch, room, self.features, dtype=dtype, device=device))
