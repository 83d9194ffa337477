"""Checkpoints that can be trusted: written aside, checksummed, renamed in one step, read back whole.

    checkpoints/step-00000100/
        model.safetensors       parameters and buffers, fp32
        optimiser.safetensors   AdamW's two moments and step counts
        average.safetensors     the moving average of the parameters, where the recipe keeps one
        ...                     what else a learner has as its state (`learner.py`)
        state.json              step, position in the data, guard, versions; size and SHA-256 of all

A directory without a valid state.json, or whose files do not match it, is damaged: it is named in
one line and the one before is used. Saving copies the tensors (milliseconds) and writes in a
thread while training goes on. No pickle is read or written.
"""

import os
import re
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.files import directory_aside, read_json, sha256, write_json
from maquette.base.version import __version__
from maquette.models.store import first_line, load_tensors, save_tensors
from maquette.training.recipe import Checkpoints

FORMAT = 1
NAME = re.compile(r"step-(\d{8})$")
MODEL, OPTIMISER, STATE = "model.safetensors", "optimiser.safetensors", "state.json"
AVERAGE = "average.safetensors"


@dataclass
class State:
    """State of a run besides its tensors."""

    step: int = 0
    """number of optimiser steps taken, skipped steps included"""
    sample: int = 0
    """number of training samples consumed: the position in the data order"""
    fingerprint: str = ""
    """hash of the corpus; see `datasets.dataset.fingerprint`"""
    seed: int = 0
    tokens: int = 0
    metrics_bytes: int = 0
    """bytes of metrics.jsonl at this step"""
    guard: dict[str, Any] = field(default_factory=dict)
    """fields of the `SpikeGuard`"""


class Saver:
    """Saves checkpoints of a run in the background, one at a time, and deletes the old ones."""

    def __init__(self, folder: Path, policy: Checkpoints, save_steps: int, patience: int) -> None:
        """save_steps: steps between scheduled saves. patience: bad batches before a rewind."""
        self._folder, self._policy, self.save_steps, self._patience = (
            folder,
            policy,
            save_steps,
            patience,
        )
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.blocked_seconds = 0.0
        """seconds that saving has blocked the training"""

    def save(self, files: dict[str, dict[str, Tensor]], state: State) -> None:
        """Copy everything now, write it in a thread. Raises what the previous save met."""
        start = time.perf_counter()
        self.wait()
        contents = {name: _copied(tensors) for name, tensors in files.items()}
        self._thread = threading.Thread(
            target=self._write, args=(contents, State(**vars(state))), daemon=True
        )
        self._thread.start()
        self.blocked_seconds += time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the last save is on the disk. Raises UserError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise UserError(
                f"cannot write a checkpoint to {self._folder} ({first_line(error)}): free space or "
                f"mend the permission, then continue with --resume; earlier ones are whole"
            ) from error

    def forget(self, after: int) -> None:
        """Delete the checkpoints of later steps: a run that went back must not resume from them."""
        for step in saved_steps(self._folder):
            if step > after:
                shutil.rmtree(self._folder / f"step-{step:08d}")

    def _write(self, contents: dict[str, dict[str, Tensor]], state: State) -> None:
        try:
            with directory_aside(self._folder / f"step-{state.step:08d}") as folder:
                files = {}
                for name, content in contents.items():
                    save_tensors(folder / name, content)
                    size = (folder / name).stat().st_size
                    files[name] = {"bytes": size, "sha256": sha256(folder / name)}
                head = {"format": FORMAT, "maquette": __version__, "torch": torch.__version__}
                write_json(folder / STATE, head | vars(state) | {"files": files})
            self._prune()
        except BaseException as error:
            self._error = error

    def _prune(self) -> None:
        """Keep the newest, the last scheduled ones, and one from before any bad batches to come."""
        steps = saved_steps(self._folder)
        scheduled = [step for step in steps if step % self.save_steps == 0]
        recent = [step for step in scheduled if step > steps[-1] - self._patience]
        number = max(self._policy.keep_last, len(recent) + 1)
        kept = {steps[-1], *scheduled[-number:]}
        if self._policy.keep_every:
            kept |= {step for step in steps if step % self._policy.keep_every == 0}
        for step in steps:
            if step not in kept:
                shutil.rmtree(self._folder / f"step-{step:08d}")


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, complete or not."""
    if not folder.is_dir():
        return []
    names = (NAME.match(name) for name in os.listdir(folder))
    return sorted(int(name[1]) for name in names if name)


def check(folder: Path) -> State:
    """Read a checkpoint's state after comparing every file with its checksum."""
    if not (folder / STATE).exists():
        raise UserError(f"{folder} is damaged: no {STATE}")
    content = read_json(folder / STATE)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{folder} has format {content.get('format')}, this Maquette reads {FORMAT}"
        )
    for name, expected in content["files"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != expected["bytes"]:
            raise UserError(f"{folder} is damaged: {name} is missing or cut short")
        if sha256(path) != expected["sha256"]:
            raise UserError(f"{folder} is damaged: the checksum of {name} does not match")
    return State(**{key: content[key] for key in vars(State())})


def newest(
    folder: Path, before: int | None = None, multiple_of: int = 1
) -> tuple[Path, State, list[str]] | None:
    """The newest whole checkpoint, and a line for each damaged one.

    before: largest step. multiple_of: only multiples of this step (a save between them was made by a
    signal, and an interrupted run must rewind to where an uninterrupted run would).
    """
    damaged: list[str] = []
    for step in reversed(saved_steps(folder)):
        if step % multiple_of or (before is not None and step > before):
            continue
        path = folder / f"step-{step:08d}"
        try:
            return path, check(path), damaged
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"{damaged[0]}, and no other checkpoint is left: start a new run")
    return None


def read_files(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file of a checkpoint that `check` has found whole."""
    names = read_json(folder / STATE)["files"]
    return {name: load_tensors(folder / name) for name in names}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
