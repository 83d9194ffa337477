"""The directory that a run is: made once, locked while training, readable at any moment.

runs/NAME/
    recipe.yaml         everything about the run
    decisions.json      what `auto` became on this machine, and why
    config.json, tokenizer.json, model.safetensors      the model (weights when finished)
    adapter.json, adapter.safetensors       of an adapted run, in place of the weights: what is not its base's
    special_tokens.json what begins and ends a text, where the tokenizer is another model's
    corpus.json         where the corpus was, its hash and its table
    terms.json          terms that the run is under, of its corpus and of its base, where there are some
    base.json           where the run that this one began with was, and the SHA-256 of its weights
    encoder.json        the same of a frozen model: the CLIP of a picture run, the reference of DPO and GRPO
    metrics.jsonl       one object a step; events (a skipped batch, a rewind) beside them
    lengths.json        where `steps` was changed under way, and what that did to the learning rate
    outcome.json        how the last call ended
    checkpoints/        see checkpoint.py
    samples/            text sampled while training, one file per evaluation
    report.html         when finished
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maquette.adaptation.adapters.store import ADAPTER, ADAPTER_WEIGHTS
from maquette.base.errors import UserError
from maquette.base.files import lock
from maquette.models.store import WEIGHTS
from maquette.training.recipe import Recipe, load_recipe

RECIPE, DECISIONS, CORPUS = "recipe.yaml", "decisions.json", "corpus.json"
ENCODER, BASE = "encoder.json", "base.json"
METRICS, OUTCOME = "metrics.jsonl", "outcome.json"


class RunDirectory:
    """Paths and records of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Where the final weights are, or will be: of an adapted run, what it changes alone."""
        return self / (ADAPTER_WEIGHTS if (self / ADAPTER).exists() else WEIGHTS)

    @property
    def finished(self) -> bool:
        """Whether the final weights are there."""
        return self.weights.exists()

    def recipe(self) -> Recipe:
        """The run's recipe."""
        if not (self / RECIPE).exists():
            raise UserError(f"{self.path} is not a run (no {RECIPE}): name a run directory")
        return load_recipe(self / RECIPE)

    def records(self) -> list[dict[str, Any]]:
        """The steps of metrics.jsonl in order; of a step taken twice (a rewind), the later one."""
        steps: dict[int, dict[str, Any]] = {}
        for entry in self._lines():
            if "step" in entry and "event" not in entry:
                while steps and next(reversed(steps)) >= entry["step"]:
                    steps.popitem()
                steps[entry["step"]] = entry
        return list(steps.values())

    def events(self) -> list[dict[str, Any]]:
        """Events of the run: skipped batches, rewinds, resumptions."""
        return [entry for entry in self._lines() if "event" in entry]

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not (self / METRICS).exists():
            return
        with (self / METRICS).open(encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run
                    yield json.loads(line)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Lock the run against other trainings."""
        return lock(
            self / ".lock",
            f"{self.path} is being trained by another process: wait for it, or choose another --run",
        )


def free_name(folder: Path, name: str) -> Path:
    """`folder/name`, or the first of name-2, name-3 ... that does not exist."""
    path, number = folder / name, 2
    while path.exists():
        path, number = folder / f"{name}-{number}", number + 1
    return path
