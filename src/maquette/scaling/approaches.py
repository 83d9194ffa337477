"""The three ways to read a compute-optimal split off runs (Hoffmann et al. 2022, section 3), side by side.

1. envelope: the size whose training curve has the least loss at each number of operations;
2. IsoFLOP: at each budget a parabola of loss over log N, and its minimum;
3. parametric: the surface E + A / N^alpha + B / D^beta (`fit.py`).

Each gives N = k C^a; D is what 6 N D = C leaves, so b = 1 - a. The first is biased where a curve's
schedule is longer than the point that is read off it; the second where the sizes of a budget do not lie
about its minimum; the third where the surface does not fit. So they are shown together.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.base.statistics import percentiles
from maquette.scaling.fit import Fit, exponents, fit
from maquette.scaling.fit_points import Array, Points

Rows = npt.NDArray[np.int64]
BUDGET_TOLERANCE = 0.1
"""relative difference of operations within one IsoFLOP budget"""
BINS_A_DECADE = 100
TIMES = 10.0
"""default budget at which sizes are compared, over the largest of the points"""
APART = 1.5
"""factor between two approaches' sizes from which a warning is due"""
NAMES = {1: "training-curve envelope", 2: "IsoFLOP minima", 3: "parametric surface"}


@dataclass(frozen=True)
class Minimum:
    """The best size at one number of operations.

    Not `extrapolate.Minimum`, whose parabola takes only the sizes nearest the minimum of a ladder
    of exact budgets, and whose curvature is kept: here budgets are approximate and taken from any runs.
    """

    flops: float
    parameters: float
    loss: float
    interior: bool
    """whether sizes on both sides of it were measured; others are left out of the power law"""
    sizes: int
    """number of model sizes that were compared"""
    curve: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """IsoFLOP: the parabola's coefficients over log N, highest power first"""


