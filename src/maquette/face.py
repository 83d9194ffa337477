"""The Python interface of `import maquette`: the commands as functions."""

from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.experiments.catalogue import recipe_named, select
from maquette.experiments.lab import SEEDS, Lab
from maquette.experiments.results import Result
from maquette.experiments.results import measure as measure_claim
from maquette.scaling.budget import Budget, hours_of
from maquette.scaling.plan import Plan, make_plan
from maquette.training.recipe import Recipe
from maquette.training.run import free_name
from maquette.workshop.kinds import load_any
from maquette.workshop.load import Loaded
from maquette.workshop.picture_generation import PictureRun
from maquette.workshop.planning import device_named, law_named, text_of
from maquette.workshop.train import train as train_recipe

__all__ = ["load", "plan", "reproduce", "train"]


def train(
    recipe: Recipe | str, run: str | Path | None = None, *, resume: bool = False
) -> Loaded | PictureRun:
    """Train a recipe (or one of the catalogue, by name) and open the run.

    run: its directory, by default `runs/NAME`. Raises UserError as the command does.
    """
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    path = Path(run) if run is not None else free_name(Path("runs"), chosen.name)
    outcome = train_recipe(chosen, path, resume=resume)
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with resume=True")
    return load(path)


def load(path: str | Path, base: str | Path | None = None) -> Loaded | PictureRun:
    """Open a run, of text or of pictures. Raises UserError for what is none, or is damaged.

    base: of an adapted run, where its base is now.
    """
    loaded: Loaded | PictureRun = load_any(path, base)
    return loaded


def plan(
    *,
    flops: float | None = None,
    device: str | None = None,
    devices: int = 1,
    hours: float | None = None,
    minutes: float | None = None,
    utilisation: float | None = None,
    price: float | None = None,
    corpus: str | None = None,
    law: str | None = None,
    **settings: Any,
) -> Plan:
    """What to train with a budget, as `maquette plan` says it; without any, an hour of this machine.

    corpus: a folder or name. law: a published one, or a ladder's folder. settings: see
    `scaling.plan.make_plan`. Raises UserError as the command does.
    """
    hours = hours_of(hours, minutes)
    hours = 1.0 if hours is None and flops is None else hours
    known = device_named(device) if device is not None or hours is not None else None
    seconds = None if hours is None else hours * 3600
    budget = Budget(flops, seconds, known, devices, utilisation, price)
    text = text_of(corpus) if corpus is not None else None
    return make_plan(budget, law_named(law, corpus), text=text, **settings)


def reproduce(
    *names: str, quick: bool = False, seeds: int = SEEDS, out: str | Path | None = None
) -> list[Result]:
    """Measure claims by `SYSTEM` or `SYSTEM.CLAIM`; see `experiments.results`.

    out: folder of the results; None: `claims`, or for trials (quick, fewer seeds) Maquette's home.
    """
    lab = Lab(seeds, quick, print)
    folder = None if out is None else Path(out)
    return [measure_claim(claim, lab, folder) for claim in select(list(names))]
