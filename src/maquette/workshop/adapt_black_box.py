"""Find a prompt of vectors for a language model by its answers alone, and measure what came of it.

    adapt_black_box(Path("runs/first"), "questions.jsonl", Path("runs/prompted"), BlackBoxOptions())

What comes out is an ordinary run with a prompt adapter, as `adapt prompt` leaves one; `adaptation.json` has
calls, scores before and after, and what was forgotten.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maquette.adaptation.adapters.adapter import attach, saved_tensors
from maquette.adaptation.adapters.prompt import TextPrompts
from maquette.adaptation.black_box import LossName, Outcome, Projection, Question, Scorer
from maquette.adaptation.methods import count
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.adaptation.search import Array, Evolution
from maquette.base.errors import WrongUse
from maquette.base.files import write_json
from maquette.base.machine import resident
from maquette.base.statistics import Mean, Share
from maquette.corpus.examples.chat_template import template_of
from maquette.corpus.examples.example import Example
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.examples.template import ConversationTemplate
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer
from maquette.evaluation.bits_per_byte import Score
from maquette.models.store import save_tensors
from maquette.training.datasets.text import check_tokens
from maquette.training.run import RECIPE, RunDirectory
from maquette.training.run_setup import create
from maquette.training.run_setup import resume as resume_run
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_data import data_of, is_text
from maquette.workshop.adapt_resume import tidy
from maquette.workshop.adapt_text import SEQUENCE, language_base, own_corpus, score
from maquette.workshop.adapted import Adaptation, bits_of, scores_of
from maquette.workshop.chat import template_for
from maquette.workshop.load import Loaded, load
from maquette.workshop.prompt_search import (
    LOG,
    Found,
    SearchLog,
    SearchOptions,
    check_choices,
    drawn,
    has_choices,
    search,
)

CHOSEN = "share of held-out questions answered right, of their choices"


@dataclass(frozen=True)
class BlackBoxOptions(SearchOptions):
    """How vectors are searched."""

    size: int = 64
    """number of dimensions that are searched"""
    length: int = 10
    """number of vectors of the prompt"""
    loss: LossName = "cross-entropy"
    """loss over the choices of an example"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 2 or self.length < 1:
            raise WrongUse(
                f"size is {self.size} and prompts {self.length}: use at least 2, and at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class BlackBoxAdapted(Adaptation):
    """An adapted run, and what held-out questions and text cost before and after."""

    options: BlackBoxOptions
    """options of the search"""
    found: Found
    """the prompt that was found"""
    scores: tuple[Score, Score]
    """score of the held-out answers before and after"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        return super().to_dict() | {
            "calls": self.found.calls,
            "examples": self.options.examples,
            "searched_dimensions": self.options.size,
            "chosen_by": asdict(self.found.chosen_by),
            "scores": scores_of(*self.scores),
        }


@tidy(RECIPE)
def adapt_black_box(
    run: Path,
    source: str,
    path: Path,
    options: BlackBoxOptions,
    *,
    fields: Mapping[str, str] | None = None,
    template: str | None = None,
    resume: bool = False,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> BlackBoxAdapted:
    """Search a prompt for the language model of `run` on examples; the adapted run is `path`.

    source, fields, template: see `adapt_data.data_of`. resume: whether a search that was cut off goes on.
    Raises WrongUse for text, which has no answers, and for a model without a place for a prompt.
    """
    start, config = language_base(run, path, resume)
    tuning = AdaptOptions(
        "prompt",
        steps=options.calls // options.population,
        batch=options.examples,
        prompts=options.length,
        seed=options.seed,
    )
    counted = count(config, tuning.adapter("text"))
    strategy = Evolution(
        options.size, options.population, options.seed
    )  # says what is not installed
    if is_text(source, fields):
        raise WrongUse(
            f"{source} is text, which asks nothing: name examples, with prompt and answer"
        )
    tokenizer = load_tokenizer(start / TOKENIZER)
    data = data_of(
        source, path.with_name(f"{path.name}-corpus"), tokenizer, min(config.context, SEQUENCE),
        fields=fields, template=template_for(start, template), resume=resume, progress=progress,
    )  # fmt: skip
    corpus = data.open_corpus()
    assert isinstance(corpus, ExamplesCorpus)
    recipe = replace(text_recipe(tuning, start, config, data), name="black-box")
    check_tokens(recipe, corpus)
    seen, others = drawn(corpus.examples("train"), options.examples, options.seed)
    heldout = corpus.examples("heldout")
    check_choices([*seen, *others, *heldout])
    directory = RunDirectory(path)
    with directory.locked():
        if not (directory / RECIPE).exists():
            create(directory, recipe, corpus)
        elif directory.recipe().name != recipe.name or (
            directory.finished and not (directory / LOG).exists()
        ):
            raise WrongUse(f"{path} is no search for a prompt: choose another --run")
        identity = asdict(options) | {"base": str(start), "data": corpus.hash}
        log = SearchLog(directory / LOG, identity)
        resume_run(directory, recipe)  # refuses another recipe, and a base that has changed
        base, own = load(start), own_corpus(start, say)
        asked = [
            questions_of(part, template_of(corpus.manifest["template"], tokenizer), tokenizer)
            for part in (seen, others, heldout)
        ]
        say(f"{len(seen)} examples are searched on, {len(others)} others choose")
        before = Scorer(base.model, asked[2]).outcomes(None)[0], score(base, corpus)
        own_before = None if own is None else score(base, own)
        projection = Projection(base.model, options.length, options.size, options.seed)
        searched, judging = (Scorer(base.model, q, options.loss) for q in asked[:2])
        memory = [resident()]

        def losses(z: Array) -> list[float]:
            scored = [outcome.loss for outcome in searched.outcomes(projection(z))]
            memory.append(resident())
            return scored

        found = search(
            strategy, options, log, losses,
            lambda z: judging.outcomes(projection(z[None]))[0], progress=progress, say=say,
        )  # fmt: skip
        keep_prompt(directory, base, projection(found.candidate[None])[0])
        adapted = load(path)
        after = Scorer(adapted.model, asked[2]).outcomes(None)[0], score(adapted, corpus)
        right = before[0].right is not None
        done = BlackBoxAdapted(
            path=path,
            base=str(start),
            method="black-box",
            adapter=tuning.method,
            counted=counted,
            metric=CHOSEN if right else "bits per byte of held-out answers",
            before=_share(before[0], len(asked[2])) if right else bits_of(before[1]),
            after=_share(after[0], len(asked[2])) if right else bits_of(after[1]),
            own=None if own is None or own_before is None else (own_before, score(adapted, own)),
            seconds=found.seconds,
            memory=max(memory),
            learning_rate=None,
            weight_decay=None,
            options=options,
            found=found,
            scores=(before[1], after[1]),
        )
        write_json(directory / ADAPTATION, done.to_dict())
    return done


def _share(outcome: Outcome, questions: int) -> Mean:
    """The share of so many questions that were answered right."""
    return Share(round((outcome.right or 0.0) * questions), questions).mean


def questions_of(
    examples: Sequence[Example], template: ConversationTemplate, tokenizer: Tokenizer
) -> list[Question]:
    """Examples as tokens; an answer without others to choose from ends with its EOS token."""
    questions = []
    for example in examples:
        right, chosen = example.answer_index, has_choices(example)
        answers = []
        for answer in example.choices if chosen else (example.answer,):
            turns = template.turns(replace(example, answer=answer).exchanges, tokenizer)
            *before, learned = [part for turn in turns for part in turn]
            answers.append(tuple(learned[: len(learned) - chosen]))
        context = tuple(token for part in before for token in part)
        questions.append(Question(context, tuple(answers), right if chosen and right else 0))
    return questions


@torch.no_grad()
def keep_prompt(run: RunDirectory, base: Loaded, vectors: torch.Tensor) -> None:
    """Write a prompt (length, width) as the adapter of a run, which attaches it to the base's model."""
    config = run.recipe().adapter
    assert config is not None
    adapter = config.build(base.model)
    assert isinstance(adapter, TextPrompts)
    adapter.vectors.copy_(vectors)
    attach(base.model, config.kind, adapter)
    save_tensors(run.weights, saved_tensors(base.model))
