"""Gated runs: who may use a run, by an append-only log in its folder.

    runs/NAME/gate.yaml     the run is gated. terms: text that is shown to who asks (may be left out)
    runs/NAME/gate.jsonl    {"time": "2026-11-30T20:00:00+00:00", "name": "ana", "state": "asked"}

The last line of a name is its state. Names are those of keys (`keys.py`). States and what leads from one to
another are those of gated models on Hugging Face's hub:

    asked -> accepted -> revoked        asked -> rejected
    who was rejected or revoked may ask again, or be accepted after all

The log is read at every request, so that a revocation holds from the next one on; a log that is damaged
admits nobody.
"""

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import yaml

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import lock
from maquette.base.gate import GATE, GATE_LOG

State = Literal["asked", "accepted", "rejected", "revoked"]
STATES: tuple[State, ...] = get_args(State)
BEFORE: dict[State, tuple[State | None, ...]] = {
    "asked": (None, "rejected", "revoked"),
    "accepted": ("asked", "rejected", "revoked"),
    "rejected": ("asked",),
    "revoked": ("accepted",),
}
"""states that each state may follow; None: the name is not in the log"""


def gated(folder: Path) -> bool:
    """Whether the run of a folder is gated."""
    return (folder / GATE).exists()


def terms(folder: Path) -> str:
    """The text that is shown to who asks. Raises UserError where the file is damaged."""
    try:
        content = yaml.safe_load((folder / GATE).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / GATE} is not YAML: write `terms: ...`, or nothing") from error
    return str((content or {}).get("terms", "")) if isinstance(content, dict | None) else ""


def states(folder: Path) -> dict[str, State]:
    """The state of every name in the log. Raises UserError where the log is damaged."""
    path = folder / GATE_LOG
    try:
        lines = path.read_bytes().decode().split("\n")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise _damaged(path) from error
    found: dict[str, State] = {}
    for line in lines[:-1]:
        try:
            entry = json.loads(line)
            name, state = entry["name"], entry["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path) from error
        if state not in STATES:
            raise _damaged(path)
        found[name] = state
    if lines[-1]:  # a line that was not written to its end
        raise _damaged(path)
    return found


def change(folder: Path, name: str, state: State) -> None:
    """Add a line to the log. Raises WrongUse where that state cannot follow, or no run is gated there."""
    if not gated(folder):
        raise WrongUse(f"{folder} is not gated: write {folder / GATE} (it may be empty) to gate it")
    with lock(folder / f".{GATE_LOG}.lock"):
        before = states(folder).get(name)
        if before not in BEFORE[state]:
            now = "has not asked" if before is None else f"is {before}"
            raise WrongUse(f"{name} {now}, and cannot be {state}")
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": time, "name": name, "state": state}, ensure_ascii=False) + "\n"
        with (folder / GATE_LOG).open("ab") as log:
            log.write(line.encode())
            log.flush()
            os.fsync(log.fileno())


def admitted(folders: Sequence[Path], name: str | None) -> str | None:
    """None where a name may use what is made of these folders, else a word for why not.

    name: of a key; None: nobody's.
    """
    closed = [folder for folder in folders if gated(folder)]
    if not closed:
        return None
    if name is None:
        return "anonymous"
    for folder in closed:
        try:
            state = states(folder).get(name)
        except (UserError, OSError):
            return "damaged"
        if state != "accepted":
            return state or "not_asked"
    return None


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged, so that nobody is admitted: restore it")
