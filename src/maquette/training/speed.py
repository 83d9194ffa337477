"""Tokens a second of a run."""

import contextlib
import time
from collections.abc import Iterator


class Speed:
    """Tokens a second: over the last steps for the eye, over all of them for the record."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._steps: list[tuple[int, float]] = []
        self.seconds = 0.0
        """time spent in steps"""

    def tick(self, tokens: int) -> None:
        """A step of so many tokens has ended."""
        now = time.perf_counter()
        self._steps.append((tokens, now - self._mark))
        self.seconds += now - self._mark
        self._mark = now

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done inside."""
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before

    @property
    def last(self) -> float:
        """Seconds of the last step."""
        return self._steps[-1][1]

    @property
    def steps(self) -> int:
        """Steps timed."""
        return len(self._steps)

    @property
    def tokens_per_second(self) -> float:
        """Over the last 20 steps."""
        recent = self._steps[-20:]
        return sum(t for t, _ in recent) / max(1e-9, sum(s for _, s in recent))

    @property
    def average(self) -> float:
        """Over all steps but the first, which compiles and touches everything for the first time."""
        rest = self._steps[1:] or self._steps
        return sum(t for t, _ in rest) / max(1e-9, sum(s for _, s in rest))
