"""Comparison of runs."""

from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.files import read_json
from maquette.training.recipe import field_names
from maquette.training.run import OUTCOME, RunDirectory


def find(paths: list[Path]) -> list[Path]:
    """The runs named, or every run under `runs/`."""
    if not paths:
        return sorted(p.parent for p in Path("runs").glob("*/recipe.yaml"))
    for path in paths:
        if not (path / "recipe.yaml").exists():
            raise UserError(f"{path} is not a run (no recipe.yaml): name run directories")
    return paths


def summary(path: Path) -> dict[str, Any]:
    """A run in one row: its last step, last held-out loss and speed.

    Counts are in the run's unit, tokens or pictures. A run that cannot be read has the reason as its
    state, and does not hide the others.
    """
    try:
        return _summary(RunDirectory(path))
    except UserError as error:
        names = ("loss", "heldout_loss", "tokens_per_second", "flops_utilisation")
        numbers = {"unit": "tokens", "step": 0, "steps": 0, "tokens": 0, "seconds": 0.0}
        return (
            {"run": str(path), "recipe": "", "state": f"unreadable: {error}"}
            | numbers
            | (dict.fromkeys(names))
        )


def _summary(run: RunDirectory) -> dict[str, Any]:
    recipe, records = run.recipe(), run.records()
    last = records[-1] if records else {}
    heldout = [r["heldout_loss"] for r in records if "heldout_loss" in r]
    outcome = read_json(run / OUTCOME) if (run / OUTCOME).exists() else {}
    return {
        "run": str(run.path),
        "recipe": recipe.name,
        "state": "finished" if run.finished else "unfinished",
        "step": last.get("step", 0),
        "steps": recipe.last_step,
        "unit": recipe.unit,
        "tokens": last.get(recipe.unit, 0),
        "loss": last.get("loss"),
        "heldout_loss": heldout[-1] if heldout else None,
        "tokens_per_second": outcome.get(
            "tokens_per_second", last.get(f"{recipe.unit}_per_second")
        ),
        "flops_utilisation": outcome.get("flops_utilisation", last.get("flops_utilisation")),
        "seconds": sum(r["seconds"] for r in records),
    }


def differences(paths: list[Path]) -> dict[str, list[Any]]:
    """The recipe fields in which runs differ, with the value of each."""
    recipes = [RunDirectory(path).recipe() for path in paths]
    result = {}
    for name in field_names(recipes[0]) if recipes else []:
        values = [_value(recipe, name) for recipe in recipes]
        if any(value != values[0] for value in values):
            result[name] = values
    return result


def _value(recipe: Any, name: str) -> Any:
    for part in name.split("."):
        recipe = getattr(recipe, part, None)  # a field of another architecture
    return recipe
