"""Keep to the planned time: measure the pace in the first minute, and plan the steps again.

A pace measured before the start is that of a quiet machine on made-up tokens. Where the first minute
of training is slower or faster, what is left of the time is divided by the pace that was seen, and the
run gets that length from then on (`training/length.py` keeps the decision with the run, so that one
that is killed and resumed is the run that was not). Once: a rate that is stretched again and again is
no schedule.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from maquette.training.length import lengths_of
from maquette.training.observer import Observer
from maquette.training.run import RunDirectory

MINUTE = 60.0
SHARE = 0.25  # of the time or of the steps, where that comes before the minute
LEAST_SEEN = 10  # steps
DIFFERENT = 0.05  # relative: a pace within it is the planned one
ROOM = 0.25  # of the steps taken: what is left at least, so that the rate can fall


@dataclass
class Replan:
    """Callback after every step that changes the run's length once; returns None otherwise."""

    steps: int
    """planned number of steps"""
    seconds: float
    """planned seconds of all steps"""
    say: Callable[[str], None] = lambda text: None
    clock: Callable[[], float] = time.perf_counter
    pace: float | None = None
    """measured seconds of a step; None: not measured yet"""
    spent: float = 0.0
    """seconds of the steps that earlier calls took"""
    _began: float = field(init=False, default=0.0)
    _first: tuple[int, float] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._began = self.clock() - self.spent

    def __call__(self, step: int) -> int | None:
        """The new length from this step on; None: unchanged."""
        now = self.clock()
        if self.pace is not None or step >= self.steps:
            return None
        if self._first is None:
            self._first = step, now  # this step compiled, and touched everything for the first time
            return None
        seen = step - self._first[0]
        early = now - self._first[1] < min(MINUTE, SHARE * self.seconds)
        if seen < LEAST_SEEN or (early and step < SHARE * self.steps):
            return None
        self.pace = (now - self._first[1]) / seen
        left = self.seconds - (now - self._began)
        wanted = step + max(round(left / self.pace), round(ROOM * step), 1)
        if abs(wanted / self.steps - 1) <= DIFFERENT:
            return None
        took = now - self._began
        self.say(
            f"after {took:.0f} s a step takes {1000 * self.pace:.0f} ms, planned were "
            f"{1000 * self.seconds / self.steps:.0f}: {wanted:,} steps in place of {self.steps:,}, to keep "
            f"to {self.seconds:.0f} s"
        )
        self.steps = wanted
        return wanted


def going_on(run: RunDirectory, seconds: float, say: Callable[[str], None]) -> Replan:
    """What replans the rest of a run that was cut off; a length that was planned again stays."""
    times = [record["seconds"] for record in run.records() if "seconds" in record]
    pace = median(times) if lengths_of(run.path).changes else None
    return Replan(run.recipe().steps, seconds, say, pace=pace, spent=sum(times))


def shown(replan: Replan, observer: Observer) -> Callable[[int], int | None]:
    """`replan` with the observer told of the new end."""

    def ask(step: int) -> int | None:
        steps = replan(step)
        if steps is not None:
            observer.start(step, steps)
        return steps

    return ask
