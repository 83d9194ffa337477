"""Peak signal-to-noise ratio: how near a picture is to the true one, in decibels.

    PSNR = 10 log10(peak^2 / mean squared error)      peak: the range of a pixel, 2 in [-1, 1]

It rewards the mean of all possible pictures over any one of them (Blau and Michaeli 2018), so it says how
near, and not how real, a picture is.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.super_resolution import SuperResolution

BATCH = 64  # pictures at a time


def psnr(pictures: Tensor, truth: Tensor, peak: float = 2.0) -> Tensor:
    """(n,) in dB of pictures (n, channels, h, w); infinite for one that is the truth itself."""
    if pictures.shape != truth.shape:
        raise WrongUse(
            f"pictures of shape {tuple(pictures.shape)} are held against {tuple(truth.shape)}"
        )
    error = (pictures.double() - truth.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(peak**2 / error)


@torch.no_grad()
def restoration(
    model: SuperResolution, pictures: Tensor, deviation: float = 0.0
) -> dict[str, float]:
    """Mean PSNR in dB of pictures (n, 3, height, width) restored by a network, and by enlarging alone.

    deviation: standard deviation of the blur before downsampling, in pixels. Outputs are clipped to
    [-1, 1]. Pictures go to the network's device in batches.
    """
    device = next(model.parameters()).device
    values: dict[str, list[Tensor]] = {"bilinear": [], "bicubic": [], "network": []}
    for part in pictures.split(BATCH):
        truth = part.to(device)
        small = model.degrade(truth, torch.full((len(truth),), deviation, device=device))
        for name, each in values.items():
            made = model(small) if name == "network" else _wide(small, truth, name)
            each.append(psnr(made.clamp(-1, 1), truth).cpu())
    return {name: float(torch.cat(each).mean().clamp(max=200)) for name, each in values.items()}


def _wide(small: Tensor, truth: Tensor, way: str) -> Tensor:
    return F.interpolate(small, size=truth.shape[-2:], mode=way, align_corners=False)
