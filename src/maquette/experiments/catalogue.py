"""Systems, recipes and claims, found by scanning the package `maquette.systems` and folders of a user's own.

A system is a module: its docstring says what it is, the paper, what was scaled down and by how
much, the command, the minutes, the expected number. In it, functions marked `@recipe` return
recipes and functions marked `@claim` measure claims; a table of many recipes is a dictionary
`RECIPES` of functions by name, such as `published_recipes` makes. A module without a claim
and without a recipe is no system. `$MAQUETTE_SYSTEMS` names more folders, separated as in `$PATH`.
"""

import functools
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from maquette.base.errors import WrongUse, did_you_mean
from maquette.experiments.claims import Claim
from maquette.training.recipe import Recipe, load_recipe

RecipeFunction = Callable[[], Recipe]
FOLDERS = "MAQUETTE_SYSTEMS"
"""environment variable that names folders of systems"""


F = TypeVar("F", bound=RecipeFunction)


def recipe(function: F) -> F:
    """Offer what `function` returns under its name, underscores as hyphens."""
    function.recipe_name = function.__name__.replace("_", "-")  # type: ignore[attr-defined]
    return function


@dataclass
class System:
    """A system: a module of the catalogue."""

    name: str
    title: str
    """first line of the module's docstring"""
    doc: str
    recipes: dict[str, RecipeFunction] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)


@functools.cache
def systems() -> dict[str, System]:
    """Every system, by name: those of the package first, then those of the user's folders.

    Raises WrongUse where a folder does not exist, and where a name is taken.
    """
    catalogue: dict[str, System] = {}
    for module in _modules():
        name = module.__name__.rpartition(".")[2]
        doc = (module.__doc__ or "").strip()
        system = System(name, doc.splitlines()[0] if doc else "", doc)
        system.recipes |= getattr(module, "RECIPES", {})
        for value in vars(module).values():
            function = value.function if isinstance(value, Claim) else value
            if getattr(function, "__module__", None) != module.__name__:
                continue  # imported from elsewhere
            if isinstance(value, Claim):
                system.claims[value.name] = replace(value, system=name)
            elif hasattr(value, "recipe_name"):
                system.recipes[value.recipe_name] = value
        for other in catalogue.values():
            if taken := other.recipes.keys() & system.recipes.keys():
                raise WrongUse(
                    f"{module.__file__}: {other.name} has a recipe {min(taken)} too: rename this one"
                )
        if system.recipes or system.claims:
            catalogue[name] = system
    return catalogue


def _modules() -> Iterator[ModuleType]:
    """Every module of `maquette.systems`, and of the folders that `$MAQUETTE_SYSTEMS` names."""
    package = importlib.import_module("maquette.systems")
    for folder in filter(None, os.environ.get(FOLDERS, "").split(os.pathsep)):
        if not Path(folder).is_dir():
            raise WrongUse(f"${FOLDERS} names {folder}, which is no folder")
        package.__path__.append(str(Path(folder).resolve()))
    files: dict[str, Path] = {}
    for path in dict.fromkeys(package.__path__):
        for _, name, _ in pkgutil.iter_modules([path]):
            file = Path(path) / f"{name}.py"
            if name in files:
                raise WrongUse(f"{file}: {files[name]} has this name: rename the file")
            files[name] = file
            yield importlib.import_module(f"maquette.systems.{name}")


def recipes() -> dict[str, RecipeFunction]:
    """Every recipe of every system, by name."""
    return {name: f for system in systems().values() for name, f in system.recipes.items()}


def recipe_named(name: str) -> Recipe:
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
        system, _, claim = name.partition(".")
        if system not in known:
            raise WrongUse(f"unknown system {system}{did_you_mean(system, known)}")
        claims = known[system].claims
        if claim and claim not in claims:
            ids = [f"{system}.{c}" for c in claims]
            raise WrongUse(f"unknown claim {name}{did_you_mean(name, ids)}")
        if not claims:
            raise WrongUse(f"{system} makes no claims")
        chosen += [claims[claim]] if claim else claims.values()
    return chosen
