"""The workshop's jobs for text."""

from pathlib import Path

from maquette.training.observer import Observer
from maquette.training.recipe import Recipe
from maquette.training.run import RunDirectory
from maquette.workshop.load import Loaded, load
from maquette.workshop.run_audit import audit_run
from maquette.workshop.text_samples import TextSamples


class TextKind:
    """See `kinds.WorkshopKind`."""

    def samples(self, run: RunDirectory, observer: Observer) -> Observer:
        return TextSamples(run, observer)

    def load(self, folder: Path, base: str | Path | None = None) -> Loaded:
        return load(folder, base)

    def finish(self, path: Path) -> None:
        audit_run(path)

    def next_command(self, recipe: Recipe, path: Path) -> str:
        return f'maquette generate {path} "def " --tokens 60'


TEXT = TextKind()
