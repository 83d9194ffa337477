"""The CLIP that several systems share, on pictures of 32 x 32 of a world (Radford et al. 2021).

0.9 million parameters in two towers, 1,000 steps of 128 pairs.
"""

from dataclasses import replace
from typing import Any

from maquette.models.clip_config import ClipConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.recipe import Optimiser, Schedule
from maquette.worlds.shapes import Shapes

STEPS, BATCH, RATE = 1000, 128, 0.001
MODEL = ClipConfig(
    width=128,
    depth=4,
    heads=4,
    vocabulary=512,
    caption_length=16,
    text_width=64,
    text_depth=2,
    text_heads=2,
    embedding=64,
    parametrisation=Parametrisation(
        base_width=128, base_depth=4, base_head_dim=32, input_multiplier=10.0
    ),
)


def clip_recipe(
    seed: int = 0, quick: bool = False, *, world: Shapes | None = None, **model: Any
) -> PictureRecipe:
    """A CLIP on pictures of 32 x 32 of a world; `model` changes fields of its config."""
    config = replace(MODEL, **model)
    if quick:
        config = replace(config, width=32, depth=1, heads=2, patch=8, text_width=32, text_depth=1)
    return PictureRecipe(
        name="clip",
        model=config,
        data=PictureData(caption_length=config.caption_length, world=world or Shapes()),
        optimiser=Optimiser(learning_rate=RATE, beta2=0.98),
        schedule=Schedule(warmup=0.05, floor=0.02),
        batch=8 if quick else BATCH,
        steps=4 if quick else STEPS,
        seed=seed,
        compile="off",
        watch=PictureWatch(every=10_000, pictures=16 if quick else 512, grid=0, report=False),
    )
