"""Progress of long work: a callback, and the duration of each stage."""

import time
from collections.abc import Callable

Progress = Callable[[str, float, float | None], None]  # stage, done, total


def silent(stage: str, done: float, total: float | None) -> None:
    """A progress callback that does nothing."""


class Stages:
    """A progress callback that forwards each call and records each stage's seconds and bytes.

    A stage lasts from the last call of the stage before to its own last call.
    """

    def __init__(self, following: Progress = silent) -> None:
        self._next = following
        self._last = time.perf_counter()
        self._taken: dict[str, tuple[float, float]] = {}

    def __call__(self, stage: str, done: float, total: float | None) -> None:
        now = time.perf_counter()
        before = self._taken.get(stage, (0.0, 0.0))
        self._taken[stage] = (before[0] + now - self._last, max(before[1], done))
        self._last = now
        self._next(stage, done, total)

    def taken(self) -> dict[str, tuple[float, float]]:
        """Seconds and bytes of each stage, in the order they began."""
        return dict(self._taken)
