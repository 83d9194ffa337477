"""Picture runs as `train` leaves them, without a step: what tests of their use begin with."""

from pathlib import Path
from typing import Any

from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.store import WEIGHTS, save_tensors
from maquette.training.datasets.picture_config import PictureRecipe
from maquette.training.run import RunDirectory
from maquette.training.run_setup import create


def untrained(path: str | Path, recipe: PictureRecipe) -> Path:
    """A run whose weights are those of the start, a little moved: some begin at zero."""
    import torch

    run = RunDirectory(path)
    create(run, recipe, recipe.data.open_corpus())
    model = recipe.model.build().initialise(recipe.seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    save_tensors(run / WEIGHTS, dict(model.named_parameters()))
    return run.path


def small(**changes: Any) -> DiffusionConfig:
    """A diffusion model of 16 pixels that reads captions of 12 tokens."""
    sizes: dict[str, Any] = {
        "image_size": 16, "width": 8, "multipliers": (1, 2), "attention": (), "heads": 2, "vocabulary": 2048,
        "caption_length": 12, "text_width": 8, "text_depth": 1, "text_heads": 2, "condition": "text",
    }  # fmt: skip
    return DiffusionConfig(**(sizes | changes))
