"""Pictures from a model that makes pictures, for the samples of training and for `eval`."""

from dataclasses import replace

import torch
from torch import Tensor

from maquette.models.base import Model, PictureBatch
from maquette.models.diffusion.drawing import Drawing
from maquette.models.diffusion.model import Diffusion
from maquette.models.super_resolution import SuperResolution
from maquette.serving.sample import sample


def can_make(model: Model) -> bool:
    """Whether a model makes pictures (a classifier, a CLIP and a prior make none)."""
    return isinstance(model, Diffusion | SuperResolution)


@torch.no_grad()
def make_pictures(model: Model, batch: PictureBatch, drawing: Drawing) -> Tensor:
    """Pictures (n, 3, height, width) in [-1, 1] made from the conditions of a batch.

    A diffusion model takes what its conditioners read in the batch: captions, labels, embeddings, the
    left half of a picture that it inpaints. Super-resolution restores its pictures from small ones.
    """
    device = next(model.parameters()).device
    there = {name: t.to(device) for name, t in vars(batch).items() if t is not None}
    batch = replace(batch, **there)
    if isinstance(model, SuperResolution):
        return model(model.degrade(batch.pictures)).clamp(-1, 1)  # type: ignore[no-any-return]
    assert isinstance(model, Diffusion)
    return sample(model, model.shown(batch), drawing)
