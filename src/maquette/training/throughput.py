"""Tokens a second of a run, and what share of the machine's peak that is."""

import contextlib
import time
from collections.abc import Callable, Iterator

from maquette.base.machine import Machine, measure_peak_again


class Speed:
    """Tokens per second: over the last steps for display, over all steps for the record."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._steps: list[tuple[int, float]] = []
        self.seconds = 0.0
        """time spent in steps"""

    def tick(self, tokens: int) -> None:
        """Record the end of a step of `tokens` tokens."""
        now = time.perf_counter()
        self._steps.append((tokens, now - self._mark))
        self.seconds += now - self._mark
        self._mark = now

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time is not counted."""
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before

    @property
    def last(self) -> float:
        """Duration of the last step in seconds."""
        return self._steps[-1][1]

    @property
    def steps(self) -> int:
        """Number of steps timed."""
        return len(self._steps)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second over the last 20 steps."""
        recent = self._steps[-20:]
        return sum(t for t, _ in recent) / max(1e-9, sum(s for _, s in recent))

    @property
    def average(self) -> float:
        """Tokens per second over all steps but the first, which compiles and allocates."""
        rest = self._steps[1:] or self._steps
        return sum(t for t, _ in rest) / max(1e-9, sum(s for _, s in rest))


class Utilisation:
    """A run's operations a second over the machine's measured peak, at most 1.

    A run that is faster than the peak shows that the peak was measured beside something else: it is
    measured again, once, and the best is kept for every later run. What is still above 1 is said to be
    the peak at least: counted operations that a kernel skips, such as masked attention, make it so.
    """

    def __init__(
        self, machine: Machine, precision: str, ranks: int, say: Callable[[str], None]
    ) -> None:
        """ranks: processes that compute side by side; their common peak is not measured again."""
        self._machine, self._precision, self._ranks, self._say = machine, precision, ranks, say
        self._again = ranks == 1

    @property
    def peak(self) -> float:
        """Measured peak of all ranks in operations per second."""
        return self._machine.peak(self._precision) * self._ranks

    def __call__(self, flops: float) -> float:
        """Fraction of the peak that `flops` operations per second are."""
        if flops > self.peak and self._again:
            self._again = False
            before = self.peak
            self._machine = measure_peak_again(self._machine, self._precision)
            self._say(
                f"this run computes {flops / 1e9:.3g} GFLOP/s, more than the peak of {before / 1e9:.3g} "
                f"measured before: measured again, it is {self.peak / 1e9:.3g}"
            )
        return min(1.0, flops / self.peak)
