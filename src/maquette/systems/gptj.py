"""GPT-J-6B and GPT-NeoX-20B: open decoders with the parallel block and rotary positions.

    maquette plan gptj-6b --device H100 --devices 8
    maquette train gptj-small             about a minute on 2 cores

Wang and Komatsuzaki (2021) add attention and feed-forward side by side from one norm, so that
tensor parallelism sums once a block, and turn 64 of each head's 256 dimensions by position; Black
et al. (2022) train the same on three times the size. `gptj-6b` and `gpt-neox-20b` are the
published trainings on the Pile; of GPT-NeoX's two norms a block the decoder has one. `gptj-small`
has 1.9 million parameters and reads bytes of the default corpus. No claim is made here: what the
parallel block costs and saves is measured in `palm`.
"""

from maquette.experiments.catalogue import recipe
from maquette.experiments.decoder_recipes import SMALL, published_recipes, small_recipe
from maquette.models import families
from maquette.training.recipe import Recipe

RECIPES = published_recipes("gptj-6b", "gpt-neox-20b")


@recipe
def gptj_small() -> Recipe:
    """Four parallel blocks of 192, half of each head turned."""
    return small_recipe(families.gptj(**SMALL, rotary_dims=16))