@dataclass(frozen=True, eq=False)
class Approach:
    """The answer of an approach, or the reason for none."""

    number: int
    a: float | None = None
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval of a; None where the points leave no freedom to resample"""
    log_k: float = 0.0
    minima: list[Minimum] = field(default_factory=list)
    reason: str = ""
    """reason for no answer, or limit of the answer"""

    @property
    def name(self) -> str:
        """Name of the approach."""
        return NAMES[self.number]

    @property
    def b(self) -> float | None:
        """Exponent b of D ~ C^b."""
        return None if self.a is None else 1 - self.a

    def best(self, flops: float) -> tuple[float, float] | None:
        """Parameters and tokens at 6 N D = flops."""
        if self.a is None:
            return None
        parameters = math.exp(self.log_k + self.a * math.log(flops))
        return parameters, flops / 6 / parameters


@dataclass(frozen=True, eq=False)
class Comparison:
    """The three approaches on the same points."""

    approaches: list[Approach]
    fit: Fit | None
    """fitted surface of the third approach; None: it has no answer"""
    warnings: list[str]
    """disagreements between the approaches, and the limits of each"""
    points: Points
    """ends of the runs to which the second and the third were fitted"""

    def at(self, flops: float) -> list[tuple[Approach, tuple[float, float] | None]]:
        """Every approach with its parameters and tokens for a budget."""
        return [(approach, approach.best(flops)) for approach in self.approaches]


def compare(
    points: Points,
    *,
    resamples: int = 100,
    seed: int = 0,
    drop: int = 0,
    flops: float | None = None,
) -> Comparison:
    """All three approaches.

    drop: leave out so many ends of the highest loss (2 and 3). flops: where their sizes are compared;
    None for ten times the largest of the points.
    """
    ends = points.ends()
    ends = ends.without_highest(drop) if drop else ends
    surface, third = None, Approach(3)
    try:
        surface = fit(ends, resamples=resamples, seed=seed)
    except WrongUse:
        raise
    except UserError as error:
        third = Approach(3, reason=str(error))
    else:
        third = _parametric(surface)
    approaches = [envelope(points, resamples, seed), isoflop(ends, resamples, seed), third]
    warnings = [
        f"approach {approach.number} ({approach.name}): {approach.reason}"
        for approach in approaches
        if approach.reason
    ]
    if surface is not None:
        warnings += [line for line in surface.warnings if line != third.reason]
    target = TIMES * float(points.flops.max()) if flops is None else flops
    return Comparison(approaches, surface, warnings + _disagreements(approaches, target), ends)


def envelope(points: Points, resamples: int = 100, seed: int = 0) -> Approach:
    """Approach 1: the size whose curve is lowest, at each number of operations.

    A size that is lowest over an interval of operations is taken at the interval's middle (of the
    logarithm); the smallest and the largest size win beyond their ends too, and are left out.
    """
    curves = points.curves
    if not curves:
        return Approach(
            1, reason="no training curves: give a folder of runs, or a CSV with a column run"
        )
    sizes = np.unique(points.parameters[np.isin(points.run, curves)])
    if len(sizes) < 4:
        return Approach(1, reason=f"{len(sizes)} sizes have curves; four or more are needed")
    minima = _won(points, curves, sizes)
    inside = [minimum for minimum in minima if minimum.interior]
    if len(inside) < 2:
        return Approach(
            1,
            minima=minima,
            reason="fewer than two sizes between the smallest and the largest are ever the best: "
            "train the larger ones for longer",
        )
    return _line(1, minima, _resampled_rows(inside, resamples, seed))


def isoflop(points: Points, resamples: int = 100, seed: int = 0) -> Approach:
    """Approach 2: a parabola of loss over log N at each budget, and a power law of its minima."""
    groups = budgets(points)
    if not groups:
        return Approach(2, reason="no budget has three sizes: give runs of equal 6 N D")
    minima, parabolas = [], []
    for rows in groups:
        group = points.take(rows)
        design = _design(group)
        solution = _solved(design, group.loss)
        parabolas.append((group, design, solution))
        minima.append(_minimum(group, solution))
    if sum(minimum.interior for minimum in minima) < 2:
        edge = sum(not minimum.interior for minimum in minima)
        return Approach(
            2,
            minima=minima,
            reason=f"{len(minima)} budgets have three sizes, and {edge} of them their minimum at the "
            f"edge of the sizes: two minima inside are needed",
        )
    free = [len(group) - design.shape[1] for group, design, _ in parabolas]
    random = np.random.default_rng(seed)
    residuals = [group.loss - design @ solution for group, design, solution in parabolas]
    if not sum(free):
        return _line(2, minima, [])
    spread = np.concatenate(residuals) * math.sqrt(sum(map(len, residuals)) / sum(free))

    def again() -> list[Minimum]:
        made = []
        for group, design, solution in parabolas:
            loss = design @ solution + random.choice(spread, len(group))
            made.append(_minimum(group, _solved(design, loss)))
        return made

    return _line(2, minima, _exponents(again, resamples))


def budgets(points: Points) -> list[Rows]:
    """Rows of every budget that has three sizes: within 10 % of one another, the fullest first taken."""
    log, left = np.log(points.flops), np.ones(len(points), dtype=bool)
    groups: list[Rows] = []
    while True:
        best: tuple[int, Rows] = (0, np.zeros(0, dtype=np.int64))
        for low in log[left]:
            rows = np.flatnonzero(
                left & (log >= low - 1e-9) & (log <= low + math.log1p(BUDGET_TOLERANCE))
            )
            sizes = _sizes(points.parameters[rows])
            if sizes > best[0]:
                best = (sizes, rows)
        if best[0] < 3:
            return sorted(groups, key=lambda rows: float(log[rows].mean()))
        groups.append(best[1])
        left[best[1]] = False


def _sizes(parameters: Array) -> int:
    """Number of sizes, those within 1 % counted once."""
    ordered = np.sort(parameters)
    return 1 + int((ordered[1:] > 1.01 * ordered[:-1]).sum())


def _design(group: Points) -> Array:
    """Columns x^2, x, 1 of the centred log N; and of log C, where the budget is not quite one."""
    x, c = np.log(group.parameters), np.log(group.flops)
    x, c = x - x.mean(), c - c.mean()
    columns = [x**2, x, np.ones_like(x)]
    if len(x) >= 6 and np.ptp(c) > 1e-3:
        columns.append(c)
    return np.stack(columns, axis=1)


def _solved(design: Array, loss: Array) -> Array:
    return np.asarray(np.linalg.lstsq(design, loss, rcond=None)[0], dtype=float)


def _minimum(group: Points, solution: Array) -> Minimum:
    """The parabola's lowest point within the sizes, and whether it is the vertex."""
    x = np.log(group.parameters)
    second, first, constant = (float(value) for value in solution[:3])
    vertex = -first / (2 * second) if second > 0 else math.inf
    low, high = float(x.min() - x.mean()), float(x.max() - x.mean())
    interior = low < vertex < high
    ends = [low, high] if not interior else [vertex]
    at = min(ends, key=lambda end: second * end**2 + first * end)
    flops = math.exp(float(np.log(group.flops).mean()))
    loss = second * at**2 + first * at + constant
    mean = float(x.mean())
    curve = (second, first - 2 * second * mean, second * mean**2 - first * mean + constant)
    return Minimum(flops, math.exp(at + mean), loss, interior, _sizes(group.parameters), curve)


