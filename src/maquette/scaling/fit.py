"""Fit L(N, D) = E + A / N^alpha + B / D^beta to runs, with error bars and with what speaks against it.

The constants are those of `projection.py`; the spread of a hundred resamples of the points is the
interval. The paper's own optimiser is the reference: `lbfgs.py`.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from maquette.base.errors import UserError, WrongUse
from maquette.base.statistics import percentiles
from maquette.scaling.fit_points import LEAST, Array, Points, points_of
from maquette.scaling.laws import Law
from maquette.scaling.projection import (
    DELTA,
    HIGHEST,
    LOWEST,
    constants,
    huber,
    logs,
    polished,
    residuals,
    searched,
)

CONSTANTS = ("E", "A", "B", "alpha", "beta")
LARGEST_ERROR = 0.01
"""root mean square relative residual above which nothing outside of the points is predicted"""
WIDEST = 0.3
"""width of the interval of the exponent a above which the fit is undetermined"""
MARGIN = 1.25
"""factor outside of the fitted range that still counts as inside"""
RATIO = 1.5
"""spread of tokens a parameter below which N and D cannot be told apart"""
TOGETHER = 0.98
"""R^2 of log D over log N above which they cannot be told apart either"""
FAR = 10.0
"""factor outside of the fitted range from which a prediction carries a warning"""


@dataclass(frozen=True)
class Prediction:
    """A predicted loss."""

    loss: float
    low: float
    high: float
    """the fit's 95 % interval and the points' own scatter, together; equal to loss without resamples"""
    outside: float
    """factor by which the run lies outside of the fitted range; 1 inside"""

    @property
    def warning(self) -> str:
        """Warning of a prediction far outside of the fitted range; "" for others."""
        if self.outside <= FAR:
            return ""
        return (
            f"extrapolation: the prediction lies {self.outside:.3g} times outside of the points, and its "
            f"interval holds only if the surface does up to there: add larger runs"
        )


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted law, with its residuals and bootstrap draws."""

    law: Law
    error: float
    """root mean square of the relative residuals (of log loss)"""
    points: int
    objective: float = 0.0
    """sum of the Huber losses"""
    draws: Array = field(default_factory=lambda: np.zeros((0, 5)))
    """(resamples, 5): E, A, B, alpha, beta of every bootstrap fit"""
    warnings: list[str] = field(default_factory=list)
    undetermined: list[str] = field(default_factory=list)
    """the warnings that the points do not determine the constants"""
    on_edge: bool = False
    """whether the minimum lies on the edge of the grid, or at E, A or B = 0"""
    range_parameters: tuple[float, float] = (0.0, math.inf)
    range_tokens: tuple[float, float] = (0.0, math.inf)
    outliers: list[tuple[float, float, float, float]] = field(default_factory=list)
    """(parameters, tokens, loss, relative residual) of points far from the rest"""

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of the constants, and of a = beta / (alpha + beta)."""
        if not len(self.draws):
            return {}
        columns = np.column_stack([self.draws, exponents(self.draws)])
        return {
            name: percentiles(column, "weibull")
            for name, column in zip((*CONSTANTS, "a"), columns.T, strict=True)
        }

    def extrapolates(self, parameters: float, tokens: float) -> float:
        """Factor outside of the fitted range of a point, the larger of both axes; 1 inside."""
        factor = 1.0
        for value, (low, high) in (
            (parameters, self.range_parameters),
            (tokens, self.range_tokens),
        ):
            factor = max(factor, low / value, value / high)
        return factor

    def predict(self, parameters: float, tokens: float) -> Prediction:
        """The loss of a run, with an interval of 95 %.

        UserError outside of the fitted range where the surface misses its own points by more than
        1 % or lies on the edge of the grid.
        """
        outside = self.extrapolates(parameters, tokens)
        if outside > MARGIN and (self.on_edge or self.error > LARGEST_ERROR):
            why = (
                f"misses its points by {self.error:.1%} (rms)"
                if self.error > LARGEST_ERROR
                else "lies on the edge of what was searched"
            )
            raise UserError(
                f"{parameters:.3g} parameters and {tokens:.3g} tokens lie {outside:.3g} times outside "
                f"of the points, and the surface {why}: add larger runs, or use the IsoFLOP minima"
            )
        loss = self.law.loss(parameters, tokens)
        if not len(self.draws):
            return Prediction(loss, loss, loss, outside)
        e, a, b, alpha, beta = self.draws.T
        low, high = percentiles(e + a / parameters**alpha + b / tokens**beta, "weibull")
        scatter = 1.96 * self.error * loss
        return Prediction(
            loss,
            loss - math.hypot(max(0.0, loss - low), scatter),
            loss + math.hypot(max(0.0, high - loss), scatter),
            outside,
        )


def fit(
    points: Points, *, resamples: int = 100, seed: int = 0, drop: int = 0, delta: float = DELTA
) -> Fit:
    """The law through the ends of the runs, with bootstrap intervals.

    drop: leave out so many points of the highest loss first (Besiroglu et al. 2024 left out five).
    delta: threshold of the Huber loss; 1 is least squares, for few points without outliers. Raises
    UserError for fewer than six ends.
    """
    if not 0 <= resamples <= 10_000:
        raise WrongUse(f"resamples is {resamples}: use 0 to 10000")
    ends = points.ends()
    if len(ends) < LEAST:
        raise UserError(
            f"{points.source}: {len(ends)} finished runs cannot fix five constants: give six or more"
        )
    ends = ends.without_highest(drop)
    try:
        return _fitted(ends, resamples, seed, delta)
    except np.linalg.LinAlgError as error:
        raise UserError(
            f"{points.source}: no surface goes through these points ({error}): look for a cell that "
            f"differs from the rest by orders of magnitude"
        ) from error


def _fitted(ends: Points, resamples: int, seed: int, delta: float) -> Fit:
    x, y, target = logs(ends)
    theta = polished(searched(x, y, target, delta), x, y, target, np.ones((1, len(ends))), delta)[0]
    draws = np.zeros((0, 5))
    if resamples:
        random = np.random.default_rng(seed)
        counts = random.multinomial(len(ends), np.full(len(ends), 1 / len(ends)), resamples)
        starts = np.tile(theta, (resamples, 1))
        draws = constants(polished(starts, x, y, target, counts.astype(float), delta), ends)
    return described(theta, ends, draws, delta=delta)


def fit_surface(
    parameters: Array, tokens: Array, loss: Array, source: str, delta: float = DELTA
) -> Fit:
    """The law through at least six points, without intervals. Arrays (points,), loss in any unit."""
    return fit(points_of(parameters, tokens, loss, source=source), resamples=0, delta=delta)


def exponents(draws: Array) -> Array:
    """a = beta / (alpha + beta) of rows E, A, B, alpha, beta."""
    return np.asarray(draws[:, 4] / (draws[:, 3] + draws[:, 4]))


def described(
    theta: Array, points: Points, draws: Array, name: str = "fitted", delta: float = DELTA
) -> Fit:
    """A fit of theta (5,), with its residuals and its warnings."""
    x, y, target = logs(points)
    residual = residuals(theta[None], x, y, target)[0][0]
    e, a, b, alpha, beta = (float(value) for value in constants(theta, points))
    smallest = float(points.parameters.min())
    law = Law(name, points.source, e, a, b, alpha, beta, smallest)
    nothing = [n for n, value in zip("EAB", theta[:3], strict=True) if value < target.min() - 12]
    for letter in nothing:
        law = replace(law, **{letter: 0.0})  # type: ignore[arg-type]
    edge = [n for n in ("alpha", "beta") if not 1.01 * LOWEST < getattr(law, n) < 0.99 * HIGHEST]
    fit = Fit(
        law,
        float(np.sqrt((residual**2).mean())),
        len(points),
        float(huber(residual, delta).sum()),
        draws,
        on_edge=bool(edge or nothing),
        range_parameters=(smallest, float(points.parameters.max())),
        range_tokens=(float(points.tokens.min()), float(points.tokens.max())),
        outliers=_outliers(points, residual),
    )
    undetermined = _undetermined(fit, points, edge + nothing)
    return replace(fit, warnings=undetermined + _warnings(fit), undetermined=undetermined)


def _outliers(points: Points, residual: Array) -> list[tuple[float, float, float, float]]:
    """Points beyond ten times the median distance, and beyond a percent, the furthest first."""
    size = np.abs(residual)
    far = np.flatnonzero(size > max(10 * float(np.median(size)), 0.01))
    rows = np.column_stack([points.parameters, points.tokens, points.loss, residual])
    return [
        (float(n), float(d), float(loss), float(-r))
        for n, d, loss, r in rows[far[np.argsort(-size[far])]]
    ]


def _undetermined(fit: Fit, points: Points, edge: list[str]) -> list[str]:
    """Why the points do not fix the constants, in words."""
    warnings = []
    if edge:
        constants = ", ".join(f"{name} = {getattr(fit.law, name):.3g}" for name in edge)
        warnings.append(f"the minimum lies on the edge of what was searched ({constants})")
    for quantity, values in (("model sizes", points.parameters), ("token counts", points.tokens)):
        if (count := _distinct(values)) < 3:
            warnings.append(f"under-determined: {count} {quantity}; three or more are needed")
    ratio = points.tokens / points.parameters
    if ratio.max() < RATIO * ratio.min():
        warnings.append(
            f"under-determined: every run has about {np.median(ratio):.3g} tokens a parameter, so the "
            f"terms in N and D cannot be told apart; add runs of other ratios"
        )
    elif (line := _together(points)) is not None:
        power, straight = line
        warnings.append(
            f"under-determined: N and D were varied together (D ~ N^{power:.2f}, R^2 {straight:.3f}), so "
            f"their exponents cannot be told apart; add runs of other tokens at the same sizes"
        )
    if "a" in fit.intervals:
        low, high = fit.intervals["a"]
        if high - low > WIDEST:
            warnings.append(
                f"under-determined: the exponent a of N ~ C^a lies anywhere from {low:.2f} to {high:.2f}"
            )
    return warnings


def _together(points: Points) -> tuple[float, float] | None:
    """Exponent of D over N and R^2, where the runs lie on one line of log D over log N."""
    x, y = np.log(points.parameters), np.log(points.tokens)
    if min(_distinct(points.parameters), _distinct(points.tokens)) < 3:
        return None  # said already
    x, y = x - x.mean(), y - y.mean()
    power = float((x * y).sum() / (x * x).sum())
    straight = float(power * (x * y).sum() / (y * y).sum())
    return (power, straight) if straight > TOGETHER else None


def _warnings(fit: Fit) -> list[str]:
    """Further warnings of the fit."""
    warnings = []
    if fit.error > LARGEST_ERROR:
        warnings.append(
            f"the surface misses its points by {fit.error:.1%} (rms): nothing outside of them is "
            f"predicted from it"
        )
    if fit.outliers:
        n, d, loss, residual = fit.outliers[0]
        warnings.append(
            f"{len(fit.outliers)} of {fit.points} points lie far from the surface, the furthest (N "
            f"{n:.3g}, D {d:.3g}, loss {loss:.4g}) by {residual:+.1%}: look at them (--drop K leaves "
            f"out the K of highest loss)"
        )
    return warnings


def _distinct(values: Array) -> int:
    """Number of values that differ by more than 1 %."""
    ordered = np.sort(values)
    return 1 + int((ordered[1:] > 1.01 * ordered[:-1]).sum())
