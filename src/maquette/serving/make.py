"""Pictures from a model that makes pictures: what training shows at a look and `generate` writes."""

from dataclasses import replace

import torch
from torch import Tensor

from maquette.models.base import Network, PictureBatch
from maquette.models.diffusion.model import Diffusion
from maquette.models.super_resolution import SuperResolution
from maquette.nn.noise import draw, generators
from maquette.serving.solvers import solve, times


def can_make(model: Network) -> bool:
    """Whether a model makes pictures (a classifier, a CLIP and a prior make none)."""
    return isinstance(model, Diffusion | SuperResolution)


@torch.no_grad()
def make_pictures(
    model: Network,
    batch: PictureBatch,
    *,
    steps: int = 20,
    guidance: float = 3.0,
    solver: str = "dpm2m",
    seed: int = 0,
) -> Tensor:
    """Pictures (n, 3, side, side) in [-1, 1] made from what a batch says of its own.

    A diffusion model takes what its conditioners read in the batch: captions, labels, embeddings, the
    left half of a picture that it inpaints. Super-resolution restores its pictures from small ones.
    """
    device = next(model.parameters()).device
    there = {name: t.to(device) for name, t in vars(batch).items() if t is not None}
    batch = replace(batch, **there)
    pictures = batch.pictures
    if isinstance(model, SuperResolution):
        return model(model.degrade(pictures)).clamp(-1, 1)  # type: ignore[no-any-return]
    assert isinstance(model, Diffusion)
    config, n = model.config, len(pictures)
    condition = model.shown(batch)
    generator = generators(seed, n)
    noise = draw(torch.empty(n, 3, config.size, config.size, device=device), generator)
    grid = times(steps, model.process.schedule)
    denoiser = model.denoiser(condition, guidance if model.guided else 1.0)
    return solve(solver, denoiser, noise, grid, model.process.schedule, generator=generator)
