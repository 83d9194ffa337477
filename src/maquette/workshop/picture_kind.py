"""What the workshop does with pictures."""

from pathlib import Path

from maquette.training.observer import Observer
from maquette.training.picture_recipe import picture_recipe
from maquette.training.recipe import BaseRecipe
from maquette.training.run import RunDirectory
from maquette.workshop.picture_generation import PictureRun, open_run
from maquette.workshop.picture_samples import PictureSamples
from maquette.worlds.captions import captions
from maquette.worlds.shapes import scenes


class PictureKind:
    """See `kinds.WorkshopKind`."""

    def samples(self, run: RunDirectory, observer: Observer) -> Observer:
        return PictureSamples(run, observer)

    def load(self, folder: Path) -> PictureRun:
        return open_run(folder)

    def finish(self, path: Path) -> None:
        """Nothing: what is in pictures is asked of their corpus."""

    def next_command(self, recipe: BaseRecipe, path: Path) -> str:
        if recipe.model.kind != "diffusion":
            return f"maquette eval {path}"
        data = picture_recipe(recipe).data
        if getattr(recipe.model, "condition", "none") == "text" and data.corpus == "shapes":
            (caption,) = captions(scenes(data.world, 0, [0], "heldout"))
            return f'maquette generate {path} "{caption}" --out a.png'
        return f"maquette generate {path} --out a.png"


PICTURES = PictureKind()
