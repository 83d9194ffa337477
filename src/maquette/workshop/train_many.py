"""Train many recipes in parallel, as claims, sweeps and ladders need.

A small model gains nothing from a second core, so as many are trained at a time as there are cores,
each in a process that stays for the next one: a run of a few seconds is not paid for with as many
seconds of start-up. What was finished is skipped and what was cut off goes on, so killing it at any
moment loses at most the steps since the runs' last checkpoints.
"""

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json
from maquette.base.machine import cores
from maquette.base.processes import kill_workers, no_script, start_workers
from maquette.training.loop import Outcome
from maquette.training.recipe import Recipe
from maquette.training.run import OUTCOME, RunDirectory

Job = tuple[Recipe, Path]
FREE = frozenset({"name", "stop", "ranks", "trackers", "checkpoints", "watch"})
"""fields in which a finished run's recipe may differ from the requested; stop: by the last step"""


def train_many(
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Train every recipe into its run directory; returns the outcomes, in the order of the jobs.

    workers: runs at a time, each on its share of the cores; None: as many as there are cores. A
    directory that comes twice is trained once. Raises WrongUse when a directory is asked for with
    two recipes, or holds the finished run of another; UserError when a run fails or is killed; the
    others' work is kept.
    """
    if workers is not None and workers < 1:
        raise WrongUse(f"workers is {workers}: use at least 1")
    folders = _places(jobs)
    todo = [job for job in folders.values() if not _finished(*job)]
    workers = min(workers or cores(), len(folders) or 1)
    threads = max(1, cores() // workers)  # of a job, however many of them are done already
    if todo:
        pool = start_workers(min(workers, len(todo)))
        try:
            running: dict[Future[None], Path] = {}
            while todo or running:
                while todo and len(running) < workers:
                    recipe, path = todo.pop(0)
                    say(f"  training {path.name}: {recipe.last_step:,} steps")
                    try:
                        with no_script():
                            running[pool.submit(_train, recipe, path, threads)] = path
                    except BrokenProcessPool as error:  # a worker died while it had nothing to do
                        raise _killed(path) from error
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    path = running.pop(future)
                    _result(future, path)
        except BaseException:
            kill_workers(pool)
            raise
        pool.shutdown()
    return [outcome(path) for _, path in jobs]


def done(path: Path) -> bool:
    """Whether a run has reached its last step."""
    run = RunDirectory(path)
    return run.finished and (run / OUTCOME).exists()


def outcome(path: Path) -> Outcome:
    """Outcome of a finished run."""
    return replace(Outcome(**read_json(RunDirectory(path) / OUTCOME)), finished=True)


def _result(future: "Future[None]", path: Path) -> None:
    try:
        future.result()
    except UserError as error:
        raise UserError(f"training {path} failed: {error}") from error
    except BrokenProcessPool as error:
        raise _killed(path) from error
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"training {path} failed: {type(error).__name__}: {first}") from error


def _killed(path: Path) -> UserError:
    return UserError(
        f"training {path} was killed (out of memory?): run again, what was finished is kept"
    )


def _places(jobs: Sequence[Job]) -> dict[Path, Job]:
    """The jobs by their absolute paths, each path once."""
    folders: dict[Path, Job] = {}
    for recipe, path in jobs:
        folder = path.expanduser().resolve()
        if folders.setdefault(folder, (recipe, path))[0] != recipe:
            raise WrongUse(
                f"{path} is asked for with two recipes: give each a directory of its own"
            )
    return folders


def _finished(recipe: Recipe, path: Path) -> bool:
    """Whether this recipe has been trained here. Raises WrongUse when another has."""
    if not done(path):
        return False
    own = RunDirectory(path).recipe()
    before, after = own.to_dict(), recipe.to_dict()
    other = [name for name in before if name not in FREE and before[name] != after.get(name)]
    if own.last_step != recipe.last_step and "steps" not in other:
        other.append("stop")
    for unit in ("tokens", "pictures"):  # what the held-out loss is a mean over
        if getattr(own.watch, unit, None) != getattr(recipe.watch, unit, None):
            other.append(f"watch.{unit}")
    if other:
        raise WrongUse(
            f"{path} holds a finished run of another recipe ({', '.join(other)} differs): "
            f"remove it, or choose another directory"
        )
    return True


def _train(recipe: Recipe, path: Path, threads: int) -> None:
    """Train a run in a worker process that is used again."""
    import torch

    from maquette.workshop.train import train

    torch.set_num_threads(threads)
    outcome = train(recipe, path, resume=True)
    gc.unfreeze()
    gc.collect()
    torch.compiler.reset()
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}: run again to go on")
