"""What the training loop tells of a run while it goes on, and what it asks."""

from collections.abc import Callable
from typing import Any, Protocol

from maquette.models.base import Model


class Observer(Protocol):
    """What is told of a run while it goes on, on rank 0."""

    def start(self, step: int, steps: int) -> None:
        """Training goes on from this step."""
        ...

    def step(self, record: dict[str, Any]) -> None:
        """A step's line of metrics.jsonl."""
        ...

    def look(self, step: int, model: Model) -> None:
        """The moment for samples; the model is in evaluation mode."""
        ...

    def say(self, message: str) -> None:
        """Something a person should read."""
        ...


class Quiet:
    """The observer that does nothing."""

    def start(self, step: int, steps: int) -> None: ...
    def step(self, record: dict[str, Any]) -> None: ...
    def look(self, step: int, model: Model) -> None: ...
    def say(self, message: str) -> None: ...


Replan = Callable[[int], int | None]
"""asked after each step how many the run shall take in all; None: as many as now"""
