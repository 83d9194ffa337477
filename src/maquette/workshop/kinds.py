"""The jobs of the workshop by kind of data, looked up once by `train`, `generate` and `eval`."""

from pathlib import Path
from typing import Any, Protocol

from maquette.base.errors import UserError
from maquette.base.named import named
from maquette.models.store import CONFIG, load_config
from maquette.training.observer import Observer
from maquette.training.recipe import Recipe
from maquette.training.run import RunDirectory


class WorkshopKind(Protocol):
    """The workshop's jobs for a kind of data."""

    def samples(self, run: RunDirectory, observer: Observer) -> Observer:
        """An observer that writes samples at every evaluation and forwards to `observer`."""
        ...

    def load(self, folder: Path, base: str | Path | None = None) -> Any:
        """The run or imported model of a folder; base: of an adapted run, where its base is now."""
        ...

    def finish(self, path: Path) -> None:
        """Analyse a finished run before its report is written."""
        ...

    def next_command(self, recipe: Recipe, path: Path) -> str:
        """An example command for the finished run."""
        ...


KINDS: dict[str, str | WorkshopKind] = {
    "text": "maquette.workshop.text_kind.TEXT",
    "examples": "maquette.workshop.examples_kind.EXAMPLES",
    "questions": "maquette.workshop.examples_kind.EXAMPLES",
    "preferences": "maquette.workshop.examples_kind.EXAMPLES",
    "cloze": "maquette.workshop.cloze_kind.CLOZE",
    "pictures": "maquette.workshop.picture_kind.PICTURES",
}
"""jobs, or their path, by `data.kind`"""


def workshop_kind(name: str) -> WorkshopKind:
    """The jobs of a kind of data."""
    kind: WorkshopKind = named(KINDS[name])
    return kind


def kind_of_model(folder: Path) -> str:
    """Kind of data of a folder's model, a key of `KINDS`; "text" where there is no model."""
    return load_config(folder).learns_from if (folder / CONFIG).exists() else "text"


def load_any(path: str | Path, base: str | Path | None = None) -> Any:
    """Open a run of any kind. Raises UserError for a folder that is no run, or is damaged.

    base: where the base of an adapted run is now.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name a run directory")
    kind = workshop_kind(kind_of_model(folder))
    return kind.load(folder) if base is None else kind.load(folder, base)
