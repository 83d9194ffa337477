"""Branched runs: several runs that share the beginning of the longest.

Under warm-up, stable, decay (Hu et al. 2024) the rate of a run of D steps is that of a longer run
until its decay begins, and the data of a step are a function of (seed, step). So both runs are the
same to the last bit until then, and a run of D steps costs only its decay once the longer one,
the trunk, has been trained (Hagele et al. 2024: cool-downs in place of one run a length).

    trunk    warm up ------------------------------------------- decay    keeps checkpoints
    branch   the trunk's checkpoint ------- decay                        D steps, of which a fifth

A branch is an ordinary run directory that `train(recipe, path, resume=True)` goes on with. Left
out: what the trunk's guard would go back to, so a branch whose loss jumps in the first steps after
the branching point starts again from its beginning.
"""

import contextlib
import shutil
from pathlib import Path

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, lock
from maquette.training.checkpoint import State, check, saved_steps
from maquette.training.recipe import Recipe
from maquette.training.run import DECISIONS, METRICS, RECIPE, RunDirectory
from maquette.training.run_corpus import corpus_of
from maquette.training.run_setup import CHANGEABLE, create
from maquette.training.schedule import learning_rate_factor

FREE = CHANGEABLE | {"schedule"}


def branch(trunk: Path, recipe: Recipe, path: Path) -> int:
    """Branch a run directory `path` off a trunk, for training `recipe` from there; returns the step.

    The trunk's newest whole checkpoint is taken up to which both schedules give the same rates. A
    `path` that is a run already is left as it is: it goes on by itself. It appears in one step, so
    a process that is killed leaves nothing half made, and of two that branch to one `path` the first
    does. Raises WrongUse when the recipes differ in more than their length, UserError when the trunk
    has no checkpoint that would do.
    """
    source, target = RunDirectory(trunk), RunDirectory(path)
    own = source.recipe()
    _same(own, recipe, trunk)
    if (target / RECIPE).exists():
        return 0
    last = agree(own, recipe)
    state, saved = _checkpoint(source, last)
    with contextlib.ExitStack() as held:
        held.enter_context(lock(target.path.parent / f".{target.path.name}.lock"))
        if (target / RECIPE).exists():  # another process was first
            return 0
        if target.path.exists():
            held.enter_context(target.locked())
        with directory_aside(target.path) as folder:
            aside = RunDirectory(folder)
            create(aside, recipe, corpus_of(source))
            shutil.copyfile(source / DECISIONS, aside / DECISIONS)
            _copy_metrics(source / METRICS, aside / METRICS, state.metrics_bytes)
            shutil.copytree(saved, aside.checkpoints / saved.name)
    return state.step


def agree(a: Recipe, b: Recipe) -> int:
    """Number of first steps at which both recipes have the same learning rate."""
    limit = min(a.last_step, b.last_step)
    for step in range(limit):
        rates = (learning_rate_factor(recipe.schedule, step, recipe.steps) for recipe in (a, b))
        if len(set(rates)) > 1:
            return step
    return limit


def _same(own: Recipe, wanted: Recipe, trunk: Path) -> None:
    before, after = own.to_dict(), wanted.to_dict()
    for name in before:
        if name not in FREE and before[name] != after[name]:
            raise WrongUse(
                f"a branch of {trunk} differs from it in {name}: only its length and schedule may"
            )


def _checkpoint(trunk: RunDirectory, last: int) -> tuple[State, Path]:
    """The newest whole checkpoint at most at step `last`."""
    for step in reversed(saved_steps(trunk.checkpoints)):
        folder = trunk.checkpoints / f"step-{step:08d}"
        if step > last:
            continue
        with contextlib.suppress(UserError):  # damaged: the one before
            return check(folder), folder
    raise UserError(
        f"{trunk.path} keeps no checkpoint of its first {last} steps: "
        f"train it with --checkpoints.keep-every"
    )


def _copy_metrics(source: Path, target: Path, length: int) -> None:
    """The lines of the trunk's steps up to a checkpoint."""
    with source.open("rb") as file:
        target.write_bytes(file.read(length))
