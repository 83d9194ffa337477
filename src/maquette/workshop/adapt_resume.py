"""What every adaptation asks of the folders that it finds: is it the same job, and may it go on?

runs/NAME-corpus/asked.json     the data that a corpus was built of, with their hashes, fields and template
runs/NAME/base.json             where the base of a run was, and the SHA-256 of its weights

A job that is refused before it has begun leaves nothing that would be in the way of the corrected one.
"""

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import lock, read_json, sha256, write_json
from maquette.corpus.read import walk
from maquette.training.initial_model import weights_file
from maquette.training.run import BASE

ASKED = "asked.json"
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
Job = Callable[Concatenate[S, T, Path, P], R]
_made: list[Path] = []
"""corpora that the jobs in progress have built"""


def occupied(path: Path, *but: str) -> bool:
    """Whether there is more than locks and what a write that was cut off leaves. but: names left out."""
    if not path.is_dir():
        return path.exists()
    return any(not p.name.startswith(".") and p.name not in but for p in path.iterdir())


def check_folder(path: Path, start: Path, resume: bool) -> None:
    """Raise WrongUse for a folder `path` in which no run that adapts `start` can begin, or go on.

    UserError where the base has changed since the run began.
    """
    if not occupied(path):
        return
    if not resume:
        raise WrongUse(f"{path} exists: choose another --run, or go on with --resume")
    if path.expanduser().resolve() == start:
        raise WrongUse(f"{path} is the run that is adapted: choose another --run")
    if (path / BASE).exists() and read_json(path / BASE)["sha256"] != sha256(weights_file(start)):
        raise UserError(
            f"{start} has changed since {path} began: restore it, or choose another --run"
        )


def check_begun(mark: Path, *made: Path, but: tuple[str, ...] = ()) -> None:
    """Raise WrongUse for a folder that a job makes, where the file `mark` does not say that one has begun.

    but: names in the folders that come before the mark.
    """
    for folder in made:
        if occupied(folder, *but) and not mark.exists():
            raise WrongUse(
                f"{folder} was not begun by this command (there is no {mark}): choose another --run"
            )


def base_identity(start: Path) -> dict[str, str]:
    """A base by its place and its weights."""
    return {"base": str(start), "weights": sha256(weights_file(start))}


def asked_of(
    sources: Sequence[str], fields: Mapping[str, str] | None = None, template: str = ""
) -> dict[str, Any]:
    """What a corpus is built of: a hash of its files' content, or of names, and how they are read."""
    digest = hashlib.sha256()
    for source in sources:
        path = Path(source).expanduser()
        if not path.exists():
            digest.update(f"{source}\0".encode())
        for file in walk(path) if path.exists() else ():
            digest.update(f"{file.relative_to(path)}\0{sha256(file)}\0".encode())
    return {"data": digest.hexdigest(), "fields": dict(fields or {}), "template": template}


def is_built(out: Path, asked: Mapping[str, Any], resume: bool) -> bool:
    """Whether a corpus stands as `out`, built of what is asked; see `asked_of`.

    Raises WrongUse where something else is in its way.
    """
    if not out.exists():
        return False
    if not resume:
        raise WrongUse(f"{out} is in the way of the corpus: move it, or choose another --run")
    before = read_json(out / ASKED) if (out / ASKED).exists() else {}
    for name in asked:
        if before.get(name) != asked[name]:
            raise WrongUse(
                f"{out} was built with other {name}: go on with the same, or choose another --run"
            )
    return True


@contextlib.contextmanager
def built_as(out: Path, asked: Mapping[str, Any]) -> Iterator[Path]:
    """A place to build a corpus in, which then becomes `out` with the record of what was asked."""
    aside = out.with_name(f".{out.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    yield aside
    write_json(aside / ASKED, asked)
    os.replace(aside, out)
    _made.append(out)


def alone(job: Job[S, T, P, R]) -> Job[S, T, P, R]:
    """Let a job (base, source, path, ...) whose folders stand beside `path` be of one process at a time."""

    @functools.wraps(job)
    def run(base: S, source: T, path: Path, /, *args: P.args, **kwargs: P.kwargs) -> R:
        busy = f"{path} is being made by another process: wait for it"
        with lock(path.with_name(f".{path.name}.lock"), busy):
            return job(base, source, path, *args, **kwargs)

    return run


def tidy(mark: str) -> Callable[[Job[S, T, P, R]], Job[S, T, P, R]]:
    """Let a job (base, source, path, ...) that is refused before `mark` is in `path` remove its corpora."""

    def of(job: Job[S, T, P, R]) -> Job[S, T, P, R]:
        @functools.wraps(job)
        def run(base: S, source: T, path: Path, /, *args: P.args, **kwargs: P.kwargs) -> R:
            first = len(_made)
            try:
                return job(base, source, path, *args, **kwargs)
            except UserError:
                if not (path / mark).exists():
                    for folder in _made[first:]:
                        shutil.rmtree(folder)
                raise
            finally:
                del _made[first:]

        return run

    return of
