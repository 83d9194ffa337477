"""What `import maquette` offers: the commands as functions."""

from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.machine import measure
from maquette.scaling.devices import device as named_device
from maquette.scaling.devices import from_machine, here
from maquette.scaling.laws import law as named_law
from maquette.scaling.plan import Budget, Plan, make_plan
from maquette.systems.catalogue import recipe_named
from maquette.systems.claims import Lab, Result, select
from maquette.systems.claims import measure as measure_claim
from maquette.training.recipe import Recipe
from maquette.training.run import free_name
from maquette.workshop.load import Loaded, load
from maquette.workshop.train import train as train_recipe

__all__ = ["load", "plan", "reproduce", "train"]


def train(recipe: Recipe | str, run: str | Path | None = None, *, resume: bool = False) -> Loaded:
    """Train a recipe (or one of the catalogue, by name) and open the run.

    run: its directory, by default `runs/NAME`. Raises UserError as the command does.
    """
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    path = Path(run) if run is not None else free_name(Path("runs"), chosen.name)
    outcome = train_recipe(chosen, path, resume=resume)
    if not outcome.finished:
        raise UserError(f"stopped at step {outcome.step}, saved: go on with resume=True")
    return load(path)


def plan(
    *,
    flops: float | None = None,
    device: str | None = None,
    devices: int = 1,
    hours: float | None = None,
    minutes: float | None = None,
    utilisation: float | None = None,
    price: float | None = None,
    law: str = "besiroglu",
    **settings: Any,
) -> Plan:
    """What to train with a budget; see `scaling.plan.make_plan` for what else may be set.

    Without `device` time is this machine's, as measured.
    """
    hours = minutes / 60 if minutes is not None else hours
    found = None
    if device is not None:
        found = named_device(device)
    elif hours is not None:
        found = here() or from_machine(measure())
    seconds = None if hours is None else hours * 3600
    budget = Budget(flops, seconds, found, devices, utilisation, price)
    return make_plan(budget, named_law(law), **settings)


def reproduce(
    *names: str, quick: bool = False, seeds: int = 2, out: str | Path = "claims"
) -> list[Result]:
    """Measure claims by `SYSTEM` or `SYSTEM.CLAIM`; see `systems.claims`."""
    lab = Lab(seeds, quick, print)
    return [measure_claim(claim, lab, Path(out)) for claim in select(list(names))]
