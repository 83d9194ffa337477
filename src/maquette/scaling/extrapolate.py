"""Extrapolating a ladder of small models to a larger run.

Every budget of operations was spent on several sizes (`rungs.py`). Its losses over log N are nearly
a parabola, whose minimum is the budget's best split (Hoffmann et al. 2022, approach 2); the minima
make the frontier L*(C), a power law that is extended upwards (Kaplan et al. 2020, section 6), with an
irreducible term where that predicted the later budgets better from the earlier ones. Off the
frontier the loss grows with the square of log N / N*(C), as it does inside the ladder.

Left out: the surface E + A / N^alpha + B / D^beta, which does not fit bytes at this size.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.base.statistics import percentiles

Array = npt.NDArray[np.float64]
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31)
"""97.5 % points of Student's t for 1, 2, 3 ... degrees of freedom"""


@dataclass(frozen=True)
class Rung:
    """A finished run of the ladder."""

    flops: float
    """budget of the run in operations"""
    parameters: int
    tokens: int
    loss: float
    """held-out loss in nats per token"""
    seed: int = 0


@dataclass(frozen=True)
class Minimum:
    """The best split of one budget.

    Not `approaches.Minimum`, which is of any runs about a budget: here the parabola takes the sizes
    nearest the minimum alone, and its curvature predicts splits off the frontier.
    """

    flops: float
    parameters: float
    loss: float
    curvature: float
    """curvature c: the relative loss grows by c (log N / N*)^2"""
    edge: Literal["", "smallest", "largest"]
    """end of the measured sizes at which the minimum lies; "" for an interior minimum"""

    @property
    def tokens(self) -> float:
        return self.flops / 6 / self.parameters


@dataclass(frozen=True)
class Prediction:
    """A predicted loss in nats per token, with its 95 % interval."""

    loss: float
    low: float
    high: float
    times: float
    """operations over those of the largest measured budget"""


@dataclass(frozen=True)
class Frontier:
    """L*(C) = floor + scale C^-exponent, in relative terms around the budgets' mean."""

    floor: float
    slope: float
    """slope of log (L - floor) over log C: the negative exponent"""
    constant: float
    error: float
    """root of the relative residual variance"""
    straightness: float
    """R^2 in log (L - floor) over log C"""

    def __call__(self, flops: float) -> float:
        return float(self.floor + math.exp(self.constant + self.slope * math.log(flops)))


def minimum(points: Iterable[Rung]) -> Minimum:
    """The parabola in log N through the sizes nearest the least loss, the mean over the seeds."""
    by_size: dict[int, list[float]] = {}
    flops = 0.0
    for p in points:
        by_size.setdefault(p.parameters, []).append(p.loss)
        flops = p.flops
    sizes = sorted(by_size)
    losses = [float(np.mean(by_size[n])) for n in sizes]
    return _minimum(flops, np.log(sizes), np.array(losses))


def _minimum(flops: float, x: Array, y: Array) -> Minimum:
    least = int(np.argmin(y))
    edge: Literal["", "smallest", "largest"] = ""
    if least in (0, len(y) - 1) or len(y) < 3:
        edge = "smallest" if least == 0 else "largest"
        return Minimum(flops, math.exp(x[least]), float(y[least]), 0.0, edge)
    near = slice(max(0, least - 2), least + 3)
    a, b, c = np.polyfit(x[near] - x[least], y[near], 2)
    at = -b / (2 * a) if a > 0 else math.inf
    if not x[0] < x[least] + at < x[-1]:
        edge = "smallest" if y[0] < y[-1] else "largest"
        return Minimum(flops, math.exp(x[least]), float(y[least]), 0.0, edge)
    loss = float(c - b * b / (4 * a))
    return Minimum(flops, math.exp(x[least] + at), loss, float(a / loss), "")


def power_law(flops: Array, losses: Array, floor: float = 0.0) -> Frontier:
    """Least squares of log (L - floor) over log C."""
    x, y = np.log(flops), np.log(losses - floor)
    slope, constant = np.polyfit(x, y, 1)
    fitted = floor + np.exp(constant + slope * x)
    free = max(1, len(x) - (3 if floor else 2))
    error = float(np.sqrt((((fitted / losses) - 1) ** 2).sum() / free))
    residual = y - (slope * x + constant)
    straight = float(1 - residual.var() / y.var())
    return Frontier(floor, float(slope), float(constant), error, straight)


def with_floor(flops: Array, losses: Array) -> Frontier:
    """The power law with the floor of least error; 0 where none helps."""
    floors = np.linspace(0, 0.95 * losses.min(), 200)
    return min((power_law(flops, losses, float(f)) for f in floors), key=lambda law: law.error)


