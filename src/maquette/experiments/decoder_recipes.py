"""Recipes of decoders: published trainings as their papers tell them, and a small member of a family.

Sources are beside each architecture in `models/published.py` and `models/families.py`.
"""

import functools
from typing import Any

from maquette.base.errors import WrongUse
from maquette.experiments.catalogue import RecipeFunction
from maquette.models.config import DecoderConfig
from maquette.models.published import Published, published
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule


def published_recipes(*names: str) -> dict[str, RecipeFunction]:
    """The recipes of published architectures, by name: what the paper says of its training."""
    return {name: functools.partial(published_recipe, published(name)) for name in names}


def published_recipe(architecture: Published) -> LanguageRecipe:
    """A published training as a recipe: AdamW and a cosine, steps = tokens / tokens a step.

    What the paper did otherwise is said in the architecture's `training.otherwise`. Raises WrongUse
    for an architecture whose training was not published.
    """
    t = architecture.training
    if t is None:
        raise WrongUse(
            f"the training of {architecture.title} was not published: there is no recipe of it"
        )
    sequence = architecture.config.context
    return LanguageRecipe(
        name=architecture.name,
        model=architecture.config,
        data=TextData(corpus="default", sequence=sequence),
        optimiser=Optimiser(
            learning_rate=t.learning_rate,
            beta2=t.beta2,
            epsilon=t.epsilon,
            weight_decay=t.weight_decay,
            clip=t.clip,
            z_loss=t.z_loss,
        ),
        schedule=Schedule(warmup=t.warmup_tokens / t.tokens, floor=t.floor),
        batch=t.batch,
        steps=round(t.tokens / (t.batch * sequence)),
        precision="bf16",
    )


SMALL: dict[str, Any] = {
    "vocabulary": 257,
    "context": 128,
    "width": 192,
    "depth": 4,
    "heads": 6,
    "parametrisation": Parametrisation(
        base_width=192, base_depth=4, base_head_dim=32, embedding_std=0.03, input_multiplier=32.0
    ),
}
"""sizes of a family's small member, about two million parameters"""


def small_recipe(model: DecoderConfig) -> LanguageRecipe:
    """A small member of a family on bytes of the default corpus: about a minute on two cores."""
    return LanguageRecipe(
        model=model,
        data=TextData(corpus="bytes", sequence=model.context),
        optimiser=Optimiser(learning_rate=0.004, beta2=0.98),
        schedule=Schedule(warmup=0.05, floor=0.02),
        batch=16,
        steps=300,
        watch=TextWatch(tokens=131_072),
    )
