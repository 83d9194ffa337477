"""The caption encoder of a diffusion model (GLIDE: Nichol et al. 2022, section 4)."""

import torch
from torch import Tensor, nn

from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.picture_config import EOS_TOKEN_ID
from maquette.nn.linear import Embedding
from maquette.nn.mask import Mask, caption_mask
from maquette.nn.norm import LayerNorm
from maquette.nn.rules import Scaling
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock


class TextEncoder(nn.Module):
    """Captions (n, caption_length) -> their tokens, which of them count, and the pooled one."""

    def __init__(self, config: DiffusionConfig, scaling: Scaling) -> None:
        super().__init__()
        c = config
        self.embedding = Embedding(c.vocabulary, c.text_width)
        self.position = Embedding(c.caption_length, c.text_width)
        self.blocks = Stack(
            TransformerBlock(c.text_width, c.text_heads, scaling) for _ in range(c.text_depth)
        )
        self.norm = LayerNorm(c.text_width, bias=True)

    def forward(self, captions: Tensor, compute: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        mask = caption_mask(captions, EOS_TOKEN_ID)
        used = int(mask.sum(1).max())  # beyond the longest caption there is nothing to read
        captions, mask = captions[:, :used], mask[:, :used]
        x = self.embedding(captions) + self.position.weight[:used]
        x = self.norm(self.blocks(x.to(compute), mask=Mask(attention_mask=mask)))
        last = mask.sum(1) - 1
        return x, mask, x[torch.arange(len(x), device=x.device), last]
