"""Classify with few labels (PET and iPET): patterns, an ensemble, soft labels, a last model.

    adapt_pet(Path("runs/first"), "reviews.jsonl", Path("runs/pet"), PetOptions(), unlabelled="more.jsonl")

The last model is an ordinary run, which answers the first pattern. Beside it stands RUN-pet: what each model
before it said of the texts, which is all that is kept of them; a model that is done is not trained again by
`resume`, one that was cut off goes on. With one plain pattern this is self-training, and its only model plain
fine-tuning: what PET is to be compared with.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maquette.adaptation.methods import count
from maquette.adaptation.pet import (
    Array,
    Labelled,
    Numbers,
    ensemble,
    next_generation,
    softmax,
)
from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.base.errors import UserError, WrongUse, within
from maquette.base.files import read_json, write_json
from maquette.base.statistics import weighted_mean
from maquette.corpus.examples.cloze import Cloze, one_hot, write_cloze
from maquette.corpus.examples.patterns import Patterns
from maquette.corpus.progress import Progress, silent
from maquette.corpus.terms import Term
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer
from maquette.models.registry import ModelConfig
from maquette.training.datasets.cloze_config import ClozeData
from maquette.training.observer import Observer
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import RunDirectory
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_data import source_terms
from maquette.workshop.adapt_resume import alone, base_identity, check_begun, occupied
from maquette.workshop.adapt_text import language_base, own_corpus, score
from maquette.workshop.adapted import Adaptation
from maquette.workshop.load import load
from maquette.workshop.pet_texts import PatternTexts, Texts, read_texts, views
from maquette.workshop.train import train

ANY = float("inf")
PROGRESS = "pet.json"
RATE = 1 / 6
"""learning rate over that of full fine-tuning; of two that were tried with 16 labels, 1 made a base forget"""


@dataclass(frozen=True)
class PetOptions:
    """How the models are trained, and how many."""

    labels: int | None = None
    """number of labelled texts that are used; None: all"""
    repetitions: int = 1
    """number of models of each pattern, of different seeds"""
    generations: int = 1
    """number of generations: 1 is PET, more are iPET"""
    found_words: int = 0
    """number of words of each label that are searched for; 0: the words that are given"""
    steps: int = 100
    """number of optimiser steps of each pattern's models"""
    distil_steps: int = 300
    """number of optimiser steps of the last model"""
    batch: int = 16
    """number of texts a step"""
    learning_rate: float | None = None
    """peak learning rate; None: `RATE` of that of full fine-tuning"""
    alpha: float = 0.0001
    """weight of the language-model loss on unlabelled texts"""
    temperature: float = 2.0
    """temperature of the soft labels"""
    seed: int = 0
    """seed of what is drawn, and of the data's order"""

    def __post_init__(self) -> None:
        within(
            self, 1, ANY, "labels", "repetitions", "generations", "steps", "distil_steps", "batch"
        )
        within(self, 0, ANY, "found_words", "learning_rate")

    def recipe(
        self, start: Path, config: ModelConfig, data: ClozeData, steps: int, seed: int
    ) -> LanguageRecipe:
        """The run of one model."""
        rate = self.learning_rate
        if rate is None:
            rate = RATE * AdaptOptions("full").optimiser(config).learning_rate
        options = AdaptOptions("full", steps=steps, batch=self.batch, learning_rate=rate, seed=seed)
        return replace(text_recipe(options, start, config, data), name="pet")


