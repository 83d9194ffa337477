"""Systems, recipes and claims, found by scanning the package `maquette.systems`.

A system is a module: its docstring says what it is, the paper, what was scaled down and by how
much, the command, the minutes, the expected number. In it, functions marked `@recipe` return
recipes and functions marked `@claim` measure claims; a table of many recipes is a dictionary
`RECIPES` of functions by name, such as `published_recipes` makes. Modules without a claim or a
recipe are machinery, and no systems.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from maquette.base.errors import WrongUse, did_you_mean
from maquette.experiments.claims import Claim
from maquette.training.recipe import (
    BaseRecipe,
    load_recipe,
)

RecipeFunction = Callable[[], BaseRecipe]


F = TypeVar("F", bound=RecipeFunction)


def recipe(function: F) -> F:
    """Offer what `function` returns under its name, underscores as hyphens."""
    function.recipe_name = function.__name__.replace("_", "-")  # type: ignore[attr-defined]
    return function


@dataclass
class System:
    """One module of the catalogue."""

    name: str
    title: str
    """the first line of its docstring"""
    doc: str
    recipes: dict[str, RecipeFunction] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)


@functools.cache
def systems() -> dict[str, System]:
    """Every system, by name."""
    found = {}
    package = importlib.import_module("maquette.systems")
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"maquette.systems.{info.name}")
        doc = (module.__doc__ or "").strip()
        system = System(info.name, doc.splitlines()[0] if doc else "", doc)
        system.recipes |= getattr(module, "RECIPES", {})
        for value in vars(module).values():
            function = value.function if isinstance(value, Claim) else value
            if getattr(function, "__module__", None) != module.__name__:
                continue  # imported from elsewhere
            if isinstance(value, Claim):
                system.claims[value.name] = replace(value, system=info.name)
            elif hasattr(value, "recipe_name"):
                system.recipes[value.recipe_name] = value
        if system.recipes or system.claims:
            found[info.name] = system
    return found


def recipes() -> dict[str, RecipeFunction]:
    """Every recipe of every system, by name."""
    return {name: f for system in systems().values() for name, f in system.recipes.items()}


def recipe_named(name: str) -> BaseRecipe:
    """A recipe of the catalogue, or of a YAML file."""
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        if not Path(name).is_file():
            raise WrongUse(f"{name} does not exist")
        return load_recipe(Path(name))
    known = recipes()
    if name not in known:
        raise WrongUse(f"unknown recipe {name}{did_you_mean(name, known)}")
    return replace(known[name](), name=name)


def select(names: list[str]) -> list[Claim]:
    """The claims that `SYSTEM` or `SYSTEM.CLAIM` name; all of them for no name."""
    known = systems()
    chosen: list[Claim] = []
    for name in names or [s for s in known if known[s].claims]:
        system, _, one = name.partition(".")
        if system not in known:
            raise WrongUse(f"unknown system {system}{did_you_mean(system, known)}")
        claims = known[system].claims
        if one and one not in claims:
            ids = [f"{system}.{c}" for c in claims]
            raise WrongUse(f"unknown claim {name}{did_you_mean(name, ids)}")
        if not claims:
            raise WrongUse(f"{system} makes no claims")
        chosen += [claims[one]] if one else claims.values()
    return chosen
