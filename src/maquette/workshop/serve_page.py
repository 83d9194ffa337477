"""Trainings as the page of the server shows them: every run beside those that are served."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.serving.api.watch import Training
from maquette.training.run import METRICS, RECIPE
from maquette.workshop.gates import gates
from maquette.workshop.run_comparison import summary

MOST_BYTES = 4 << 20  # of metrics in an answer
SHOWN = ("recipe", "state", "step", "steps", "unit", "tokens", "loss", "heldout_loss",
         "tokens_per_second", "flops_utilisation", "seconds")  # fmt: skip


class Trainings:
    """The trainings in the folders that hold the served runs."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self._folders = sorted({run.expanduser().resolve().parent for run in runs})
        self._summaries: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def __call__(self) -> dict[str, Training]:
        """All of them by name, the latest first."""
        found: dict[str, Path] = {}
        for folder in self._folders:
            for recipe in folder.glob(f"*/{RECIPE}"):
                found.setdefault(recipe.parent.name, recipe.parent)
        latest = sorted(found.items(), key=lambda item: _written(item[1]), reverse=True)
        return {
            name: Training(
                gates=_gates(run),
                summary=partial(self._summary, run),
                metrics=partial(metrics, run / METRICS),
                report=run / "report.html",
            )
            for name, run in latest
        }

    def _summary(self, run: Path) -> dict[str, Any]:
        """A row of `maquette runs`; of a run that has not changed, the row of the last time."""
        version = _written(run)
        known = self._summaries.get(run)
        if known is None or known[0] != version:
            row = {name: value for name, value in summary(run).items() if name in SHOWN}
            if row["state"].startswith("unreadable"):
                row["state"] = "unreadable"  # the reason tells of paths
            known = self._summaries[run] = version, row
        return known[1]


def metrics(path: Path, after: int) -> dict[str, Any]:
    """Whole lines of a metrics file from `after` bytes on; from its beginning where it has become shorter."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = after if after <= size else 0
            file.seek(start)
            data = file.read(MOST_BYTES)
    except FileNotFoundError:
        return {"start": 0, "after": 0, "records": []}
    whole = data[: data.rfind(b"\n") + 1]
    records = []
    for line in whole.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # a line that the end of a killed training left
            continue
    return {"start": start, "after": start + len(whole), "records": records}


def _written(run: Path) -> tuple[int, int]:
    """Time and size of what a run has logged."""
    for name in (METRICS, RECIPE):
        try:
            found = (run / name).stat()
        except OSError:
            continue
        return found.st_mtime_ns, found.st_size
    return 0, 0


def _gates(run: Path) -> tuple[Path, ...] | None:
    """The folders whose gates a run is behind; None where they cannot be told."""
    try:
        return gates(run)
    except (UserError, OSError):
        return None