@dataclass(frozen=True)
class Ladder:
    """Measured points and what follows from them. `analyse` makes one."""

    points: tuple[Rung, ...]
    bytes_per_token: float = 1.0
    source: str = ""

    @cached_property
    def minima(self) -> list[Minimum]:
        """Minimum of every budget, the smallest first."""
        budgets = sorted({p.flops for p in self.points})
        return [minimum(p for p in self.points if p.flops == c) for c in budgets]

    @cached_property
    def interior(self) -> list[Minimum]:
        """Minima between the smallest and the largest size of their budget."""
        return [m for m in self.minima if not m.edge]

    @cached_property
    def _sound(self) -> tuple[Array, Array, Array]:
        """Budgets, sizes and losses of the interior minima; refuses what shows nothing."""
        if len(self.interior) < 3 or self.minima[-1].edge:
            bad = [f"{m.flops:.2g} ({m.edge} size)" for m in self.minima if m.edge]
            raise UserError(
                f"the least loss is on the edge at {', '.join(bad) or 'no budget'}, and "
                f"{len(self.interior)} minima are inside: nothing follows for larger runs; add sizes"
            )
        table = np.array([(m.flops, m.parameters, m.loss) for m in self.interior])
        return table[:, 0], table[:, 1], table[:, 2]

    @cached_property
    def split(self) -> tuple[float, float]:
        """Exponent a and constant of log N*(C); D* has 1 - a, as D = C / 6N."""
        flops, sizes, _ = self._sound
        a, constant = np.polyfit(np.log(flops), np.log(sizes), 1)
        return float(a), float(constant)

    @cached_property
    def curvature(self) -> float:
        """Relative growth of the loss off the frontier: the median over the budgets."""
        return float(np.median([m.curvature for m in self.interior]))

    @cached_property
    def forms(self) -> tuple[Frontier, Frontier | None]:
        """The frontier as it is used, and the other form where there are points enough for it."""
        flops, _, losses = self._sound
        plain = power_law(flops, losses)
        if len(flops) < 5:
            return plain, None
        missed = {
            kind: sum(
                abs(kind(flops[:k], losses[:k])(flops[k]) / losses[k] - 1)
                for k in range(4, len(flops))
            )
            for kind in (power_law, with_floor)
        }
        floored = with_floor(flops, losses)
        if floored.floor and missed[with_floor] < missed[power_law]:
            return floored, plain
        return plain, floored if floored.floor else None

    @property
    def frontier(self) -> Frontier:
        """L*(C): with an irreducible term where that predicted later budgets better."""
        return self.forms[0]

    def best(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens that make the loss least at 6 N D = flops."""
        a, constant = self.split
        parameters = math.exp(constant + a * math.log(flops))
        return parameters, flops / 6 / parameters

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token of any split: the frontier's, and its growth off the best split."""
        flops = 6 * parameters * tokens
        off = math.log(parameters / self.best(flops)[0])
        return self.frontier(flops) * (1 + self.curvature * off * off)

    def predict(
        self, flops: float | None = None, split: tuple[float, float] | None = None
    ) -> Prediction:
        """The loss of a budget at its best split, or of a split (parameters, tokens).

        The interval is the regression's (Student's t, 95 %), stretched to what the other form of
        the frontier says. Raises UserError when minima on an edge leave too little to go on.
        """
        if (flops is None) == (split is None):
            raise WrongUse("give flops or (parameters, tokens), not both")
        if split is not None:
            flops, factor = 6 * split[0] * split[1], 1.0
            factor = self.loss(*split) / self.frontier(flops)
        else:
            assert flops is not None
            factor = 1.0
        known, _, _ = self._sound
        x, at = np.log(known), math.log(flops)
        free = max(1, len(x) - (3 if self.frontier.floor else 2))
        lever = 1 + 1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
        t = T95[free - 1] if free <= len(T95) else 2.2
        spread = t * self.frontier.error * math.sqrt(lever)
        loss = self.frontier(flops)
        ends = [loss * (1 - spread), loss * (1 + spread)]
        if (other := self.forms[1]) is not None:
            ends.append(other(flops))
        return Prediction(
            loss * factor, min(ends) * factor, max(ends) * factor, flops / self.minima[-1].flops
        )

    def bits_per_byte(self, loss: float) -> float:
        """Bits per byte of a loss in nats per token."""
        return loss / math.log(2) / self.bytes_per_token

    @cached_property
    def noise(self) -> float:
        """Standard deviation of one run's loss around its budget's parabola, relative."""
        squares, free = 0.0, 0
        for m in self.interior:
            mine = [p for p in self.points if p.flops == m.flops]
            law = [m.loss * (1 + m.curvature * math.log(p.parameters / m.parameters) ** 2)
                   for p in mine]  # fmt: skip
            near = [(p.loss / y - 1) for p, y in zip(mine, law, strict=True) if y < 1.1 * m.loss]
            squares, free = squares + sum(r * r for r in near), free + max(0, len(near) - 3)
        return math.sqrt(squares / max(1, free))

    def exponents(self, draws: int = 300, seed: int = 0) -> dict[str, list[float]] | None:
        """95 % intervals of a, b and the frontier's slope: every run's loss drawn anew.

        A parametric bootstrap: the losses plus noise of the size seen around the parabolas. A draw
        whose minima fall on an edge is left out; None where that is half of them or more.
        """
        random, drawn = np.random.default_rng(seed), []
        for _ in range(draws):
            shaken = tuple(
                Rung(p.flops, p.parameters, p.tokens,
                      p.loss * (1 + self.noise * float(random.normal())), p.seed)
                for p in self.points
            )  # fmt: skip
            try:
                ladder = Ladder(shaken)
                flops, _, losses = ladder._sound
                drawn.append((ladder.split[0], power_law(flops, losses).slope))
            except UserError:
                continue
        if len(drawn) < draws // 2:
            return None
        a, slope = np.array(drawn).T
        ends = list(percentiles(a))
        return {
            "a": ends,
            "b": [1 - ends[1], 1 - ends[0]],
            "loss": list(percentiles(slope)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `ladder_from` reads."""
        return {
            "bytes_per_token": self.bytes_per_token,
            "source": self.source,
            "points": [asdict(p) for p in self.points],
        }


def analyse(points: Iterable[Rung], *, bytes_per_token: float = 1.0, source: str = "") -> Ladder:
    """A ladder of measured points; every figure is computed when it is asked for."""
    return Ladder(tuple(points), bytes_per_token, source)


def ladder_from(content: dict[str, Any]) -> Ladder:
    """The ladder of `Ladder.to_dict`."""
    return analyse(
        (Rung(**p) for p in content["points"]),
        bytes_per_token=float(content["bytes_per_token"]),
        source=str(content["source"]),
    )
