"""What the jobs of the workshop do otherwise for each kind of data; `train`, `generate`, `eval` ask once."""

from pathlib import Path
from typing import Any, Protocol

from maquette.base.errors import UserError
from maquette.base.named import named
from maquette.models.store import CONFIG, load_config
from maquette.training.observer import Observer
from maquette.training.recipe import Recipe
from maquette.training.run import RunDirectory


class WorkshopKind(Protocol):
    """The ways of one kind of data."""

    def samples(self, run: RunDirectory, observer: Observer) -> Observer:
        """What is written at every look, before `observer` is told."""
        ...

    def load(self, folder: Path, base: str | Path | None = None) -> Any:
        """The run or imported model of a folder; base: of an adapted run, where its base is now."""
        ...

    def finish(self, path: Path) -> None:
        """What is found out about a finished run before its report is written."""
        ...

    def next_command(self, recipe: Recipe, path: Path) -> str:
        """A command that shows what the run can do."""
        ...


KINDS: dict[str, str | WorkshopKind] = {
    "text": "maquette.workshop.text_kind.TEXT",
    "examples": "maquette.workshop.examples_kind.EXAMPLES",
    "pictures": "maquette.workshop.picture_kind.PICTURES",
}
"""by `data.kind`: the ways, or where they are"""


def workshop_kind(name: str) -> WorkshopKind:
    """The ways of a kind of data."""
    kind: WorkshopKind = named(KINDS[name])
    return kind


def kind_of_model(folder: Path) -> str:
    """What the model of a folder learns from: a key of `KINDS`; "text" where there is no model."""
    return load_config(folder).learns_from if (folder / CONFIG).exists() else "text"


def load_any(path: str | Path, base: str | Path | None = None) -> Any:
    """Open a run of any kind. Raises UserError for what is none, or is damaged.

    base: where the base of an adapted run is now.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a run directory")
    kind = workshop_kind(kind_of_model(folder))
    return kind.load(folder) if base is None else kind.load(folder, base)