@dataclass(frozen=True, kw_only=True)
class AdaptedPet(Adaptation):
    """The run of the last model, and what held-out texts say before and after."""

    details: dict[str, Any]
    """plain values of what was learned from, and of the patterns and generations"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        return super().to_dict() | self.details


@dataclass(frozen=True)
class Member:
    """A model of the ensemble, as it is kept.

    generation, pattern, repetition: its numbers, from 0. texts: number of texts that it learned from. scores:
    of every unlabelled text for each label, in nats. right: which held-out texts it labels right.
    """

    generation: int
    pattern: int
    repetition: int
    texts: int
    scores: list[list[float]]
    right: list[bool]
    seconds: float
    memory: float

    @property
    def name(self) -> str:
        return f"generation-{self.generation}-pattern-{self.pattern}-{self.repetition}"


@alone
def adapt_pet(
    run: Path,
    source: str,
    path: Path,
    options: PetOptions,
    *,
    unlabelled: str,
    patterns: Patterns | None = None,
    heldout: str | None = None,
    fields: Mapping[str, str] | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> AdaptedPet:
    """Train the language model of `run` to classify texts; the last model's run is `path`.

    source: labelled texts, heldout and unlabelled the others: see `pet_texts.read_texts`. patterns: None
    for the prompt itself, with the labels as words. resume: whether one that was cut off goes on.
    Raises WrongUse for a `path` that exists and for texts that do not fit the patterns.
    """
    start, config = language_base(run, path, resume)
    work, corpus = (path.with_name(f"{path.name}-{name}") for name in ("pet", "corpus"))
    for folder in (work, corpus):
        if occupied(folder) and not resume:
            raise WrongUse(
                f"{folder} is in the way: move it, choose another --run, or go on with --resume"
            )
    check_begun(work / PROGRESS, work, corpus, path)
    texts, patterns = read_texts(
        source,
        unlabelled,
        heldout,
        patterns,
        fields=fields,
        labels=options.labels,
        seed=options.seed,
    )
    content = _content(work, start, options, texts, patterns)
    tokenizer = load_tokenizer(start / TOKENIZER)
    base = load(start)
    own = own_corpus(start, say)
    own_before = None if own is None else score(base, own)
    shown = views(base, tokenizer, texts, patterns, options.found_words, say)
    weights = np.array([view.accuracy(base.model, "labelled").mean() for view in shown])
    first = [view.accuracy(base.model, "heldout") for view in shown]
    del base
    write_json(work / PROGRESS, content)  # nothing is refused any more

    terms = source_terms((source, unlabelled), fields)
    trainer = _Trainer(work, start, config, tokenizer, options, terms, observer, progress)
    members: list[Member] = []
    for generation in range(options.generations):
        taught = _taught(members, weights, texts, options, generation)
        members = []
        for pattern, view in enumerate(shown):
            for repetition in range(options.repetitions):
                say(f"generation {generation + 1}, pattern {pattern + 1} of {len(shown)}")
                known = taught[len(members)] if taught else None
                members.append(trainer.member(view, generation, pattern, repetition, texts, known))
    # Every generation's models are told of; the last one's label.
    together = ensemble(_scores(members), _weights(members, weights))
    soft = softmax(together, options.temperature)
    view = shown[0]
    rows = [Cloze(c, tuple(p)) for c, p in zip(view.unlabelled, soft.tolist(), strict=True)]
    say("the last model")
    data = trainer.corpus(corpus, view, rows, texts, alpha=0.0, temperature=options.temperature)
    recipe = options.recipe(start, config, data, options.distil_steps, options.seed)
    seconds, memory = trainer.train(recipe, path)
    last = load(path)
    after = view.accuracy(last.model, "heldout")
    everyone = trainer.members
    patterns_said = [
        {
            "pattern": view.pattern.text,
            "words": {label: list(words) for label, words in view.words.items()},
            "weight": float(weights[number]),
            "before": share(first[number]),
            "after": share(np.array([m.right for m in members if m.pattern == number]).mean(0)),
        }
        for number, view in enumerate(shown)
    ]
    generations = [
        {
            "texts": max(m.texts for m in everyone if m.generation == g),
            "after": share(np.array([m.right for m in everyone if m.generation == g]).mean(0)),
        }
        for g in range(options.generations)
    ]
    labelled = np.bincount(together.argmax(-1), minlength=len(texts.labels)).tolist()
    done = AdaptedPet(
        path=path,
        base=str(start),
        method="pet" if options.generations == 1 else "ipet",
        adapter="full",
        counted=count(config, None),
        metric="share of held-out texts with the right label",
        before=weighted_mean(first[0]),
        after=weighted_mean(after),
        own=None if own is None or own_before is None else (own_before, score(last, own)),
        seconds=seconds + sum(m.seconds for m in everyone),
        memory=max(memory, *(m.memory for m in everyone)),
        learning_rate=recipe.optimiser.learning_rate,
        weight_decay=recipe.optimiser.weight_decay,
        details={
            "models": len(everyone) + 1,
            "labels": list(texts.labels),
            "labelled": len(texts.labelled),
            "unlabelled": len(texts.unlabelled),
            "patterns": patterns_said,
            "generations": generations,
            "unlabelled_by_ensemble": dict(zip(texts.labels, labelled, strict=True)),
            "options": asdict(options),
        },
    )
    write_json(path / ADAPTATION, done.to_dict())
    return done


def share(right: Any) -> dict[str, Any]:
    """The mean of rights and wrongs (texts,), or of their means over models, as plain values of a `Mean`."""
    return vars(weighted_mean(right))


def _content(
    work: Path, start: Path, options: PetOptions, texts: Texts, patterns: Patterns
) -> dict[str, Any]:
    """What decides the outcome. Raises WrongUse where what goes on began otherwise."""
    identity = hashlib.sha256(json.dumps(texts.to_dict()).encode()).hexdigest()
    content = {
        **base_identity(start),
        "options": asdict(options),
        "patterns": patterns.to_dict(),
        "texts": identity,
    }
    if (work / PROGRESS).exists():
        before = read_json(work / PROGRESS)
        for name, value in content.items():
            if before.get(name) != value:
                raise WrongUse(f"{work} was begun with other {name}: choose another --run")
    return content


def _scores(members: list[Member]) -> Array:
    return np.array([member.scores for member in members])


def _weights(members: list[Member], weights: Array) -> Array:
    """The weight of each member's pattern."""
    return np.array([weights[member.pattern] for member in members])


