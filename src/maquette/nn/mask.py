"""Attention masks: which keys a query may attend to, stated once for every kernel.

    causal          no later position                     (language models)
    window          no position that far away or further  (Child et al. 2019, the band of sparse layers)
    document_ids    no position of another document       (several documents in one sequence)
    attention_mask  no padding                            (captions, encoders)
    pair_mask       no pair that is ruled out by itself   (prefix and permuted language models)

A key is attended to where everything that is set allows it. `Mask.allows` is the one rule: on grids of
indices it gives the dense matrix, with single indices the function that FlexAttention compiles.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Mask:
    """Everything that decides which keys a query may attend to; `Mask()` allows every pair.

    The queries are the last positions of the keys: as many in training, one in a step of decoding.
    """

    causal: bool = False
    """no query attends to a later position"""
    window: int | None = None
    """attention window: number of positions attended to on either side, the query's own included"""
    document_ids: Tensor | None = None
    """(batch, keys): positions with equal numbers may attend to each other"""
    attention_mask: Tensor | None = None
    """(batch, keys), True where a key may be attended to; at least one for every query"""
    pair_mask: Tensor | None = None
    """(batch, queries, keys), True where the query may attend to the key; at least one a query"""
    block_mask: Any = None
    """the same rule as FlexAttention's `BlockMask`, where `nn.flex_attention` has prepared it"""

    @property
    def only_causal(self) -> bool:
        """Whether `causal` is the only restriction."""
        return (
            self.window is None
            and self.document_ids is None
            and self.attention_mask is None
            and self.pair_mask is None
        )

    def allows(self, batch: Tensor, query: Tensor, key: Tensor, past: int) -> Tensor:
        """Whether a query may attend to a key, bool, for indices (int64) that broadcast.

        past: number of keys before the first query. The result has the dimensions that matter.
        """
        position = query + past
        conditions = []
        if self.causal:
            conditions.append(key <= position)
        if self.window is not None:
            conditions.append(key > position - self.window)
            if not self.causal:
                conditions.append(key < position + self.window)
        if self.document_ids is not None:
            conditions.append(self.document_ids[batch, position] == self.document_ids[batch, key])
        if self.attention_mask is not None:
            conditions.append(self.attention_mask[batch, key])
        if self.pair_mask is not None:
            conditions.append(self.pair_mask[batch, query, key])
        return functools.reduce(torch.logical_and, conditions or [key >= 0])

    def dense(self, batch: int, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """`allows` as a matrix, None where every pair is allowed.

        Returns (batch or 1, 1, queries or 1, keys), bool.
        """
        if self.only_causal and not self.causal:
            return None
        rows = torch.arange(batch, device=device)[:, None, None, None]
        query = torch.arange(queries, device=device)[:, None]
        allowed = self.allows(rows, query, torch.arange(keys, device=device), keys - queries)
        return allowed[(None,) * (4 - allowed.ndim)]


def caption_mask(tokens: Tensor, eos_token_id: int) -> Tensor:
    """Attention mask of captions (batch, length): True up to the first EOS token and at it."""
    ends = tokens == eos_token_id
    return torch.cumsum(ends, dim=1) - ends.long() == 0
