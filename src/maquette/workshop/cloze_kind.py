"""The workshop's jobs for cloze texts: as for text, without samples, for the answer is one word."""

from pathlib import Path

from maquette.training.observer import Observer
from maquette.training.recipe import Recipe
from maquette.training.run import RunDirectory
from maquette.workshop.load import Loaded, load


class ClozeKind:
    """See `kinds.WorkshopKind`."""

    def samples(self, run: RunDirectory, observer: Observer) -> Observer:
        return observer

    def load(self, folder: Path, base: str | Path | None = None) -> Loaded:
        return load(folder, base)

    def finish(self, path: Path) -> None:
        """Do nothing: portraits and traces are of a corpus of documents."""

    def next_command(self, recipe: Recipe, path: Path) -> str:
        return f"maquette eval {path}"


CLOZE = ClozeKind()