def _won(points: Points, curves: list[int], sizes: Array) -> list[Minimum]:
    """For every size that is somewhere the best, the middle of the operations where it is."""
    on = np.isin(points.run, curves)
    low, high = (math.log(f(points.flops[on])) for f in (np.min, np.max))
    bins = np.linspace(low, high, max(3, int((high - low) / math.log(10) * BINS_A_DECADE)))
    table = np.full((len(sizes), len(bins)), np.inf)
    for run in curves:
        curve = points.take(np.flatnonzero(points.run == run))
        curve = curve.take(np.argsort(curve.flops))
        there = np.interp(bins, np.log(curve.flops), np.log(curve.loss), left=np.inf, right=np.inf)
        row = int(np.searchsorted(sizes, curve.parameters[0]))
        table[row] = np.minimum(table[row], there)
    winner = table.argmin(axis=0)
    known = np.isfinite(table).sum(axis=0) >= 2
    minima = []
    for row in sorted(set(winner[known].tolist())):
        won = np.flatnonzero(known & (winner == row))
        middle = (won[0] + won[-1]) / 2
        neighbours = 0 < row < len(sizes) - 1 and all(
            np.isfinite(table[row + step, column]) for step, column in ((-1, won[0]), (1, won[-1]))
        )
        bounded = won[0] > 0 and won[-1] < len(bins) - 1
        minima.append(
            Minimum(
                math.exp(float(np.interp(middle, np.arange(len(bins)), bins))),
                float(sizes[row]),
                math.exp(float(table[row, round(middle)])),
                bool(neighbours and bounded),
                int(np.isfinite(table[:, round(middle)]).sum()),
            )
        )
    return minima


def _parametric(surface: Fit) -> Approach:
    law = surface.law
    if min(law.A, law.B) <= 0:
        return Approach(3, reason="the surface has no term in N or in D: no split is best")
    if surface.undetermined:
        return Approach(3, reason=surface.undetermined[0])
    between = percentiles(exponents(surface.draws), "weibull") if len(surface.draws) else None
    log_k = math.log(law.best(1.0)[0])
    return Approach(3, law.exponent, between, log_k)


def _line(number: int, minima: list[Minimum], draws: list[float]) -> Approach:
    """The power law of the minima that are inside."""
    a, log_k = _power(minima)
    edge = sum(not minimum.interior for minimum in minima)
    reason = f"{edge} of {len(minima)} minima lie at the edge and are left out" if edge else ""
    between = percentiles(draws, "weibull") if len(draws) >= 20 else None
    return Approach(number, a, between, log_k, minima, reason if number == 2 else "")


def _power(minima: list[Minimum]) -> tuple[float, float]:
    inside = [minimum for minimum in minima if minimum.interior]
    slope, constant = np.polyfit(
        [math.log(minimum.flops) for minimum in inside],
        [math.log(minimum.parameters) for minimum in inside],
        1,
    )
    return float(slope), float(constant)


def _exponents(again: Callable[[], list[Minimum]], resamples: int) -> list[float]:
    """The exponent of every resample that has two minima inside."""
    made = (again() for _ in range(resamples))
    return [_power(resample)[0] for resample in made if sum(m.interior for m in resample) >= 2]


def _resampled_rows(inside: list[Minimum], resamples: int, seed: int) -> list[float]:
    """Exponents of resampled minima; none where there are fewer than four."""
    if len(inside) < 4:
        return []
    random = np.random.default_rng(seed)
    draws = [random.integers(len(inside), size=len(inside)) for _ in range(resamples)]
    return [_power([inside[i] for i in draw])[0] for draw in draws if len(set(draw.tolist())) > 1]


def _disagreements(approaches: list[Approach], flops: float) -> list[str]:
    """Pairs whose intervals of a do not meet, and pairs whose sizes at a budget lie apart."""
    warnings = []
    answers = [approach for approach in approaches if approach.a is not None]
    if any(approach.interval is not None for approach in answers):
        warnings += [
            f"approach {approach.number} has no interval of a (too few points to resample): its size at "
            f"{flops:.3g} FLOP alone is compared with the others'"
            for approach in answers
            if approach.interval is None
        ]
    for approach, other in itertools.combinations(answers, 2):
        if _parted(approach, other):
            words = " and ".join(
                f"approach {x.number} gives a = {x.a:.3f} ({x.interval[0]:.3f} to {x.interval[1]:.3f})"
                for x in (approach, other)
                if x.interval is not None
            )
            warnings.append(f"{words}: they disagree by more than their intervals")
        sizes = [best[0] for x in (approach, other) if (best := x.best(flops)) is not None]
        factor = max(sizes) / min(sizes)
        if factor > APART:
            warnings.append(
                f"at {flops:.3g} FLOP approach {approach.number} gives {sizes[0]:.3g} parameters and "
                f"approach {other.number} {sizes[1]:.3g}: they disagree by a factor of {factor:.2g}"
            )
    return warnings


def _parted(approach: Approach, other: Approach) -> bool:
    """Whether both have an interval of a, and the two do not meet."""
    if approach.interval is None or other.interval is None:
        return False
    return approach.interval[0] > other.interval[1] or other.interval[0] > approach.interval[1]
