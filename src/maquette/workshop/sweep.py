"""Tune a recipe on a narrow proxy, and transfer the best values to the large model.

The parametrisation says what a learning rate means at every width, so the proxy is the recipe with
fewer heads, and what is best for it goes into the recipe as it stands. Points are the product of
lists, or draws from ranges. Many points are thinned by successive halving: each round trains the
better part of them for longer, on the same fractions of the schedule.

    runs/sweep-NAME/
        sweep.json              what is swept, and, when finished, what was found
        sweep.png               loss over the first field
        trials/LENGTH/POINT/    a run each

A sweep that was cut off goes on with the trials that are missing. A trial that diverges has an
infinite loss and ends no sweep.

Sources: Yang et al. 2022, "Tensor Programs V", algorithm 1 (tune a proxy, transfer); Jamieson and
Talwalkar 2016 (successive halving). Left out: samplers that learn from the trials before.
"""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_json
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import RunDirectory
from maquette.workshop.optimum import Optimum, find_optimum
from maquette.workshop.sweep_plan import Plan, Point, points, rounds, with_values

LAST = 20
"""number of training losses whose mean is a trial's loss"""
EXTENSIONS = 3
"""largest number of extensions of a grid by two points where its best is on the edge"""
NAME = 120
"""characters of the point in the name of a trial's folder; a hash follows"""
NARROW = 32
"""width below which the best rate moves in spite of the rules"""
SWEEP, PICTURE = "sweep.json", "sweep.png"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """A trial: a point, and the mean loss of its seeds after `steps` steps; infinite: diverged."""

    point: Point
    steps: int
    loss: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Found:
    """The result of a sweep."""

    trials: tuple[Trial, ...]
    """all trials, the last round's first, each round from the best down"""
    values: Point
    """best values, interpolated between the points of a grid"""
    optimum: Optimum | None
    """optimum of a sweep over one field with positive values"""
    warnings: tuple[str, ...]

    @property
    def best(self) -> Trial:
        """The best trial of full length."""
        return self.trials[0]


def sweep(plan: Plan, folder: Path, say: Say = print, workers: int | None = None) -> Found:
    """Train the missing trials of the plan in `folder`; returns the result.

    Raises WrongUse when the folder holds another sweep, UserError when a trial cannot run at all.
    """
    wanted = points(plan)
    for _, steps in rounds(len(wanted), plan.length, plan.eta):
        for point in wanted:
            plan.proxy(point, 0, steps)  # what cannot be is said before anything is written
    kept = _begun(plan, folder)
    if kept is not None:
        return kept
    done: list[Trial] = []
    for count, steps in rounds(len(wanted), plan.length, plan.eta):
        wanted = wanted[:count]
        last = _train(plan, folder, wanted, steps, say, workers)
        done = last + done
        wanted = [trial.point for trial in last]
    full = [trial for trial in done if trial.steps == plan.length]
    extended = 0
    while extended < EXTENSIONS and (more := _beyond(plan, full)[0]):
        say(f"the best is on the edge of the grid: trying {', '.join(f'{v:g}' for v in more)}, too")
        new = [{plan.axes[0].name: value} for value in more]
        full = sorted(
            full + _train(plan, folder, new, plan.length, say, workers), key=lambda t: t.loss
        )
        extended += 1
    done = full + [trial for trial in done if trial.steps != plan.length]
    result = _found(plan, done)
    _keep(plan, folder, result)
    return result


def transferred(plan: Plan, result: Found) -> LanguageRecipe:
    """The recipe of the large model: the plan's own with the best values, and the same rules."""
    return with_values(plan.recipe, result.values)


def _train(
    plan: Plan, folder: Path, wanted: list[Point], steps: int, say: Say, workers: int | None
) -> list[Trial]:
    """Trials of all points and seeds, from the best down."""
    from maquette.workshop.train_many import train_many

    jobs = [
        (plan.proxy(point, seed, steps), folder / "trials" / str(steps) / _name(point, seed))
        for point in wanted
        for seed in range(plan.seeds)
    ]
    train_many(jobs, say=say, workers=workers)
    losses = [_loss(path) for _, path in jobs]
    trials = []
    for i, point in enumerate(wanted):
        each = tuple(losses[i * plan.seeds : (i + 1) * plan.seeds])
        trials.append(Trial(point, steps, statistics.fmean(each), each))
    return sorted(trials, key=lambda trial: trial.loss)


