"""Vision Transformer: a picture as a sequence of patches; and the prompts that adapt it frozen.

    picture -> patches -> + positions -> [class, prompts, patches] -> blocks -> norm -> heads

Dosovitskiy et al. 2021, section 3.1: patches are mapped linearly, positions are learned, the class token
stands first, blocks are pre-norm. Positions are a table of the patches alone; the class token's own is
part of that token. `pool: mean` has no class token (as big_vision's later ViTs). Heads are single linear
maps. At another resolution the learned table is resized.

Visual prompts, Jia et al. 2022, section 3.2. Shallow: p tokens enter before the first block and flow on.
Deep: before every later block what came out of the prompts is dropped and that block's own take their
place. They have no position and start uniform in (-v, v), v = sqrt(6 / (3 patch^2 + width)). The encoder
has no dropout, so a frozen one computes in training what it computes in evaluation. Left out: the
projection of prompts (off by default there), the tanh head of pre-training.
"""

import hashlib
import math
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.classifier import Classifier
from maquette.models.vit_config import ViTConfig
from maquette.nn.linear import Embedding
from maquette.nn.low_rank import add_low_rank
from maquette.nn.mask import Mask
from maquette.nn.norm import LayerNorm
from maquette.nn.parametrisation import scaled
from maquette.nn.patches import Patches, resize_positions, sincos2d
from maquette.nn.rules import Role
from maquette.nn.stack import Stack
from maquette.nn.transformer import TransformerBlock


class Prompts(nn.Module):
    """`count` tokens for each of `layers` blocks: (layers, count, width)."""

    def __init__(self, layers: int, count: int, width: int, bound: float) -> None:
        super().__init__()
        self.roles = {"weight": Role.INPUT}
        self.weight = nn.Parameter(torch.empty(layers, count, width))
        self.bound = bound

    @torch.no_grad()
    def start_uniform(self, seed: int) -> None:
        """Draw them from U(-bound, bound), as a function of the seed alone."""
        digest = hashlib.sha256(f"{seed}/prompts".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        drawn = torch.empty(self.weight.shape, dtype=torch.float32)
        self.weight.copy_(drawn.uniform_(-self.bound, self.bound, generator=generator))


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
        self.prompts = None
        if c.prompts:
            bound = math.sqrt(6 / (3 * c.patch**2 + c.width))  # Jia et al. 2022, their code
            self.prompts = Prompts(c.depth if c.deep else 1, c.prompts, c.width, bound)
        self.blocks = Stack(
            TransformerBlock(
                c.width, c.heads, self.scaling, hidden=c.hidden, epsilon=c.norm_epsilon
            )
            for _ in range(c.depth)
        )
        if c.lora_rank:
            add_low_rank(self.blocks, c.lora_rank, c.lora_alpha)
        self.norm = LayerNorm(c.width, bias=True, epsilon=c.norm_epsilon)
        self.heads = self.make_heads(c.width)

    def initialise(self, seed: int) -> Self:
        """Fill the parameters from the seed, the prompts uniformly; returns self."""
        super().initialise(seed)
        if self.prompts is not None:
            self.prompts.start_uniform(seed)
        return self

    def features(self, pictures: Tensor) -> Tensor:
        """(n, 3, height, width) in [-1, 1] -> (n, width): the class token, or the mean of the patches."""
        x = self.hidden(pictures)
        return x[:, 0] if self.cls is not None else x[:, self.config.prompts :].mean(1)

    def hidden(self, pictures: Tensor) -> Tensor:
        """The normed sequence of [class, prompts, patches], (n, tokens, width).

        Raises WrongUse for pictures that are not whole patches, or of another side than the fixed
        positions are made for.
        """
        x = self.embed(pictures)
        first = int(self.cls is not None)  # where the prompts stand
        last = first + self.config.prompts
        for layer, block in enumerate(self.blocks):
            if self.prompts is not None and (layer == 0 or self.config.deep):
                kept = x[:, first:] if layer == 0 else x[:, last:]
                x = torch.cat([x[:, :first], self.prompt(layer, len(x), x.dtype), kept], dim=1)
            x = self.blocks.run(block, x, mask=Mask())
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

    def prompt(self, layer: int, n: int, dtype: torch.dtype) -> Tensor:
        """The prompts that stand before a block, (n, prompts, width)."""
        assert self.prompts is not None
        tokens = self.prompts.weight[layer].to(dtype).expand(n, -1, -1)
        return F.dropout(tokens, self.config.prompt_dropout, self.training)
