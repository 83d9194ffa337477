"""Vision Transformer: a picture as a sequence of patches.

    picture -> patches -> + positions -> [class, patches] -> blocks -> norm -> heads

Dosovitskiy et al. 2021, section 3.1: patches are mapped linearly, positions are learned, the class token
stands first, blocks are pre-norm. Positions are a table of the patches alone; the class token's own is
part of that token. `pool: mean` has no class token (as big_vision's later ViTs). Heads are single linear
maps. At another resolution the learned table is resized. Left out: the tanh head of pre-training, dropout.
"""

from typing import ClassVar

import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.models.classifier import Classifier
from maquette.models.vit_config import ViTConfig
from maquette.nn.linear import Embedding
from maquette.nn.mask import Mask
from maquette.nn.norm import LayerNorm
from maquette.nn.parametrisation import scaled
from maquette.nn.patches import Patches, resize_positions, sincos2d
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock


class ViT(Classifier):
    """The Vision Transformer of a config."""

    config: ViTConfig
    grid: Tensor | None
    grids: ClassVar[dict[str, int]] = {"position.weight": 0}

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        c = config
        self.patches = Patches(c.patch, c.width)
        self.position = Embedding(c.patches, c.width) if c.positions == "learned" else None
        grid = sincos2d(c.image_size // c.patch, c.width) if c.positions == "sincos2d" else None
        self.register_buffer("grid", grid, persistent=False)
        self.cls = Embedding(1, c.width) if c.pool == "cls" else None
        self.summary = int(c.pool == "cls")
        """tokens before the patches: the class token"""
        self.blocks = Stack(
            TransformerBlock(
                c.width, c.heads, self.scaling, hidden=c.hidden, epsilon=c.norm_epsilon
            )
            for _ in range(c.depth)
        )
        self.norm = LayerNorm(c.width, bias=True, epsilon=c.norm_epsilon)
        self.heads = self.make_heads(c.width)

    def features(self, pictures: Tensor) -> Tensor:
        """(n, 3, height, width) in [-1, 1] -> (n, width): the class token, or the mean of the patches."""
        x = self.hidden(pictures)
        return x[:, 0] if self.cls is not None else x.mean(1)

    def hidden(self, pictures: Tensor) -> Tensor:
        """The normed sequence of [class, patches], (n, tokens, width).

        Raises WrongUse for pictures that are not whole patches, or of another side than the fixed
        positions are made for.
        """
        x = self.blocks(self.embed(pictures), mask=Mask())
        return self.norm(x)  # type: ignore[no-any-return]

    def embed(self, pictures: Tensor) -> Tensor:
        """[class, patches] with their positions, (n, tokens, width)."""
        c, multiplier = self.config, self.scaling.input_multiplier
        side, rest = divmod(pictures.shape[-1], c.patch)
        if rest:
            raise WrongUse(
                f"pictures of {pictures.shape[-1]} pixels are not whole patches of {c.patch}: "
                f"use a size that is a multiple of {c.patch}"
            )
        x = self.patches(pictures.to(self.compute))  # (n, side^2, width)
        if self.position is not None:
            x = x + resize_positions(self.position.weight, side).to(x.dtype)
        elif self.grid is not None:
            grid = self.grid if side * side == len(self.grid) else sincos2d(side, c.width)
            x = x + grid.to(x)
        if self.cls is not None:
            cls = self.cls.weight.to(x.dtype).expand(len(x), 1, -1)
            x = torch.cat([cls, x], dim=1)
        return scaled(x, multiplier)
