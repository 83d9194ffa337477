"""Pictures from a model that makes pictures: what training shows at a look and `generate` writes."""

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

    A diffusion model takes the captions, labels and embeddings of the batch, and of its pictures what
    its task shows it: the left half when it inpaints, the small picture when it enlarges. Super-
    resolution restores its pictures from small ones.
    """
    device = next(model.parameters()).device
    pictures = batch.pictures.to(device)
    if isinstance(model, SuperResolution):
        return model(model.degrade(pictures)).clamp(-1, 1)  # type: ignore[no-any-return]
    assert isinstance(model, Diffusion)
    config, n = model.config, len(pictures)
    given: dict[str, Tensor | None] = {}
    if config.condition == "text":
        given["captions"] = batch.captions
    if config.condition == "class":
        given["labels"] = batch.labels
    if config.embedding:
        given["embedding"] = batch.embedding
    if config.task == "inpaint":
        mask = torch.zeros(n, 1, config.size, config.size, device=device)
        mask[..., : config.size // 2] = 1
        given |= {"known": pictures, "mask": mask}
    if config.task == "upsample":
        given["small"] = torch.nn.functional.avg_pool2d(pictures, config.scale)
    condition = model.condition(
        n, **{name: None if t is None else t.to(device) for name, t in given.items()}
    )
    conditional = config.condition != "none" or config.embedding > 0
    generator = generators(seed, n)
    noise = draw(torch.empty(n, 3, config.size, config.size, device=device), generator)
    grid = times(steps, model.schedule)
    denoiser = model.denoiser(condition, guidance if conditional else 1.0)
    return solve(solver, denoiser, noise, grid, model.schedule, generator=generator)
