"""Tiny: a decoder of two blocks that trains in seconds, for trying things.

    maquette train tiny --run runs/tiny           about 10 seconds on 2 cores

It reads plain bytes of half a megabyte of the text on this machine. It is no paper's system and
makes no claim; every test and every example that needs a model starts here.
"""

from maquette.experiments.catalogue import recipe
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser


@recipe
def tiny() -> LanguageRecipe:
    """Two blocks of 64 on bytes."""
    return LanguageRecipe(
        model=DecoderConfig(
            vocabulary=257,
            context=128,
            width=64,
            depth=2,
            heads=2,
            parametrisation=Parametrisation(base_width=64, base_depth=2),
        ),
        data=TextData(corpus="tiny", sequence=64),
        optimiser=Optimiser(learning_rate=0.008),
        steps=200,
        batch=16,
        watch=TextWatch(tokens=8192, sample_tokens=48),
    )
