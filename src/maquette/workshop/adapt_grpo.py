"""Learn from answers of one's own that can be checked, and measure what came of it.

    adapt_grpo(Path("runs/tuned"), "sums.jsonl", Path("runs/reinforced"), AdaptOptions("full"))

The base's run is left as it is. `adaptation.json` beside the run's recipe has the share of held-out questions
that are answered right, greedily, before and after; how far the model has moved; and what `adapt_text` has of
the base's own held-out text.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maquette.adaptation.grpo import Results
from maquette.adaptation.methods import count
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import write_json
from maquette.base.statistics import Mean, weighted_mean
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.examples.template import Template
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import SPLITS, TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.evaluation.divergence import kl_divergence
from maquette.serving.generate import sample_tokens
from maquette.serving.sampler import Sampling
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.datasets.questions import Questions
from maquette.training.datasets.questions_config import QuestionsData
from maquette.training.observer import Observer
from maquette.training.recipe import Guard
from maquette.training.run import RECIPE, RunDirectory
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_data import data_of, is_text
from maquette.workshop.adapt_dpo import heldout_batches, with_rate
from maquette.workshop.adapt_resume import tidy
from maquette.workshop.adapt_text import language_base, own_corpus, score
from maquette.workshop.adapted import Adaptation, training_of
from maquette.workshop.chat import template_for
from maquette.workshop.load import Loaded, load
from maquette.workshop.train import train

RATE = 0.05
"""learning rate over the method's own for answers: of three that were tried (0.02, 0.05, 0.17) the one with
the largest expected reward on sums of two numbers, for a decoder of width 96 and 40 steps"""
METRIC = "share of held-out questions answered right, greedily"
PROMPT = 256  # most tokens of a prompt, where no other number is asked for
ASKED = 500  # held-out questions that are asked before and after
AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class Reinforced(Adaptation):
    """A run that has learned from rewards, and what held-out questions and text say before and after."""

    rewards: tuple[float, float]
    """mean reward of the sampled answers in the first and in the last tenth of the steps"""
    divergence: Mean
    """KL divergence of the adapted model from the base at held-out right answers, in nats per token"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        return super().to_dict() | {
            "reward_first": self.rewards[0],
            "reward_last": self.rewards[1],
            "kl_divergence": vars(self.divergence),
        }


@tidy(RECIPE)
def adapt_grpo(
    run: Path,
    source: str,
    path: Path,
    options: AdaptOptions,
    *,
    group: int = 8,
    answer_tokens: int = 32,
    answer_after: str = "",
    kl: float = 0.0,
    fields: Mapping[str, str] | None = None,
    template: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> Reinforced:
    """Train the language model of `run` by GRPO on questions with right answers; the new run is `path`.

    options: what is trained (`full`, or an adapter), how long, and on how many prompts a step. group,
    answer_tokens, answer_after, kl: see `QuestionsData`. source, fields, template: as of `adapt_text`, or a
    world of questions by name. resume: whether a run that was cut off goes on. Raises WrongUse for a `path`
    that exists and for data without answers.
    """
    start, config = language_base(run, path, resume)
    counted = count(config, options.adapter("text"))
    if is_text(source, fields):
        raise WrongUse(f"{source} is text: grpo takes records with prompt and answer")
    known = Path(source).expanduser().exists()
    data = data_of(
        source,
        path.with_name(f"{path.name}-corpus"),
        load_tokenizer(start / TOKENIZER),
        config.context,
        fields=fields,
        template=template_for(start, template, Template.text if known else "{prompt} {answer}"),
        resume=resume,
        progress=progress,
    )
    assert isinstance(data, ExamplesData)
    corpus = data.open_corpus()
    questions = QuestionsData(
        corpus=data.corpus,
        sequence=options.sequence or sequence_of(corpus, answer_tokens, config.context),
        group=group,
        answer_tokens=answer_tokens,
        answer_after=answer_after,
        kl=kl,
    )
    recipe = replace(
        text_recipe(with_rate(options, config, RATE), start, config, questions),
        name="grpo",
        guard=Guard(spike=0),  # a policy gradient's loss says nothing of how well the model does
    )
    own, base = own_corpus(start, say), load(start)
    before = accuracy(base, corpus, questions)
    outcome = train(recipe, path, resume=resume, observer=observer, progress=progress)
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with --resume")
    adapted, records = load(path), RunDirectory(path).records()
    tenth = max(1, len(records) // 10)
    first, last = ([r["reward"] for r in part] for part in (records[:tenth], records[-tenth:]))
    done = Reinforced(
        **training_of(recipe, path),
        method="grpo",
        adapter=options.method,
        counted=counted,
        metric=METRIC,
        before=before,
        after=accuracy(adapted, corpus, questions),
        own=None if own is None else (score(base, own), score(adapted, own)),
        rewards=(sum(first) / tenth, sum(last) / tenth),
        divergence=kl_divergence(adapted.model, base.model, heldout_batches(adapted, corpus)),
    )
    write_json(path / ADAPTATION, done.to_dict())
    return done


def sequence_of(corpus: ExamplesCorpus, answer_tokens: int, context: int) -> int:
    """Room for the longest prompt, up to a limit, with an answer."""
    longest = max(map(len, Questions(corpus.train, corpus.manifest["longest"]).prompts))
    return min(context, min(longest, PROMPT) + answer_tokens - 1)


def accuracy(loaded: Loaded, corpus: ExamplesCorpus, data: QuestionsData) -> Mean:
    """Share of held-out questions that are answered right, greedily; the first ones, where there are many."""
    questions = Questions(corpus.heldout, data.sequence + 1 - data.answer_tokens)
    results, right = Results(corpus, SPLITS[1], data.answer_after), []
    asked = list(zip(questions.numbers, questions.prompts, strict=True))[:ASKED]
    for first in range(0, len(asked), AT_A_TIME):
        part = asked[first : first + AT_A_TIME]
        answers = sample_tokens(
            loaded.model,
            loaded.tokenizer,
            [prompt.tolist() for _, prompt in part],
            tokens=data.answer_tokens,
            sampling=Sampling(temperature=0.0),
        )
        right += [
            results.right(number, answer) for (number, _), answer in zip(part, answers, strict=True)
        ]
    return weighted_mean(np.array(right, np.float64))
