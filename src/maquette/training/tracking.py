"""Trackers of metrics: metrics.jsonl always, TensorBoard and Weights & Biases when asked."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

from maquette.base.errors import need
from maquette.training.recipe import Recipe


class Tracker(Protocol):
    """A tracker that takes every step's metrics."""

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Log the metrics of a step."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class MetricsFile:
    """metrics.jsonl, appended a whole line at a time; numbers that JSON lacks become null."""

    def __init__(self, path: Path, length: int) -> None:
        """Open, cutting off what was written after the checkpoint that training resumes from."""
        with path.open("ab"):
            pass
        os.truncate(path, min(length, path.stat().st_size))
        self._file = path.open("ab", buffering=0)

    def write(self, entry: dict[str, Any]) -> int:
        """Append a JSON object; returns the file's length in bytes."""
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }
        self._file.write(json.dumps(plain).encode() + b"\n")
        return self._file.tell()

    def sync(self) -> None:
        """Force the file to the disk, so that a checkpoint never points past its end."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Event files in the run's directory."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: where the run goes on; what was logged after it is taken back."""
        need("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A W&B run; offline unless WANDB_MODE says otherwise, because nothing here calls out unasked."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        wandb = need("wandb", "wandb")
        self._run = wandb.init(
            project="maquette",
            name=folder.name,
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            dir=str(folder),
            config=recipe.to_dict(),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        self._run.finish()


def open_trackers(recipe: Recipe, folder: Path, step: int) -> list[Tracker]:
    """The trackers the recipe names, for a run that goes on after `step`."""
    trackers: list[Tracker] = []
    if "tensorboard" in recipe.trackers:
        trackers.append(TensorBoard(folder, step))
    if "wandb" in recipe.trackers:
        trackers.append(WeightsAndBiases(folder, recipe))
    return trackers
