"""Proportions, means and their 95 % intervals: every station and every experiment has them from here.

    proportions   `Share`, `pooled`, `difference`: Wilson (1927), Newcombe (1998)
    paired        `paired_difference`, `agresti_min`: two answers to each of the same questions
    means         `mean_interval`, `weighted_mean`: in the normal approximation
    ranks         `spearman`
    bootstrap     `bootstrap`, `bootstrap_arrays`: of any statistic, by resampling rows

Two levels of the normal distribution are in use, 1.96 and its exact value, and two generators draw
resamples, torch's and NumPy's. Each function keeps the one that results were published with.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
NORMAL = 1.959963984540054  # leaves 2.5 % of a normal distribution on either side
ROUNDED = 1.96  # the same as papers print it


def wilson(count: float, total: float) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927); (0, 1) for nothing counted."""
    if total <= 0:
        return 0.0, 1.0
    p, scale = count / total, 1 + NORMAL * NORMAL / total
    centre = (p + NORMAL * NORMAL / (2 * total)) / scale
    half = NORMAL / scale * math.sqrt(p * (1 - p) / total + (NORMAL / (2 * total)) ** 2)
    return (centre - half if count else 0.0), (centre + half if count < total else 1.0)


@dataclass(frozen=True)
class Share:
    """A proportion as counted: `right` of `n`."""

    right: int
    n: int

    @property
    def value(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share (Wilson 1927)."""
        return wilson(self.right, self.n)

    @property
    def mean(self) -> "Mean":
        """The share as a mean of ones and zeros, with its standard error."""
        return weighted_mean([1.0] * self.right + [0.0] * (self.n - self.right))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        low, high = self.interval
        return {"right": self.right, "n": self.n, "share": self.value, "low": low, "high": high}


def pooled(shares: Sequence[Share]) -> Share:
    """Several counts as one: the same model with several seeds."""
    return Share(sum(s.right for s in shares), sum(s.n for s in shares))


def difference(a: Share, b: Share) -> tuple[float, float, float]:
    """a - b with its 95 % interval, as shares: (difference, low, high).

    Two independent counts, from their Wilson intervals (Newcombe 1998, method 10).
    """
    (low_a, high_a), (low_b, high_b) = a.interval, b.interval
    middle = a.value - b.value
    below = math.hypot(a.value - low_a, high_b - b.value)
    above = math.hypot(high_a - a.value, b.value - low_b)
    return middle, middle - below, middle + above


def paired_difference(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Share of a less share of b, of the same pictures: (difference, low, high), 95 % interval.

    a, b: (n,). From the pictures in which they differ (McNemar 1947), in the normal approximation.
    """
    d = a.astype(float) - b.astype(float)
    half = NORMAL * float(d.std()) / np.sqrt(len(d))
    return float(d.mean()), float(d.mean() - half), float(d.mean() + half)


def agresti_min(differences: "Tensor") -> tuple[float, float]:
    """The 95 % interval of a mean difference of paired rights and wrongs (Agresti and Min 2005).

    differences: (n,) of 1, 0 and -1. Both ends widen by half a pair: a difference of nothing but
    zeros is not known to be 0.
    """
    import torch

    n = len(differences)
    extended = torch.cat([differences, differences.new_tensor([1.0, -1.0])])
    error = ROUNDED * float(extended.std()) / (n + 2) ** 0.5
    mean = float(extended.mean())
    return mean - error, mean + error


def mean_interval(values: Array) -> tuple[float, float, float]:
    """The mean of values (n,), and its 95 % interval in the normal approximation: (mean, low, high)."""
    half = ROUNDED * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """The rank correlation of two rows (n,), equal values with their mean rank; 0 where one is constant."""
    ranks = []
    for row in (a, b):
        _, place, counts = np.unique(np.asarray(row), return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    if any(row.std() == 0 for row in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


@dataclass(frozen=True)
class Mean:
    """A mean over examples with its standard error (None for fewer than two)."""

    examples: int
    mean: float | None
    stderr: float | None

    def __format__(self, spec: str) -> str:
        """The mean and, where it is known, ± its standard error; spec: of both."""
        if self.mean is None:
            return "not known"
        error = "" if self.stderr is None else f" ± {self.stderr:{spec}}"
        return f"{self.mean:{spec}}{error}"

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        if self.mean is None or self.stderr is None:
            return -math.inf, math.inf
        return self.mean - NORMAL * self.stderr, self.mean + NORMAL * self.stderr


def weighted_mean(scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Mean:
    """The mean of scores, weighted (bits per byte by bytes); its error by linearisation.

    Cochran 1977, equation 6.13: the ratio of two sums over a sample of examples.
    """
    x = np.asarray(scores, np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if not len(x) or not w.sum():
        return Mean(len(x), None, None)
    centre = float(np.average(x, weights=w))
    if len(x) < 2:
        return Mean(1, centre, None)
    spread = math.sqrt(float((w**2 * (x - centre) ** 2).sum()) * len(x) / (len(x) - 1))
    return Mean(len(x), centre, spread / float(w.sum()))


def percentiles(
    draws: npt.ArrayLike, method: Literal["linear", "weibull"] = "linear"
) -> tuple[float, float]:
    """The ends of the middle 95 % of draws (n,). weibull: the least and the greatest of few draws."""
    low, high = np.quantile(np.asarray(draws), [0.025, 0.975], method=method)
    return float(low), float(high)


def bootstrap(
    n: int, statistic: Callable[["Tensor"], "Tensor"], *, draws: int = 1000
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of tensors of n rows (Efron 1979).

    statistic: row numbers (draws, n), drawn with replacement -> its values (draws,).
    """
    import torch

    rows = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(0))
    values = statistic(rows)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def bootstrap_mean(values: "Tensor") -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of values (n,)."""
    return bootstrap(len(values), lambda rows: values[rows].mean(1))


def bootstrap_arrays(
    n: int, statistic: Callable[[Rows], npt.ArrayLike], *, draws: int
) -> tuple[float, float]:
    """As `bootstrap`, of NumPy's arrays and by its generator."""
    return percentiles(statistic(np.random.default_rng(0).integers(0, n, (draws, n))))