def _taught(
    members: list[Member], weights: Array, texts: Texts, options: PetOptions, generation: int
) -> list[Labelled]:
    """What each model of a generation learns from the one before; nothing for the first."""
    if not members:
        return []
    counts = np.bincount(texts.numbers, minlength=len(texts.labels)).tolist()
    own = _weights(members, weights)
    return next_generation(_scores(members), own, counts, generation, options.seed)


class _Trainer:
    """Trains the models of a folder, and keeps what they say of the texts."""

    def __init__(
        self,
        work: Path,
        start: Path,
        config: ModelConfig,
        tokenizer: Tokenizer,
        options: PetOptions,
        terms: list[Term],
        observer: Observer | None,
        progress: Progress,
    ) -> None:
        self._work, self._start, self._config, self._tokenizer = work, start, config, tokenizer
        self._options, self._terms = options, terms
        self._observer, self._progress = observer, progress
        self.members: list[Member] = []

    def member(
        self,
        view: PatternTexts,
        generation: int,
        pattern: int,
        repetition: int,
        texts: Texts,
        taught: Labelled | None,
    ) -> Member:
        """A trained model of a pattern, or what was kept of it."""
        options = self._options
        name = f"generation-{generation}-pattern-{pattern}-{repetition}"
        kept = self._work / f"{name}.json"
        if not kept.exists():
            contexts, labels = list(view.labelled), texts.numbers
            if taught is not None:
                contexts += [view.unlabelled[n] for n in taught.texts.tolist()]
                labels = np.concatenate([labels, taught.labels])
            rows = _rows(contexts, labels, len(texts.labels))
            data = self.corpus(
                self._work / f"{name}-corpus", view, rows, texts, alpha=options.alpha
            )
            seed = options.seed + repetition
            recipe = options.recipe(self._start, self._config, data, options.steps, seed)
            seconds, memory = self.train(recipe, self._work / name)
            model = load(self._work / name).model
            found = Member(
                generation, pattern, repetition, len(rows),
                view.scores(model, view.unlabelled).tolist(),
                view.accuracy(model, "heldout").tolist(), seconds, memory,
            )  # fmt: skip
            write_json(kept, asdict(found))
        for leftover in (self._work / name, self._work / f"{name}-corpus"):
            shutil.rmtree(leftover, ignore_errors=True)
        self.members.append(Member(**read_json(kept)))
        return self.members[-1]

    def corpus(
        self,
        path: Path,
        view: PatternTexts,
        rows: list[Cloze],
        texts: Texts,
        *,
        alpha: float,
        temperature: float = 1.0,
    ) -> ClozeData:
        """The data of a recipe: a corpus of the rows, written where it is not there."""
        if not path.exists():
            write_cloze(
                path, self._tokenizer, texts.labels, view.word_tokens, rows,
                _rows(view.heldout, texts.heldout_numbers, len(texts.labels)),
                [Cloze(context) for context in view.unlabelled] if alpha else [], self._terms,
            )  # fmt: skip
        return ClozeData(
            corpus=str(path.resolve()), sequence=view.sequence, alpha=alpha, temperature=temperature
        )

    def train(self, recipe: LanguageRecipe, path: Path) -> tuple[float, float]:
        """Train to the end; seconds of all calls and the largest memory."""
        outcome = train(recipe, path, resume=True, observer=self._observer, progress=self._progress)
        if not outcome.finished:
            raise UserError(f"stopped at step {outcome.step}, saved: go on with --resume")
        records = RunDirectory(path).records()
        return sum(r["seconds"] for r in records), max(r["memory"] for r in records)


def _rows(contexts: list[tuple[int, ...]], labels: Numbers, count: int) -> list[Cloze]:
    probabilities = one_hot(labels, count).tolist()
    return [Cloze(c, tuple(p)) for c, p in zip(contexts, probabilities, strict=True)]
