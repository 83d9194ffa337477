"""Learn from preferences, pairs of answers of which one is better, and measure what came of it.

    adapt_dpo(Path("runs/tuned"), "pairs.jsonl", Path("runs/preferred"), AdaptOptions("full"))

The base's run is left as it is, and is the reference. `adaptation.json` beside the run's recipe has the share
of held-out pairs whose chosen answer is the likelier one, before and after; how far the model has moved; and
what `adapt_text` has, bits per byte of held-out chosen answers and of the base's own held-out text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from maquette.adaptation.methods import count
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import write_json
from maquette.base.statistics import Mean, weighted_mean
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import SPLITS, TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.evaluation.bits_per_byte import Score
from maquette.evaluation.divergence import kl_divergence
from maquette.training.datasets.examples import Packed
from maquette.training.datasets.preferences import Pairs, pair_log_likelihoods
from maquette.training.datasets.preferences_config import PreferencesData
from maquette.training.observer import Observer
from maquette.training.run import RECIPE
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_data import data_of, is_text
from maquette.workshop.adapt_resume import tidy
from maquette.workshop.adapt_text import SEQUENCE, language_base, own_corpus, score
from maquette.workshop.adapted import Adaptation, scores_of, training_of
from maquette.workshop.chat import template_for
from maquette.workshop.load import Loaded, load
from maquette.workshop.train import train

RATE = 0.03
"""learning rate over the method's own for answers: of three that were tried (0.03, 0.1, 0.3) the one with
most held-out pairs right, of right and nearly right sums, for a decoder of width 96 and 40 steps"""
METRIC = "share of held-out pairs whose chosen answer is likelier"


@dataclass(frozen=True, kw_only=True)
class Preferred(Adaptation):
    """A run that has learned from preferences, and what held-out pairs and text say before and after."""

    reward_accuracy: Mean
    """share of held-out pairs whose chosen answer has gained more over the base than the rejected one"""
    divergence: Mean
    """KL divergence of the adapted model from the base at held-out chosen answers, in nats per token"""
    scores: tuple[Score, Score]
    """score of held-out chosen answers before and after"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        return super().to_dict() | {
            "reward_accuracy": vars(self.reward_accuracy),
            "kl_divergence": vars(self.divergence),
            "scores": scores_of(*self.scores),
        }


@tidy(RECIPE)
def adapt_dpo(
    run: Path,
    source: str,
    path: Path,
    options: AdaptOptions,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    fields: Mapping[str, str] | None = None,
    template: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> Preferred:
    """Train the language model of `run` on preferences by DPO; the new run is `path`.

    options: what is trained (`full`, or an adapter), and how long. beta, label_smoothing: see
    `PreferencesData`. source, fields, template: as of `adapt_text`. resume: whether a run that was cut off
    goes on. Raises WrongUse for a `path` that exists and for data without answers, UserError for data
    without pairs.
    """
    start, config = language_base(run, path, resume)
    counted = count(config, options.adapter("text"))
    if is_text(source, fields):
        raise WrongUse(f"{source} is text: dpo takes records with prompt, chosen and rejected")
    data = data_of(
        source,
        path.with_name(f"{path.name}-corpus"),
        load_tokenizer(start / TOKENIZER),
        options.sequence or min(config.context, SEQUENCE),
        fields=fields,
        template=template_for(start, template),
        resume=resume,
        progress=progress,
    )
    preferences = PreferencesData(
        corpus=data.corpus, sequence=data.sequence, beta=beta, label_smoothing=label_smoothing
    )
    recipe = replace(
        text_recipe(with_rate(options, config), start, config, preferences), name="dpo"
    )
    corpus, own = preferences.open_corpus(), own_corpus(start, say)
    pairs = Pairs(corpus, SPLITS[1], data.sequence)
    base = load(start)
    outcome = train(recipe, path, resume=resume, observer=observer, progress=progress)
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with --resume")
    adapted = load(path)
    before, after = (pair_log_likelihoods(m.model, pairs) for m in (base, adapted))
    done = Preferred(
        **training_of(recipe, path),
        method="dpo",
        adapter=options.method,
        counted=counted,
        metric=METRIC,
        before=share(before[:, 0] > before[:, 1]),
        after=share(after[:, 0] > after[:, 1]),
        own=None if own is None else (score(base, own), score(adapted, own)),
        reward_accuracy=share((after - before)[:, 0] > (after - before)[:, 1]),
        divergence=kl_divergence(adapted.model, base.model, heldout_batches(adapted, corpus)),
        scores=(score(base, corpus), score(adapted, corpus)),
    )
    write_json(path / ADAPTATION, done.to_dict())
    return done


def with_rate(options: AdaptOptions, config: Any, factor: float = RATE) -> AdaptOptions:
    """The options with a learning rate: where none is given, `factor` of the method's own."""
    if options.learning_rate is not None:
        return options
    return replace(options, learning_rate=factor * options.optimiser(config).learning_rate)


def share(right: Tensor) -> Mean:
    """A share with its standard error."""
    return weighted_mean(right.numpy().astype(np.float64))


def heldout_batches(loaded: Loaded, corpus: ExamplesCorpus) -> Any:
    """Held-out answers, a sequence at a time."""
    packed = Packed(corpus.heldout, loaded.model.config.context, corpus.eos_token_id, seed=0)
    return (packed.batch(np.array([number])) for number in range(len(packed)))
