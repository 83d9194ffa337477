"""Files that survive a crash: write aside, fsync, rename; locks that die with their process.

A reader of any path written here sees the old content or the new, never a part of it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse


def home() -> Path:
    """Maquette's cache folder: `$MAQUETTE_HOME`, else `~/.cache/maquette`."""
    if chosen := os.environ.get("MAQUETTE_HOME"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "maquette"


def sync(path: Path) -> None:
    """Force a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        give_usual_rights(Path(aside))
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    sync(path.parent)


def check_writable(path: Path, option: str) -> None:
    """Raise UserError where a file cannot be written; option: what names it. Makes its folder."""
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{option} {path} cannot be written ({error.strerror}): name another"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON; floats that JSON has no word for are refused."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or say which file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore it or remove it") from error


@contextlib.contextmanager
def directory_aside(path: Path) -> Iterator[Path]:
    """Give a directory to fill; on leaving it becomes `path` in one step, or nothing happened.

    An existing `path` is replaced. What an earlier crash left aside is cleared; where it came
    between the two renames of a replacement, the old content is put back first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, old = path.parent / f".{path.name}.tmp", path.parent / f".{path.name}.old.tmp"
    if old.exists() and not path.exists():
        os.replace(old, path)
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            sync(file)
        sync(aside)
        if path.exists():
            if old.exists():
                shutil.rmtree(old)
            os.replace(path, old)
            os.replace(aside, path)
            shutil.rmtree(old)
        else:
            os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync(path.parent)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold `path` as an exclusive lock.

    busy: the message when another process holds it (WrongUse); None: wait until it is free.
    The kernel frees the lock when the holder dies, however it dies, so nothing is left to clean.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise WrongUse(busy) from error
        yield


def give_usual_rights(path: Path) -> None:
    """Give a file the permissions of a file made by `open`; libraries may restrict it to its owner."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)
