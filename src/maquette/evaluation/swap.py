"""The swap test: does a super-resolver add what it sees, or what it remembers?

    gain      how much of a picture's true detail the network restores
    swap      the same for a modified picture, which the network cannot know
    pull      how much of the *original's* detail it puts into the modified picture

Detail is what a picture has and its small version, enlarged, has not; a correlation of 1 is all of it. A
network that only undoes a lens restores both alike. One that has learned the original restores it better
than the modified one, and pulls the modified one towards it. Making the output small again (consistency)
sees nothing of this: an invented detail is exactly what a small picture cannot contradict. Nor does an
ensemble that learned from the same pictures; networks of different ones disagree about it.

The default modification is the mirrored picture, which keeps all statistics and takes only the memory
away. Source: the public experiments with blurred moons of 2021 to 2023, made exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.base.statistics import bootstrap_mean
from maquette.models.super_resolution import SuperResolution


@dataclass(frozen=True)
class Swap:
    """Correlations of detail, a mean over pictures each."""

    original: float
    """correlation of the restored originals with their own detail"""
    modified: float
    """correlation of the restored modified pictures with their own detail"""
    pull: float
    """correlation of the restored modified pictures with the originals' detail"""
    shared: float
    """correlation of the modified pictures' own detail with the originals', the baseline of `pull`"""
    gap: float
    """original - modified: above 0 where the originals are known to the network"""
    low: float
    """lower end of the gap's 95 % bootstrap interval over the pictures"""
    high: float
    """upper end of the gap's 95 % bootstrap interval"""


@torch.no_grad()
def swap_test(
    model: SuperResolution,
    originals: Tensor,
    modified: Tensor | None = None,
    *,
    deviation: float = 0.0,
    mask: Tensor | None = None,
) -> Swap:
    """Restore pictures (n, 3, h, w) in [-1, 1] and modified ones, and compare the detail gained.

    modified: (n, 3, h, w); None: the originals mirrored left to right. deviation: that of the blur before
    they are made small, in pixels. mask: (n or 1, 1, h, w), 1 where detail counts. Raises WrongUse for
    fewer than 2 pictures and for shapes that do not fit.
    """
    modified = originals.flip(-1) if modified is None else modified
    if modified.shape != originals.shape or len(originals) < 2:
        raise WrongUse(
            f"{tuple(originals.shape)} originals and {tuple(modified.shape)} modified pictures: use as "
            f"many of each, at least 2, of the same size"
        )
    keep = torch.ones_like(originals[:, :1]) if mask is None else mask.expand_as(originals[:, :1])
    pairs: list[tuple[Tensor, Tensor]] = []
    for pictures in (originals, modified):
        small = model.degrade(pictures, torch.full((len(pictures),), deviation))
        wide = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear")
        pairs.append((pictures - wide, model(small) - wide))
    (truth, gained), (other, other_gained) = pairs
    own, swapped = correlation(gained, truth, keep), correlation(other_gained, other, keep)
    gap = own - swapped
    low, high = bootstrap_mean(gap)
    return Swap(
        original=float(own.mean()),
        modified=float(swapped.mean()),
        pull=float(correlation(other_gained, truth, keep).mean()),
        shared=float(correlation(other, truth, keep).mean()),
        gap=float(gap.mean()),
        low=low,
        high=high,
    )


def correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Pearson's correlation (n,) of maps (n, channels, h, w), averaged over channels, in the mask."""
    a, b, weight = a.double().mean(1), b.double().mean(1), mask.double()[:, 0]
    count = weight.sum((1, 2), keepdim=True).clamp(min=1)
    a = (a - (a * weight).sum((1, 2), keepdim=True) / count) * weight
    b = (b - (b * weight).sum((1, 2), keepdim=True) / count) * weight
    size = (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt()
    return (a * b).sum((1, 2)) / size.clamp(min=1e-12)


@torch.no_grad()
def disagreement(models: Sequence[SuperResolution], small: Tensor) -> Tensor:
    """Standard deviation over networks, (n, scale h, scale w), of [-1, 1] pixels.

    small: (n, 3, h, w). Raises WrongUse for fewer than two networks.
    """
    if len(models) < 2:
        raise WrongUse(f"{len(models)} network cannot disagree: name at least 2 runs")
    return torch.stack([model(small).mean(1) for model in models]).std(0)


@torch.no_grad()
def inconsistency(model: SuperResolution, pictures: Tensor, deviation: float = 0.0) -> float:
    """Root mean square of (the restored picture made small - the small picture), over the latter's
    standard deviation: what a check without the truth could see."""
    widths = torch.full((len(pictures),), deviation)
    small = model.degrade(pictures, widths)
    error = (model.degrade(model(small), widths) - small).square().mean().sqrt()
    return float(error / small.std())
