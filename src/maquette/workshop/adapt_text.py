"""Adapt a language model to examples or text, and measure what came of it, and what was forgotten.

    adapt_text(Path("runs/first"), "questions.jsonl", Path("runs/tuned"), AdaptOptions("lora"))

The base's run is left as it is. `adaptation.json` beside the adapted run's recipe has the method, what it
trained, minutes and memory, bits per byte of the held-out answers (of the held-out text, for text) before
and after, and those of the base's own held-out text: what was forgotten.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maquette.adaptation.methods import Counted, count
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.base.errors import UserError
from maquette.base.files import write_json
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.open import AnyCorpus
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.evaluation.bits_per_byte import Score, score_corpus
from maquette.models.registry import ModelConfig
from maquette.models.store import language_config
from maquette.training.initial_model import weights_file
from maquette.training.observer import Observer
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import RECIPE, RunDirectory
from maquette.training.run_corpus import as_text, corpus_of
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_data import data_of, opened
from maquette.workshop.adapt_resume import check_folder, tidy
from maquette.workshop.adapted import Adaptation, bits_of, scores_of, training_of
from maquette.workshop.chat import template_for
from maquette.workshop.load import Loaded, load, score_examples
from maquette.workshop.train import train

SCORED = 200_000  # bytes of held-out text that are scored before and after
SEQUENCE = 256  # tokens a training sequence at most, where no other number is asked for


@dataclass(frozen=True, kw_only=True)
class AdaptedText(Adaptation):
    """An adapted run, and what held-out answers or text cost before and after."""

    scores: tuple[Score, Score]
    """score of held-out answers or text before and after"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        return super().to_dict() | {"scores": scores_of(*self.scores)}


@tidy(RECIPE)
def adapt_text(
    run: Path,
    source: str,
    path: Path,
    options: AdaptOptions,
    *,
    fields: Mapping[str, str] | None = None,
    template: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> AdaptedText:
    """Adapt the language model of `run` to a corpus or files; the adapted run is `path`.

    source, fields, template: see `adapt_data.data_of`; a corpus that is built stands beside the run. resume:
    whether a run that was cut off goes on. Raises WrongUse for a method without a place in the model or a
    `path` that exists; UserError for what is wrong outside.
    """
    start, config = language_base(run, path, resume)
    counted = count(config, options.adapter("text"))
    tokenizer = load_tokenizer(start / TOKENIZER)
    corpus = path.with_name(f"{path.name}-corpus")
    data = data_of(
        source,
        corpus,
        tokenizer,
        options.sequence or min(config.context, SEQUENCE),
        fields=fields,
        template=template_for(start, template),
        resume=resume,
        progress=progress,
    )
    recipe = text_recipe(options, start, config, data)
    return run_adaptation(recipe, path, options.method, options.method, counted, own_corpus(start, say),
                          resume=resume, observer=observer, progress=progress)  # fmt: skip


def language_base(run: Path, path: Path, resume: bool) -> tuple[Path, ModelConfig]:
    """The absolute path and the config of a language model that is to be adapted in the run directory `path`.

    Raises UserError where there is no such run, and see `adapt_resume.check_folder`.
    """
    start = run.expanduser().resolve()
    if not start.is_dir():
        raise UserError(f"{run} does not exist: name a run directory")
    config = language_config(start)
    weights_file(start)  # says what is missing
    check_folder(path, start, resume)
    return start, config


def run_adaptation(
    recipe: LanguageRecipe,
    path: Path,
    method: str,
    adapter: str,
    counted: Counted,
    own: AnyCorpus | None,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
) -> AdaptedText:
    """Train a recipe that begins with a run, score held-out text before and after, write `adaptation.json`.

    adapter: see `Adaptation`. own: what the base was trained on; None: that is not there.
    """
    base, learned = load(recipe.start), opened(recipe.data.corpus)
    before, own_before = score(base, learned), None if own is None else score(base, own)
    del base
    outcome = train(recipe, path, resume=resume, observer=observer, progress=progress)
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with --resume")
    kind = recipe.data.kind
    adapted = load(path)
    after = score(adapted, learned)
    done = AdaptedText(
        **training_of(recipe, path),
        method=method,
        adapter=adapter,
        counted=counted,
        metric=f"bits per byte of held-out {'answers' if kind == 'examples' else 'text'}",
        before=bits_of(before),
        after=bits_of(after),
        own=None if own is None or own_before is None else (own_before, score(adapted, own)),
        scores=(before, after),
    )
    write_json(path / ADAPTATION, done.to_dict())
    return done


def score(loaded: Loaded, corpus: AnyCorpus) -> Score:
    """Loss and bits per byte of held-out answers, or of held-out text."""
    if isinstance(corpus, ExamplesCorpus):
        return score_examples(loaded.model, corpus)
    start = loaded.tokenizer.special.start
    return score_corpus(loaded.model, as_text(corpus), start=start, most_bytes=SCORED)["all"]


def own_corpus(base: Path, say: Callable[[str], None]) -> AnyCorpus | None:
    """What the base was trained on, or a line that says why that is not there."""
    try:
        return corpus_of(RunDirectory(base))
    except UserError as error:
        say(f"what is forgotten is not scored: {error}")
        return None
