"""Seams of inpainting: does the mask's edge show, and does the background keep its level?

    seam ratio   mean difference of neighbours across the mask's edge, over that of neighbours beside
                 it on one side; of a real picture under a mask that was drawn without looking, about 1
    drift        difference between the background's level at one end of a panorama and at the other

The background is what has hardly any colour: the world's is grey, its shapes are not. A mask that
follows an object's outline has a ratio of its own, so compare with real pictures under the same masks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.base.statistics import bootstrap


@dataclass(frozen=True)
class Seam:
    """A seam ratio with its 95 % bootstrap interval over the pictures."""

    ratio: float
    low: float
    high: float


def seam(pictures: Tensor, known: Tensor, reach: int = 2) -> Seam:
    """The seam ratio of pictures (n, 3, h, w) under masks (n or 1, 1, h, w) of 0 and 1.

    reach: how many pixels from the edge "beside" goes. A ratio of means: sums over all pictures are
    divided, so that a picture without any change beside the edge counts as much as it has.
    """
    across, beside = differences(pictures, known, reach)
    low, high = bootstrap(len(across), lambda rows: across[rows].sum(1) / beside[rows].sum(1))
    return Seam(float(across.sum() / beside.sum()), low, high)


def differences(pictures: Tensor, known: Tensor, reach: int = 2) -> tuple[Tensor, Tensor]:
    """Mean absolute difference of neighbours across the mask's edge, and beside it: (n,) each."""
    n = len(pictures)
    pictures, mask = pictures.double(), known.bool().expand(n, 1, -1, -1)
    sums = torch.zeros(4, n, dtype=torch.float64, device=pictures.device)
    for dimension in (-1, -2):
        size = pictures.shape[dimension]
        a, b = (mask.narrow(dimension, i, size - 1) for i in (0, 1))
        edge = a != b  # (n, 1, h, w), one less along the dimension
        wide = F.max_pool2d(edge.float(), 2 * reach + 1, 1, reach) > 0
        change = (
            pictures.narrow(dimension, 1, size - 1) - pictures.narrow(dimension, 0, size - 1)
        ).abs().mean(1, keepdim=True)  # fmt: skip
        for row, chosen in ((0, edge), (2, wide & ~edge)):
            sums[row] += (change * chosen).sum((1, 2, 3))
            sums[row + 1] += chosen.sum((1, 2, 3))
    across, of_edge, beside, of_beside = sums.cpu()
    return across / of_edge.clamp(min=1), beside / of_beside.clamp(min=1)


def background(pictures: Tensor, colour: float = 0.1) -> Tensor:
    """The background's level (n,) in [0, 1]: the median grey of pixels (n, 3, h, w) in [-1, 1].

    colour: the largest difference between a pixel's channels, of the range, that counts as grey. Of
    a picture without any such pixel, the median of all.
    """
    light = (pictures.float() + 1) / 2
    spread = light.amax(1) - light.amin(1)  # (n, h, w)
    grey = light.mean(1).flatten(1)
    counts = (spread < colour).flatten(1)
    counts |= ~counts.any(1, keepdim=True)
    return grey.masked_fill(~counts, float("nan")).nanmedian(1).values


def drift(pictures: Tensor, image_size: int) -> Tensor:
    """|level of the last `image_size` columns - level of the first|, (n,), as a part of the range."""
    return (background(pictures[..., -image_size:]) - background(pictures[..., :image_size])).abs()
