"""How long work says where it is, and how long its stages took."""

import time
from collections.abc import Callable

Progress = Callable[[str, float, float | None], None]  # stage, done, total


def silent(stage: str, done: float, total: float | None) -> None:
    """The progress nobody watches."""


class Stages:
    """A progress that passes on what it is told, and keeps each stage's seconds and bytes.

    A stage lasts from the end of what was said of the one before to the last that is said of it.
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