def _loss(path: Path) -> float:
    """Mean of a run's last training losses; infinite where one of them is no number."""
    records = RunDirectory(path).records()
    recent = [r["loss"] for r in records[-max(1, min(LAST, len(records) // 4)) :]]
    finite = all(loss is not None and math.isfinite(loss) for loss in recent)
    return statistics.fmean(recent) if finite else math.inf


def _beyond(plan: Plan, full: list[Trial]) -> tuple[list[float], str]:
    """Two values further than the best, where it is on the edge of a grid of one positive field.

    Those that the recipe refuses are left out, and why comes second.
    """
    name, values = plan.axes[0].name, _line(plan, full)
    if values is None or not math.isfinite(full[0].loss):
        return [], ""
    grid, edge = _grid(plan, values), _edge(plan, full)
    if edge == 0 or len(grid) < 3:
        return [], ""
    factor = grid[0] / grid[1] if edge < 0 else grid[-1] / grid[-2]
    value: float = full[0].point[name]
    more: list[float] = []
    for _ in range(2):
        value *= factor
        if not 0 < value < math.inf:
            return more, f"{name} is {value:g}"
        try:
            plan.proxy({name: value})
        except UserError as error:
            return more, str(error)
        more.append(value)
    return more, ""


def _grid(plan: Plan, values: list[float]) -> list[float]:
    """All values of the only field, those that a halving cut short among them."""
    return sorted({*plan.axes[0].values, *values})


def _edge(plan: Plan, full: list[Trial]) -> int:
    """-1: the best is the least value that was tried at all, 1: the largest, 0: neither."""
    name = plan.axes[0].name
    best, grid = full[0].point[name], _grid(plan, [trial.point[name] for trial in full])
    return -1 if best == grid[0] else 1 if best == grid[-1] else 0


def _line(plan: Plan, full: list[Trial]) -> list[float] | None:
    """The values of the only field, if it is a grid of positive fractions."""
    if len(plan.axes) > 1 or plan.axes[0].bounds is not None:
        return None
    values = [trial.point[plan.axes[0].name] for trial in full]
    positive = all(isinstance(v, float) and v > 0 for v in values)
    return values if positive and plan.trials is None else None


def _found(plan: Plan, trials: list[Trial]) -> Found:
    best, warnings = trials[0], _warnings(plan)
    full = [trial for trial in trials if trial.steps == plan.length]
    values, optimum = dict(best.point), None
    if not math.isfinite(best.loss):
        warnings.append("every trial diverged: lower the values")
    line = _line(plan, full)
    if line is not None and len(line) > 1 and math.isfinite(best.loss):
        optimum = find_optimum(line, [trial.loss for trial in full])
        name, edge = plan.axes[0].name, _edge(plan, full)
        values[name] = float(f"{optimum.value:.3g}")
        if edge:
            refused = _beyond(plan, full)[1]
            warnings.append(
                f"the best {name} is the {'least' if edge < 0 else 'largest'} that was tried: "
                + (f"the recipe refuses what follows ({refused})" if refused
                   else "give others with --over")
            )  # fmt: skip
        elif optimum.edge:
            warnings.append(
                f"what is next to the best {name} was cut short by the halving: "
                f"the optimum may lie between the two"
            )
        optimum = replace(optimum, edge=edge)
    for a in plan.axes:
        if a.bounds is not None:
            low, high = map(math.log, a.bounds)
            position = (math.log(best.point[a.name]) - low) / (high - low)
            if not 0.05 < position < 0.95:
                warnings.append(f"the best {a.name} is at the end of its range: widen it")
    return Found(tuple(trials), values, optimum, tuple(warnings))


def _warnings(plan: Plan) -> list[str]:
    warnings = []
    if plan.recipe.model.parametrisation.kind == "standard":
        warnings.append(
            "in the standard parametrisation the best rate falls as the width grows: what is tuned "
            "here does not transfer (--model.parametrisation.kind mup does)"
        )
    if plan.width < NARROW:
        warnings.append(
            f"below width {NARROW} the best rate moves with the width: use a wider proxy"
        )
    if plan.length != plan.recipe.steps:
        warnings.append(
            f"the proxy takes {plan.length:,} steps and the recipe {plan.recipe.steps:,}: transfer in "
            f"length is not covered by theory, and longer runs tend to want lower rates"
        )
    return warnings


def _name(point: Point, seed: int) -> str:
    """A folder's name that says what the trial is."""
    parts = [f"{name.split('.')[-1]}={value}" for name, value in point.items()]
    text = re.sub(r"[^\w.=,+-]", "_", ",".join([*parts, f"seed={seed}"]), flags=re.ASCII)
    exact = hashlib.sha256(json.dumps([point, seed]).encode()).hexdigest()
    return f"{text[:NAME]}-{exact[:8]}"  # what the characters of a folder's name cannot tell apart


def _begun(plan: Plan, folder: Path) -> Found | None:
    """The result of a finished sweep of the same plan; None where there is none, and the plan is kept."""
    path = folder / SWEEP
    if not path.exists():
        write_json(path, {"plan": plan.to_dict(), "found": None})
        return None
    content = read_json(path)
    if content["plan"] != plan.to_dict():
        raise WrongUse(
            f"{folder} holds another sweep: choose another --run, or ask for the same as before"
        )
    kept = content["found"]
    if kept is None:
        return None
    trials = tuple(
        Trial(t["point"], t["steps"], _infinite(t["loss"]), tuple(map(_infinite, t["losses"])))
        for t in kept["trials"]
    )
    return _found(plan, list(trials))


def _keep(plan: Plan, folder: Path, result: Found) -> None:
    trials = [
        {
            "point": t.point,
            "steps": t.steps,
            "loss": t.loss if math.isfinite(t.loss) else None,
            "losses": [loss if math.isfinite(loss) else None for loss in t.losses],
        }
        for t in result.trials
    ]
    write_json(folder / SWEEP, {"plan": plan.to_dict(), "found": {"trials": trials}})


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value
