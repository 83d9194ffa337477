"""Train a recipe: make or reopen the run, start the ranks, look now and then, and report."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import write_atomic
from maquette.base.machine import measure
from maquette.corpus.build import Progress, silent
from maquette.corpus.store import TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer
from maquette.models.decoder import Decoder
from maquette.parallel.group import Group, join
from maquette.parallel.launch import launch, launched
from maquette.parallel.layout import check_layout
from maquette.serving.generate import generate
from maquette.serving.sampler import Sampling
from maquette.training.decide import decide, load_decisions
from maquette.training.loop import Observer, Outcome, Quiet
from maquette.training.loop import train as run_loop
from maquette.training.recipe import Recipe
from maquette.training.run import DECISIONS, OUTCOME, RunDirectory
from maquette.workshop.corpora import open_corpus


def train(
    recipe: Recipe | None,
    path: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Train `recipe` in the run directory `path`, or go on with what is there.

    With `resume`, the run's own recipe is used; `recipe`, if given, may change its length, its
    ranks and what is watched. Raises WrongUse when the run exists and `resume` is not set, when
    another process trains it, or when the recipe cannot be; UserError for what is wrong outside.
    """
    run, watcher = RunDirectory(path), observer or Quiet()
    if launched():  # by torchrun or a cluster: this process is one rank of the run
        return _as_rank(recipe, run, resume, watcher, progress)
    with run.locked():
        recipe = _prepare(recipe, run, resume, watcher, progress)
        if recipe.ranks == 1:
            return run_rank(run, Group(), watcher)
        code = launch([sys.executable, "-m", "maquette", "rank", str(path)], recipe.ranks)
        if code:
            raise UserError(f"a rank of {path} failed: its message is above")
        return Outcome(**json.loads((run / OUTCOME).read_text()))


def run_rank(run: RunDirectory, group: Group, observer: Observer | None = None) -> Outcome:
    """Train as one rank of a prepared run whose lock somebody holds."""
    watcher = Samples(run, observer or Quiet())
    return run_loop(run, run.corpus(), load_decisions(run / DECISIONS), group, watcher)


def _as_rank(
    recipe: Recipe | None, run: RunDirectory, resume: bool, watcher: Observer, progress: Progress
) -> Outcome:
    group = join()
    if not group.first:
        group.barrier()
        return run_rank(run, group)
    with run.locked():
        if recipe is not None:
            recipe = replace(recipe, ranks=group.world)
        _prepare(recipe, run, resume, watcher, progress)
        group.barrier()
        return run_rank(run, group, watcher)


def _prepare(
    recipe: Recipe | None, run: RunDirectory, resume: bool, watcher: Observer, progress: Progress
) -> Recipe:
    """Leave a run directory from which any rank can train; returns its recipe."""
    began = (run / "recipe.yaml").exists()
    if resume and began:
        recipe = run.resume(recipe)
        check_layout(recipe.layout)
    else:
        if recipe is None:
            raise UserError(f"{run.path} is not a run: name a recipe to start one")
        check_layout(recipe.layout)
        corpus = open_corpus(recipe.data.corpus, progress)
        if recipe.model.vocabulary != corpus.vocabulary:
            raise WrongUse(
                f"model.vocabulary is {recipe.model.vocabulary}, the corpus {recipe.data.corpus} "
                f"has {corpus.vocabulary}: use --model.vocabulary {corpus.vocabulary}"
            )
        run.create(recipe, corpus)
    machine = measure()
    if (run / DECISIONS).exists():
        kept = load_decisions(run / DECISIONS)
        if (kept.processor, kept.torch_version) != (machine.processor, machine.torch):
            watcher.say(
                f"this run began on {kept.processor} with torch {kept.torch_version}: it goes on, "
                f"but no longer bit for bit"
            )
    else:
        decisions = decide(recipe, machine, recipe.model.build().initialise(recipe.seed))
        decisions.save(run / DECISIONS)
        for reason in decisions.why.values():
            watcher.say(reason)
    return recipe


class Samples:
    """Writes a sample at every look, and passes everything on to another observer."""

    def __init__(self, run: RunDirectory, observer: Observer) -> None:
        self._run, self._next = run, observer
        self._recipe = run.recipe()
        self._tokenizer: Tokenizer = load_tokenizer(run / TOKENIZER)

    def start(self, step: int, steps: int) -> None:
        self._next.start(step, steps)

    def step(self, record: dict[str, Any]) -> None:
        self._next.step(record)

    def say(self, message: str) -> None:
        self._next.say(message)

    def look(self, step: int, model: Decoder) -> None:
        watch = self._recipe.watch
        if watch.sample_tokens > 0:
            room = model.config.context - len(self._tokenizer.encode(watch.prompt)) - 1
            results, _ = generate(
                model,
                self._tokenizer,
                [watch.prompt],
                tokens=max(1, min(watch.sample_tokens, room)),
                sampling=Sampling(seed=step),
            )
            text = watch.prompt + results[0].text
            write_atomic(self._run / "samples" / f"step-{step:08d}.txt", text + "\n")
        self._next.look(step, model)
