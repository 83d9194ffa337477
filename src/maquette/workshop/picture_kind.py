"""The workshop's jobs for pictures."""

from pathlib import Path

import numpy as np

from maquette.training.datasets.picture_config import picture_recipe
from maquette.training.observer import Observer
from maquette.training.recipe import Recipe
from maquette.training.run import RunDirectory
from maquette.workshop.picture_generation import PictureRun, open_run
from maquette.workshop.picture_samples import PictureSamples


class PictureKind:
    """See `kinds.WorkshopKind`."""

    def samples(self, run: RunDirectory, observer: Observer) -> Observer:
        return PictureSamples(run, observer)

    def load(self, folder: Path, base: str | Path | None = None) -> PictureRun:
        return open_run(folder, base)

    def finish(self, path: Path) -> None:
        """Do nothing: pictures have no audit."""

    def next_command(self, recipe: Recipe, path: Path) -> str:
        if recipe.model.kind != "diffusion":
            return f"maquette eval {path}"
        world = picture_recipe(recipe).data.drawn
        if getattr(recipe.model, "condition", "none") == "text" and world is not None:
            (caption,) = world.captions(0, np.zeros(1, np.int64), "heldout")
            return f'maquette generate {path} "{caption}" --out a.png'
        return f"maquette generate {path} --out a.png"


PICTURES = PictureKind()
