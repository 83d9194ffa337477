"""One decoder for the family that began with GPT-2: every member is a setting of its config.

    GPT-2, GPT-3  learned positions, LayerNorm, GELU, biases, tied; GPT-3 bands every second layer
    GPT-J         parallel block, rotary positions on part of each head, pairs interleaved
    PaLM          parallel block, SwiGLU, one key-value head, no biases, tied
    LLaMA         RMSNorm, SwiGLU, grouped queries, rotary positions
    BLOOM         ALiBi, a norm after the embedding, biases, tied

The block is `nn.transformer`'s; the settings are in `config.py`, those of the published models in
`families.py`. Left out: encoder-decoder attention, mixture of experts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.models.base import LanguageModel
from maquette.models.config import DecoderConfig
from maquette.nn import flex_attention
from maquette.nn.attention import LayerCache, Prefix
from maquette.nn.linear import Embedding, Linear
from maquette.nn.mask import Mask
from maquette.nn.norm import make_norm
from maquette.nn.parametrisation import scaled
from maquette.nn.position import rotary_table
from maquette.nn.rules import Role
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock


class Decoder(LanguageModel):
    """The decoder of a config; see `LanguageModel` for what it offers."""

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
        self.blocks = Stack(self._block() for _ in range(c.depth))
        self.norm = make_norm(c.norm, c.width, bias=c.norm_bias, epsilon=c.norm_epsilon)
        self.output = Linear(c.width, c.vocabulary, bias=c.output_bias, role=Role.OUTPUT)
        if c.tied:
            self.output.weight = self.embedding.weight

    def hidden(
        self,
        tokens: Tensor,  # (batch, time)
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: list[LayerCache] | None = None,
    ) -> Tensor:
        c = self.config
        if positions is None:
            past = cache[0].length if cache else 0
            positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        x = scaled(self.embedding(tokens), self.scaling.input_multiplier)
        if self.position is not None:
            x = x + scaled(self.position(positions), self.scaling.input_multiplier)
        x = x.to(self.compute)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = F.dropout(x, c.dropout, self.training)
        rotation = None
        if c.positions == "rotary":
            rotation = rotary_table(positions, c.turned, c.rotary_base)
        mask = self._masks(tokens, document_ids, cache is not None)
        x = self.blocks(x, mask=mask, rotation=rotation, caches=cache)
        return self.norm(x)  # type: ignore[no-any-return]

    def prefixes(self, vectors: Tensor) -> list[Prefix]:
        """They stand at positions -length, ..., -1, and a learned table has no row for them."""
        c, length = self.config, vectors.shape[-2]
        x = vectors.view(-1, length, c.width).to(self.compute)  # (rows, length, width)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        rotation = None
        if c.positions == "rotary":
            before = torch.arange(-length, 0, device=x.device)
            rotation = rotary_table(before, c.turned, c.rotary_base)
        caches: list[LayerCache] = self.blocks.make_caches(len(x), length, x.dtype, x.device)
        for layer, block in enumerate(self.blocks):
            mask = Mask(causal=True, window=c.window(layer))
            x = block(x, mask=mask, rotation=rotation, cache=caches[layer])
        one = vectors.dim() == 2
        return [Prefix(c.keys[0], c.values[0]) if one else Prefix(c.keys, c.values) for c in caches]

    def prefix_shape(self, length: int) -> tuple[int, int, int, int]:
        c = self.config
        return c.depth, c.group_heads, length, c.head

    def _masks(self, tokens: Tensor, document_ids: Tensor | None, cached: bool) -> list[Mask]:
        """The mask of each block."""
        c, (batch, time) = self.config, tokens.shape
        windows = [c.window(layer) for layer in range(c.depth)]
        masks = {w: Mask(causal=True, window=w, document_ids=document_ids) for w in set(windows)}
        if not cached:
            heads, alibi = (c.heads, c.group_heads, c.head), c.positions == "alibi"
            for w, mask in masks.items():
                masks[w] = flex_attention.prepared(mask, batch, time, tokens.device, alibi, heads)
        return [masks[w] for w in windows]

    def _block(self) -> TransformerBlock:
        c = self.config
        return TransformerBlock(
            c.width,
            c.heads,
            self.scaling,
            kv_heads=c.group_heads,
            head_dim=c.head,
            hidden=c.inner,
            activation=c.activation,
            norm=c.norm,
            norm_bias=c.norm_bias,
            epsilon=c.norm_epsilon,
            attention_bias=c.attention_bias,
            feedforward_bias=c.feedforward_bias,
            parallel=c.block == "parallel",
            dropout=c.dropout,
            alibi=c.positions == "alibi",
            rotary_pairs=c.rotary_pairs,
        )
