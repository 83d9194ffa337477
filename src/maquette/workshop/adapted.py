"""The result of an adaptation of a language model: what every method measures, printed and kept alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from maquette.adaptation.methods import Counted
from maquette.base.statistics import Mean
from maquette.evaluation.bits_per_byte import Score
from maquette.training.recipe import Recipe
from maquette.training.run import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """An adapted run, and what held-out data say before and after; methods add fields of their own."""

    path: Path
    """directory of the adapted run"""
    base: str
    """directory of the run that was adapted"""
    method: str
    """name of the method"""
    adapter: str
    """name of what was trained: `full`, or the method of an adapter"""
    counted: Counted
    """numbers of parameters that were trained"""
    metric: str
    """name of the score of held-out data, with its unit"""
    before: Mean
    """score by the base's weights"""
    after: Mean
    """score by the adapted weights"""
    own: tuple[Score, Score] | None
    """score of the base's own held-out text before and after; None: that is not there"""
    seconds: float
    """seconds of all calls"""
    memory: float
    """largest memory of the adapting process, in bytes"""
    learning_rate: float | None
    """peak learning rate; None: nothing was trained by gradients"""
    weight_decay: float | None
    """weight decay; None: nothing was trained by gradients"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `adaptation.json` has them."""
        forgetting = None
        if self.own is not None:
            before, after = self.own
            forgetting = {"before": before.bits_per_byte, "after": after.bits_per_byte}
        return {
            "run": str(self.path),
            "base": self.base,
            "method": self.method,
            "adapter": self.adapter,
            "trained_parameters": self.counted.trained,
            "base_parameters": self.counted.base,
            "metric": self.metric,
            "metric_before": self.before.mean,
            "metric_after": self.after.mean,
            "stderr_before": self.before.stderr,
            "stderr_after": self.after.stderr,
            "scored": self.after.examples,
            "forgetting": forgetting,
            "minutes": self.seconds / 60,
            "peak_memory": self.memory,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }


class Training(TypedDict):
    """Fields of `Adaptation` that a training leaves in its run."""

    path: Path
    base: str
    seconds: float
    memory: float
    learning_rate: float
    weight_decay: float


def training_of(recipe: Recipe, path: Path) -> Training:
    """What the training of a recipe in the run `path` was and took, of all calls."""
    records = RunDirectory(path).records()
    return Training(
        path=path,
        base=recipe.start or "",
        seconds=sum(record["seconds"] for record in records),
        memory=max(record["memory"] for record in records),
        learning_rate=recipe.optimiser.learning_rate,
        weight_decay=recipe.optimiser.weight_decay,
    )


def bits_of(score: Score) -> Mean:
    """Bits per byte with their standard error, over documents or packed sequences."""
    return Mean(score.documents, score.bits_per_byte, score.stderr)


def scores_of(before: Score, after: Score) -> dict[str, Any]:
    """Two scores as plain values."""
    return {"before": before.to_dict(), "after": after.to_dict()}
