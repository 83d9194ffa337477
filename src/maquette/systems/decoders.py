"""Decoders: BLOOM, GPT-J, GPT-NeoX, LLaMA, Megatron-LM and Turing-NLG as published, and small members.

    maquette plan llama-7b --device A100 --devices 64
    maquette train llama-small            about a minute on 2 cores; bloom-small and gptj-small too

Architectures and trainings as their papers' tables have them, for `plan` and `train`. No claim is made; what
the parallel block costs and saves is measured in `palm`. The small members have about two million
parameters and read bytes of the default corpus.

- **BLOOM** (Scao et al. 2022, table 3): `bloom-560m` to `bloom-176b`. Multilingual; ALiBi instead of
  positions, a norm after the embedding, biases, and a tied vocabulary of 250,880 that makes half of the
  smallest model; 341 to 366 billion tokens of the ROOTS corpus.
- **GPT-J-6B** (Wang and Komatsuzaki 2021) and **GPT-NeoX-20B** (Black et al. 2022): `gptj-6b`,
  `gpt-neox-20b`, both trained on the Pile. Attention and feed-forward are added side by side from one norm,
  so that tensor parallelism sums once a block, and 64 of each head's 256 dimensions are turned by
  position. Of GPT-NeoX's two norms a block the decoder has one.
- **LLaMA** (Touvron et al. 2023, table 2): `llama-7b` to `llama-65b`. RMSNorm, SwiGLU and rotary positions,
  without biases, on 1.0 to 1.4 trillion tokens of public text: smaller models on more tokens than
  compute-optimal training would take, because they are cheaper to use.
- **Megatron-LM** (Shoeybi et al. 2019) and **Turing-NLG** (Rosset 2020): `megatron-2.5b`, `megatron-8.3b`,
  `turing-nlg-17b`. GPT-2 with every matrix cut over 8 devices, which takes two sums a block forward and two
  backward, and a vocabulary padded to 51,200 so that it is cut too; Turing-NLG the same on 4, with ZeRO
  (Rajbhandari et al. 2019) over the rest. 300,000 steps of 512 sequences of 1,024 tokens, dropout 0.1. Two
  more sizes were only timed and stand in `models/published.py`. A small member would be GPT-2 (`gpt2-char`).
"""

from maquette.experiments.catalogue import recipe
from maquette.experiments.decoder_recipes import SMALL, published_recipes, small_recipe
from maquette.models import families
from maquette.training.recipe import LanguageRecipe

BLOOM = ("560m", "1b1", "1b7", "3b", "7b1", "176b")
RECIPES = (
    published_recipes(*(f"bloom-{size}" for size in BLOOM))
    | published_recipes("gptj-6b", "gpt-neox-20b")
    | published_recipes("llama-7b", "llama-13b", "llama-33b", "llama-65b")
    | published_recipes("megatron-2.5b", "megatron-8.3b", "turing-nlg-17b")
)


@recipe
def bloom_small() -> LanguageRecipe:
    """Four blocks of 192 with ALiBi."""
    return small_recipe(families.bloom(**SMALL))


@recipe
def gptj_small() -> LanguageRecipe:
    """Four parallel blocks of 192, half of each head turned."""
    return small_recipe(families.gptj(**SMALL, rotary_dims=16))


@recipe
def llama_small() -> LanguageRecipe:
    """Four blocks of 192 with RMSNorm and SwiGLU."""
    return small_recipe(families.llama(**SMALL))
