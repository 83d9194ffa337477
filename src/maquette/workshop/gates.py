"""The gates that a run is behind: its own, and those of the runs that its bytes are from."""

import functools
from collections.abc import Sequence
from pathlib import Path

import yaml

from maquette.adaptation.adapters.store import ADAPTER, read_description
from maquette.base.errors import UserError
from maquette.base.files import write_atomic
from maquette.base.gate import GATE, copy_gate
from maquette.serving.api.gate import gated, terms
from maquette.training.datasets.picture_config import PictureData
from maquette.training.run import RECIPE, RunDirectory


def gates(folder: Path) -> tuple[Path, ...]:
    """The folders whose gates a run is behind: its own, its base's, that of the CLIP that it reads.

    No weights are read. Raises UserError where one of them is gone, or cannot be told.
    """
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.append(one)
            for recorded in _made_of(one):
                waiting += _places(one, recorded)
    return tuple(found)


def take_gates(origins: Sequence[Path], folder: Path) -> None:
    """Gate a new folder as what it was made of is.

    Of one gate the record of who was accepted goes along; behind several nobody is, until accepted anew.
    """
    closed = [origin for origin in origins if gated(origin)]
    if len(closed) == 1:
        copy_gate(closed[0], folder)
    elif closed:
        told = "\n".join(filter(None, map(terms, closed)))
        write_atomic(folder / GATE, yaml.safe_dump({"terms": told}, allow_unicode=True))


def _made_of(folder: Path) -> list[str]:
    """Paths of the runs that a run is made of, as they were when it was made."""
    return _recorded(folder, *(_version(folder / name) for name in (ADAPTER, RECIPE)))


@functools.lru_cache(maxsize=4096)  # the page asks again and again
def _recorded(folder: Path, *versions: tuple[int, int, int] | None) -> list[str]:
    adapted, trained = (version is not None for version in versions)
    recorded = [read_description(folder).base] if adapted else []
    if trained:
        recipe = RunDirectory(folder).recipe()
        if isinstance(recipe.data, PictureData):
            recorded.append(recipe.data.encoder)
    return [path for path in recorded if path]


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _places(folder: Path, recorded: str) -> list[Path]:
    """Where a run that another is made of is now: where it was, and beside the other."""
    there = Path(recorded).expanduser()
    places = {p.resolve() for p in (there, folder.resolve().parent / there.name) if p.is_dir()}
    if not places:
        raise UserError(
            f"{folder} is made of {there}, which is not there: move it back, or beside {folder.name}"
        )
    return sorted(places)
