"""Claims: a statement of a paper that can fail, and the experiment that lets it.

    @claim(
        statement="loss falls as a power of the number of parameters",
        source="Kaplan et al. 2020, figure 1",
        metric="relative error of the largest model's predicted loss",
        at_most=0.03,
        control="prediction by the mean of the smaller models",
        minutes=12,
    )
    def power_law(lab: Lab) -> Measurement: ...

The threshold is in the file before the measurement and is not moved after it. Every claim has a
negative control, measured in the same run, that must miss the threshold: a claim holds when it
meets its threshold and its control does not. What does not hold is shown as not holding.

Only a full measurement is evidence. One at toy size, of fewer seeds, or by code that no commit holds
is a trial: it says so, is kept apart, and never replaces a measurement.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from maquette.experiments.lab import Lab

Evidence = Literal["learning curve", "exact count", "measured time", "synthetic time"]


@dataclass
class Measurement:
    """The result of an experiment: the metric, the control's metric, and details."""

    value: float
    """value of the metric; a mean over seeds where there are several"""
    control: float
    """value of the metric for the negative control"""
    interval: tuple[float, float] | None = None
    """lowest and highest over the seeds, or a 95 % interval; None for exact counts"""
    details: dict[str, Any] = field(default_factory=dict)
    """further plain values to show"""
    chart: Any = None
    """Altair chart of the result"""
    seeds: int | None = None
    """number of seeds, where another than the lab's"""


@dataclass(frozen=True)
class Claim:
    """A falsifiable statement with its threshold and its experiment."""

    name: str
    statement: str
    source: str
    metric: str
    bound: Literal["at most", "at least"]
    threshold: float
    control: str
    minutes: float
    evidence: Evidence
    function: Callable[[Lab], Measurement]
    system: str = ""

    @property
    def id(self) -> str:
        return f"{self.system}.{self.name}"

    def meets(self, value: float) -> bool:
        """Whether a value is within the threshold (a value that is no number is not)."""
        return value <= self.threshold if self.bound == "at most" else value >= self.threshold


def claim(
    *,
    statement: str,
    source: str,
    metric: str,
    control: str,
    minutes: float,
    at_most: float | None = None,
    at_least: float | None = None,
    evidence: Evidence = "learning curve",
) -> Callable[[Callable[[Lab], Measurement]], Claim]:
    """Make a claim of an experiment. Exactly one of at_most and at_least is the threshold."""
    assert (at_most is None) != (at_least is None), "give at_most or at_least"

    def wrap(function: Callable[[Lab], Measurement]) -> Claim:
        bound: Literal["at most", "at least"] = "at most" if at_most is not None else "at least"
        threshold = at_most if at_most is not None else at_least
        assert threshold is not None
        return Claim(
            function.__name__.replace("_", "-"),
            statement,
            source,
            metric,
            bound,
            threshold,
            control,
            minutes,
            evidence,
            function,
        )

    return wrap
