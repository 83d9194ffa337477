"""LLaMA: four decoders of 7 to 65 billion parameters on public text (Touvron et al. 2023).

    maquette plan llama-7b --device A100 --devices 64
    maquette train llama-small            about a minute on 2 cores

RMSNorm, SwiGLU and rotary positions, without biases, on 1.0 to 1.4 trillion tokens: smaller models
on more tokens than compute-optimal training would take, because they are cheaper to use. The
recipes `llama-7b` to `llama-65b` are the rows of table 2. `llama-small` has 1.9 million parameters
and reads bytes of the default corpus. No claim is made.
"""

from maquette.experiments.catalogue import recipe
from maquette.experiments.decoder_recipes import SMALL, published_recipes, small_recipe
from maquette.models import families
from maquette.training.recipe import Recipe

RECIPES = published_recipes("llama-7b", "llama-13b", "llama-33b", "llama-65b")


@recipe
def llama_small() -> Recipe:
    """Four blocks of 192."""
    return small_recipe(families.llama(**SMALL))
