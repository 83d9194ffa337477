"""Continued pre-training: a run's weights go on learning, on other text and some of what they know.

Domain-adaptive pre-training (Gururangan et al. 2020) goes on with the objective, on documents of a domain.
The learning rate, which fell to its floor, is warmed up again and decayed again, and a share of the samples
is replayed from what the run was trained on, for else it forgets that (Ibrahim et al. 2024, "Simple and
Scalable Strategies to Continually Pre-train Large Language Models"). Which samples are replayed is a
function of their number alone (`corpus.order.Interleaving`).
"""

from dataclasses import dataclass, replace
from pathlib import Path

from maquette.adaptation.recipes import STANDARD_RATES, TEXT_RATES
from maquette.base.errors import WrongUse
from maquette.models.registry import ModelConfig
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule

REPLAY = 0.1
"""share that is replayed: in the trial that `WHOLE` tells, none forgets twice as much (0.29 and 0.15 bits per
byte) for the same gain"""
EPOCHS = 4
"""passes over the documents where no number of steps is asked for: repeated so often, text is nearly as good
as new text (Muennighoff et al. 2023, section 6)"""
LEAST, MOST = 10, 2000
"""number of steps where none is asked for, at least and at most"""
WHOLE = 1000
"""number of steps from which the rate is that of the run's own training; of fewer its root's share, for
warming up again costs at first more than the new text brings (Gupta et al. 2023). Tried on a decoder of width
64, code to prose, one seed: 100 documents in about 90 steps gain more with this share than with the whole
rate (0.19 and 0.12 bits per byte) and forget less (0.15 and 0.33)"""


@dataclass(frozen=True)
class ContinueOptions:
    """How the training of a language model goes on."""

    steps: int | None = None
    """number of optimiser steps; None: `EPOCHS` passes over the documents, `LEAST` to `MOST`"""
    batch: int = 16
    """number of sequences a step"""
    sequence: int | None = None
    """tokens a training sequence; None: as many as fit the model, up to a limit"""
    learning_rate: float | None = None
    """peak learning rate; None: that of the run's own training, less in few steps (`WHOLE`)"""
    replay: float = REPLAY
    """share of the sequences that are of the run's own corpus"""
    seed: int = 0
    """seed of the data's order"""

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.replay < 1:
            raise WrongUse(
                f"batch is {self.batch} and replay {self.replay:g}: use at least 1, and 0 to below 1"
            )

    def number_of_steps(self, tokens: int, sequence: int, batch: int) -> int:
        """The steps of a run on documents of so many tokens."""
        if self.steps is not None:
            return self.steps
        passes = EPOCHS * tokens / (sequence * batch * (1 - self.replay))
        return min(max(round(passes), LEAST), MOST)


def continued_recipe(
    options: ContinueOptions,
    start: Path,
    base: ModelConfig,
    before: LanguageRecipe | None,
    data: TextData,
    tokens: int,
) -> LanguageRecipe:
    """The run that goes on with `start`, whose model is `base`, on `data`.

    before: the recipe of its training, whose optimiser goes on; None for an imported model, which gets the
    rate of full fine-tuning. tokens: number of training tokens of the documents; a batch is no larger.
    """
    batch = max(1, min(options.batch, (tokens - 1) // data.sequence))
    optimiser = (
        Optimiser(learning_rate=_imported_rate(base)) if before is None else before.optimiser
    )
    steps = options.number_of_steps(tokens, data.sequence, batch)
    rate = options.learning_rate
    if rate is None:
        rate = optimiser.learning_rate * min(1.0, (steps / WHOLE) ** 0.5)
    return LanguageRecipe(
        name="continue",
        steps=steps,
        batch=batch,
        seed=options.seed,
        start=str(start),
        model=base,
        data=replace(data, replay=options.replay),
        optimiser=replace(optimiser, learning_rate=rate, groups=()),
        schedule=Schedule(kind="cosine", warmup=0.05, floor=0.1),
        watch=TextWatch(every=max(1, steps // 4), sample_tokens=0, report=False),
    )


def _imported_rate(base: ModelConfig) -> float:
    rates = TEXT_RATES if base.parametrisation.kind == "mup" else STANDARD_RATES
    return rates["full"]
