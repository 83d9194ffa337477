"""The oracle of a world: a CNN that reads all its labels, trained once and kept in Maquette's home.

Its training pictures are blurred and noisy, because those that it will be asked about are generated;
`evaluation/oracle.py` says what it is for, and how it is checked.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from maquette.base.errors import UserError
from maquette.base.files import home, lock
from maquette.base.machine import processor
from maquette.base.version import __version__
from maquette.evaluation.oracle import Oracle
from maquette.models.classifier import Classifier
from maquette.models.cnn_config import CNNConfig
from maquette.models.store import load_model
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.recipe import Optimiser, Schedule
from maquette.workshop.train import train
from maquette.workshop.train_many import done
from maquette.worlds.shapes import Shapes, label_sizes

STEPS, QUICK_STEPS = 2000, 30
NOISE, BLUR = 0.15, 0.7  # of the range [-1, 1], and in pixels: the most of any training picture


def oracle_recipe(world: Shapes, image_size: int = 32, quick: bool = False) -> PictureRecipe:
    """The recipe of a world's oracle, trained on every pair of colour and shape, held out or not."""
    sizes = label_sizes(world)
    never = 10**9
    return PictureRecipe(
        name="oracle",
        model=CNNConfig(
            image_size=image_size,
            width=8 if quick else 24,
            depth=1,
            classes=tuple(sizes),
            labels=tuple(i for i, values in enumerate(sizes) if values > 1),
            noise=NOISE,
            blur=BLUR,
        ),
        data=PictureData(
            image_size=image_size,
            caption_length=2,
            world=replace(world, held_out=0, noise=0.0, blur=0.0, phrasings=1),
        ),
        optimiser=Optimiser(learning_rate=0.006, beta2=0.99, weight_decay=0.05),
        schedule=Schedule(floor=0.02),
        batch=32,
        steps=QUICK_STEPS if quick else STEPS,
        precision="fp32" if quick else "auto",
        compile="off",
        watch=PictureWatch(every=never, pictures=64, grid=0, report=False),
    )


def oracle_for(
    world: Shapes,
    image_size: int = 32,
    quick: bool = False,
    say: Callable[[str], None] = print,
) -> Oracle:
    """The oracle of a world at a size; trained at first use, in a minute or two.

    quick: a toy that has learned next to nothing, for trying an experiment's code.
    say: is told when it trains.
    """
    recipe = oracle_recipe(world, image_size, quick)
    path = place_of(recipe)
    if not done(path):
        with lock(path.with_name(f".{path.name}.lock")):
            if not done(path):
                say(f"  training {path.name}: {recipe.steps:,} steps")
                with torch.random.fork_rng():
                    outcome = train(recipe, path, resume=True)
                if not outcome.finished:
                    raise UserError(
                        f"{path.name} stopped at step {outcome.step}: run again to go on"
                    )
    model = load_model(path)
    assert isinstance(model, Classifier)
    return Oracle(model, world, image_size)


def place_of(recipe: PictureRecipe) -> Path:
    """Path of the oracle in Maquette's home, by the hash of all that its weights depend on."""
    made_of = [recipe.to_dict(), recipe.data.open_corpus().hash]
    kind = [*made_of, __version__, version("torch"), processor()]
    identity = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
    return home() / "oracles" / f"{recipe.name}-{identity}"
