"""GPT-2: the decoder that began it (Radford et al. 2019), at the size of a character model.

    maquette reproduce gpt2               about 7 minutes on 2 cores, 2 seeds
    maquette train gpt2-char              the model of the claim

GPT-2 has learned positions, LayerNorm before each branch, GELU and tied embeddings, at 124 million
to 1.5 billion parameters on 40 GB of web pages. Scaled down: 6 blocks of width 384 (nanoGPT's
"baby GPT", 10.7 million parameters), characters of tiny Shakespeare (1.1 MB). nanoGPT publishes
for its CPU setting, 4 blocks of width 128, a validation loss of 1.88 after about 3 minutes on a
laptop; the 25 times larger model is claimed to reach it sooner, on 2 cores.

Tiny Shakespeare is read from $MAQUETTE_DATA/tinyshakespeare.txt, or from shared/data beside the
checkout; the last tenth is the validation set, as in nanoGPT. Where the file is absent, the text is
the default corpus' bytes, and the loss to reach is what nanoGPT's CPU setting, trained here by the
same code in the same run, reaches on them.

Expected: below 3 minutes of training time to 1.88.
"""

from maquette.models import families
from maquette.nn.parametrisation import Parametrisation
from maquette.systems.catalogue import recipe
from maquette.training.recipe import Data, Optimiser, Recipe, Schedule, Watch

PUBLISHED_LOSS = 1.88  # nanoGPT's README, "I only have a macbook"
PUBLISHED_MINUTES = 3.0


@recipe
def gpt2_char() -> Recipe:
    """Six blocks of 384 on bytes."""
    rules = Parametrisation(base_width=384, base_depth=6, embedding_std=0.02, input_multiplier=16.0)
    return Recipe(
        name="gpt2-char",
        model=families.gpt2(
            vocabulary=257, context=256, width=384, depth=6, heads=6, parametrisation=rules
        ),
        data=Data(corpus="bytes", sequence=256),
        optimiser=Optimiser(learning_rate=0.002, beta2=0.99),
        schedule=Schedule(kind="linear", warmup=0.05, floor=0.02),
        batch=8,
        steps=320,
        watch=Watch(every=20, tokens=1 << 20, sample_tokens=0, report=False),
    )


@recipe
def nanogpt_cpu() -> Recipe:
    """nanoGPT's CPU setting: four blocks of 128, context 64, 2,000 steps of 12 sequences."""
    return Recipe(
        name="nanogpt-cpu",
        model=families.gpt2(
            vocabulary=257, context=64, width=128, depth=4, heads=4,
            attention_bias=False, feedforward_bias=False, norm_bias=False,
        ),
        data=Data(corpus="bytes", sequence=64),
        optimiser=Optimiser(learning_rate=1e-3, beta2=0.99, epsilon=1e-8),
        schedule=Schedule(warmup=0.05, floor=0.1),
        batch=12,
        steps=2000,
        watch=Watch(every=200, tokens=1 << 20, sample_tokens=0, report=False),
    )  # fmt: skip
