"""A recipe at another width, for proxies and coordinate checks.

The head size is kept and the number of heads grows with the width, as does a feed-forward layer
whose size the recipe fixes. The parametrisation is the recipe's own: its base width is not that of
the proxy, so the same rate means the same at every width.
"""

from dataclasses import replace
from fractions import Fraction

from maquette.base.errors import WrongUse
from maquette.models.config import DecoderConfig
from maquette.training.recipe import LanguageRecipe


def decoder(recipe: LanguageRecipe) -> DecoderConfig:
    """The recipe's model. Raises WrongUse for an architecture whose width no rule here scales."""
    if not isinstance(recipe.model, DecoderConfig):
        raise WrongUse(f"model.kind {recipe.model.kind} is not resized: name a decoder's recipe")
    return recipe.model


def head_size(model: DecoderConfig) -> int:
    """Head dimension, of which widths must be multiples: width / heads."""
    return int(Fraction(model.width, model.heads)) or 1


def resized(recipe: LanguageRecipe, width: int, depth: int | None = None) -> LanguageRecipe:
    """The recipe at that width (and depth): heads of the same size, the same rules.

    Raises WrongUse where that is not a whole number of heads or of key-value heads.
    """
    model = decoder(recipe)
    if width < 1 or (depth is not None and depth < 1):
        raise WrongUse(f"width is {width} and depth is {depth}: use 1 or more")
    heads = Fraction(width * model.heads, model.width)
    if heads.denominator != 1 or heads < 1:
        size = head_size(model)
        near = sorted({max(size, width // size * size), -(-width // size) * size})
        raise WrongUse(
            f"width {width} is not divisible by the head size {size}, which a proxy keeps: "
            f"use {' or '.join(map(str, near))}"
        )
    kv_heads = model.kv_heads
    if kv_heads is not None and kv_heads > 1:
        groups = heads * Fraction(kv_heads, model.heads)
        if groups.denominator != 1:
            share = model.heads // kv_heads
            step = share * head_size(model)
            raise WrongUse(
                f"width {width} has {heads} heads, which groups of {share} do not divide: "
                f"use a multiple of {step}"
            )
        kv_heads = int(groups)
    hidden = model.hidden
    if hidden is not None:
        hidden = max(1, round(Fraction(hidden * width, model.width)))
    return replace(
        recipe,
        model=replace(
            model,
            width=width,
            heads=int(heads),
            kv_heads=kv_heads,
            hidden=hidden,
            depth=model.depth if depth is None else depth,
        ),
    )
