"""BLOOM: the multilingual decoder of BigScience, 560 million to 176 billion (Scao et al. 2022).

    maquette plan bloom-176b --device A100 --devices 384
    maquette train bloom-small            about a minute on 2 cores

ALiBi instead of positions, a norm after the embedding, biases, and a tied vocabulary of 250,880
that makes half of the smallest model; 341 to 366 billion tokens of the ROOTS corpus. The recipes
`bloom-560m` to `bloom-176b` are the columns of table 3. `bloom-small` has 1.8 million parameters
and reads bytes of the default corpus. No claim is made.
"""

from maquette.experiments.catalogue import recipe
from maquette.experiments.decoder_recipes import SMALL, published_recipes, small_recipe
from maquette.models import families
from maquette.training.recipe import Recipe

SIZES = ("560m", "1b1", "1b7", "3b", "7b1", "176b")
RECIPES = published_recipes(*(f"bloom-{size}" for size in SIZES))


@recipe
def bloom_small() -> Recipe:
    """Four blocks of 192 with ALiBi."""
    return small_recipe(families.bloom(**SMALL))
