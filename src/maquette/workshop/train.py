"""Train a recipe: make or reopen the run, start the ranks, draw samples, and report."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.machine import Machine, measure, resident
from maquette.corpus.progress import Progress, silent
from maquette.parallel.group import Group, join
from maquette.parallel.launch import launch, launched
from maquette.parallel.layout import check_layout
from maquette.training.datasets.dataset import open_dataset
from maquette.training.decide import decide, load_decisions
from maquette.training.initial_model import check_trained, make_model
from maquette.training.length import nothing_left, reached
from maquette.training.loop import Outcome
from maquette.training.loop import train as run_loop
from maquette.training.observer import Observer, Quiet, Replan
from maquette.training.recipe import Recipe
from maquette.training.run import DECISIONS, OUTCOME, RECIPE, RunDirectory
from maquette.training.run_corpus import corpus_of
from maquette.training.run_setup import create
from maquette.training.run_setup import resume as resume_run
from maquette.workshop.forecast import EXPECTED, expect
from maquette.workshop.kinds import workshop_kind

LEAST_STATE = 16  # bytes a trained parameter: weight, gradient and two moments in fp32


def train(
    recipe: Recipe | None,
    path: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    progress: Progress = silent,
    planned: dict[str, Any] | None = None,
    replan: Replan | None = None,
) -> Outcome:
    """Train `recipe` in the run directory `path`, or go on with what is there.

    planned: what was forecast of the recipe (`recipe.load_plan`), shown beside the outcome.
    replan: see `training.loop.train`; of a run in this process. With
    `resume`, the run's own recipe is used; `recipe`, if given, may change its length, its ranks and
    what is watched. Raises WrongUse when the run exists and `resume` is not set, when another process
    trains it, or when the recipe cannot be; UserError for what is wrong outside.
    """
    run, watcher = RunDirectory(path), observer or Quiet()
    if launched():  # by torchrun or a cluster: this process is one rank of the run
        return _as_rank(recipe, run, resume, watcher, progress, planned)
    with run.locked():
        recipe = _prepare(recipe, run, resume, watcher, progress, planned)
        if recipe.ranks == 1:
            with join(recipe.device) as group:
                return run_rank(run, group, watcher, replan)
        code = launch([sys.executable, "-m", "maquette", "rank", str(path)], recipe.ranks)
        if code:
            raise UserError(f"a rank of {path} failed: its message is above")
        return Outcome(**json.loads((run / OUTCOME).read_text(encoding="utf-8")))


def run_rank(
    run: RunDirectory,
    group: Group,
    observer: Observer | None = None,
    replan: Replan | None = None,
) -> Outcome:
    """Train as one rank of a prepared run whose lock somebody holds."""
    dataset = open_dataset(run.recipe(), corpus_of(run))
    watcher = workshop_kind(run.recipe().data.kind).samples(run, observer or Quiet())
    decisions = load_decisions(run / DECISIONS)
    return run_loop(run, dataset, decisions, group, watcher, replan)


def _as_rank(
    recipe: Recipe | None,
    run: RunDirectory,
    resume: bool,
    watcher: Observer,
    progress: Progress,
    planned: dict[str, Any] | None,
) -> Outcome:
    with join(recipe.device if recipe is not None else run.recipe().device) as group:
        if not group.first:
            group.barrier()
            return run_rank(run, group)
        with run.locked():
            if recipe is not None:
                recipe = replace(recipe, ranks=group.world)
            _prepare(recipe, run, resume, watcher, progress, planned)
            group.barrier()
            return run_rank(run, group, watcher)


def _prepare(
    recipe: Recipe | None,
    run: RunDirectory,
    resume: bool,
    watcher: Observer,
    progress: Progress,
    planned: dict[str, Any] | None = None,
) -> Recipe:
    """Prepare a run directory from which any rank can train; returns its recipe."""
    before = resident()
    began = (run / RECIPE).exists()
    ranks = run.recipe().ranks if began else 1
    if resume and began:
        corpus_of(run).check(progress)
        recipe = resume_run(run, recipe, watcher.say)
        check_layout(recipe.layout)
        if run.finished and (step := reached(run.path)) >= recipe.last_step:
            watcher.say(nothing_left(recipe, step))
    else:
        if recipe is None:
            raise UserError(f"{run.path} is not a run: name a recipe to start one")
        check_layout(recipe.layout)
        _check_room(recipe, measure(recipe.device))
        dataset = open_dataset(recipe, recipe.data.open_corpus(progress))
        notes = dataset.check()
        create(run, recipe, dataset.corpus)
        for line in notes:
            watcher.say(line)
    machine = measure(recipe.device)
    kept = load_decisions(run / DECISIONS) if (run / DECISIONS).exists() else None
    if kept is not None and kept.device == machine.device:
        if (kept.processor, kept.torch_version) != (machine.processor, machine.torch):
            watcher.say(
                f"this run began on {kept.processor} with torch {kept.torch_version}: it goes on, "
                f"but no longer bit for bit"
            )
        if ranks != recipe.ranks:
            threads = max(1, kept.threads * ranks // recipe.ranks)
            replace(kept, threads=threads).save(run / DECISIONS)
    else:
        model = make_model(recipe, say=watcher.say)
        decisions = decide(recipe, machine, model, open_dataset(recipe, corpus_of(run)))
        decisions.save(run / DECISIONS)
        for name, reason in decisions.why.items():
            watcher.say(f"{name} {reason}")
    if not (run / EXPECTED).exists():
        kept = load_decisions(run / DECISIONS)
        expect(run, recipe, machine, kept, planned or {}, before)
    return recipe


def _check_room(recipe: Recipe, machine: Machine) -> None:
    """Refuse before the start a model whose state alone is larger than the memory."""
    room = machine.memory if machine.device_memory is None else machine.device_memory
    trained = check_trained(recipe)
    needed = 4 * recipe.model.parameters() + (LEAST_STATE - 4) * trained
    if needed > room:
        raise UserError(
            f"a model of {recipe.model.parameters():.3g} parameters takes {needed / 2**30:.3g} GiB as "
            f"state of its training alone, and there are {room / 2**30:.3g}: make it smaller"
        )
