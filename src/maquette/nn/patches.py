"""Pictures as sequences: patches, their position embeddings, and the embedding of the time.

Patches: Dosovitskiy et al. 2020, section 3.1 (a convolution whose stride is its kernel is a linear map
of each patch). Sine positions in two dimensions: as in big_vision and DiT. Time: Ho et al. 2020.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maquette.nn.linear import Linear
from maquette.nn.rules import Role


def patchify(pictures: Tensor, patch: int) -> Tensor:
    """(batch, c, height, width) -> (batch, (height/patch) (width/patch), c patch patch), row by row."""
    n, c, h, w = pictures.shape
    x = pictures.reshape(n, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, (h // patch) * (w // patch), c * patch * patch)


def unpatch(tokens: Tensor, patch: int, channels: int = 3) -> Tensor:
    """Inverse of `patchify` for square pictures: (batch, n, c patch patch) -> (batch, c, height, width)."""
    n, count, _ = tokens.shape
    rows = math.isqrt(count)
    x = tokens.reshape(n, rows, rows, channels, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, rows * patch, rows * patch)


class Patches(nn.Module):
    """Patch embedding: a vector of `width` for each patch of a picture."""

    def __init__(self, patch: int, width: int, *, channels: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.projection = Linear(channels * patch * patch, width, bias=bias, role=Role.INPUT)

    def forward(self, pictures: Tensor) -> Tensor:  # (batch, c, height, width) -> (batch, n, width)
        return self.projection(patchify(pictures, self.patch))  # type: ignore[no-any-return]


def sincos2d(grid_size: int, width: int) -> Tensor:
    """Fixed 2D sinusoidal positions, (grid_size^2, width): half encodes the row, half the column.

    width: a multiple of 4.
    """
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter) / quarter)
    angle = torch.arange(grid_size)[:, None] * frequency  # (grid_size, quarter)
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid_size, width / 2)
    rows = waves[:, None].expand(grid_size, grid_size, -1)
    columns = waves[None, :].expand(grid_size, grid_size, -1)
    return torch.cat([rows, columns], dim=2).reshape(grid_size * grid_size, width)


def resize_positions(table: Tensor, grid_size: int) -> Tensor:
    """Learned positions (n, width) of a square grid, resized to (grid_size^2, width).

    Bicubic, as Vision Transformers are tuned at a higher resolution (Dosovitskiy et al. 2020,
    section 3.2). The table holds no class token.
    """
    old = math.isqrt(table.shape[0])
    if old == grid_size:
        return table
    grid = table.T.reshape(1, -1, old, old)
    new = F.interpolate(grid, size=(grid_size, grid_size), mode="bicubic", align_corners=False)
    return new.reshape(table.shape[1], -1).T


def timestep_embedding(t: Tensor, width: int, scale: float = 1000.0) -> Tensor:
    """Sines and cosines of a time in [0, 1]: (batch,) -> (batch, width), fp32."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device) / half)
    angle = scale * t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
