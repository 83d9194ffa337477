"""Callbacks of the training loop."""

from collections.abc import Callable
from typing import Any, Protocol

from maquette.models.base import Model


class Observer(Protocol):
    """Callbacks of a run, called on rank 0."""

    def start(self, step: int, steps: int) -> None:
        """Called when training starts or resumes at this step."""
        ...

    def step(self, record: dict[str, Any]) -> None:
        """Called with each step's record in metrics.jsonl."""
        ...

    def sample(self, step: int, model: Model) -> None:
        """Called to draw samples; the model is in evaluation mode."""
        ...

    def say(self, message: str) -> None:
        """Called with a message for the user."""
        ...


class Quiet:
    """The observer that does nothing."""

    def start(self, step: int, steps: int) -> None: ...
    def step(self, record: dict[str, Any]) -> None: ...
    def sample(self, step: int, model: Model) -> None: ...
    def say(self, message: str) -> None: ...


Replan = Callable[[int], int | None]
"""called after each step: the new length of the run in steps; None: unchanged"""
