"""The text-to-picture model that several systems share: one shape a picture, 384 captions.

A U-Net of 0.9 million parameters that attends to a caption encoder of two blocks; 8,000 steps of 16. Sources:
Ho et al. 2020, Ho and Salimans 2022. What was tried before its sizes were fixed is in docs/log.md.
"""

from dataclasses import replace
from pathlib import Path

from maquette.experiments.lab import Lab
from maquette.models.diffusion.config import DiffusionConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.recipe import Optimiser, Schedule
from maquette.worlds.shapes import Shapes

BATCH, STEPS, RATE, AVERAGE = 16, 8000, 0.002, 0.999
RULES = Parametrisation(base_width=32, base_depth=1, base_head_dim=16)
TEXT = DiffusionConfig(
    width=32,
    depth=1,
    condition="text",
    vocabulary=512,
    caption_length=24,
    parametrisation=RULES,
)
WORLD = Shapes(objects=1, colours=8, shapes=8, textures=3, sizes=True)  # 384 captions


def text_recipe(seed: int = 0, quick: bool = False) -> PictureRecipe:
    """The text-to-picture model that several systems share; at toy size for a few steps."""
    toy = replace(TEXT, width=16, heads=2, multipliers=(1, 2), text_width=16, text_depth=1)
    return PictureRecipe(
        name="diffusion",
        model=toy if quick else TEXT,
        data=PictureData(world=WORLD),
        optimiser=Optimiser(learning_rate=RATE, average=AVERAGE),
        schedule=Schedule(warmup=0.03, floor=0.02),
        batch=8 if quick else BATCH,
        steps=4 if quick else STEPS,
        seed=seed,
        precision="fp32" if quick else "auto",
        compile="off",
        watch=PictureWatch(every=10**9, pictures=16 if quick else 256, grid=0, report=False),
    )


def text_runs(lab: Lab) -> list[tuple[Path, int]]:
    """A text model for every seed, trained side by side, with its seed."""
    runs = lab.train_all([text_recipe(seed, lab.quick) for seed in range(lab.seeds)])
    return list(zip(runs, range(lab.seeds), strict=True))
