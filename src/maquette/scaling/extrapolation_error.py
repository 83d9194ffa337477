"""Error of extrapolating a fitted surface, measured on the largest runs, which are left out.

The largest sizes, the largest numbers of tokens, and both at once are left out of the fit, one level
after the other, and predicted. The relative error grows about linearly with the distance, the sum of
log N and log D beyond the points that were left; what it came to for an e-fold, over all foldings, is
what the next e-fold beyond all points may cost. Student's t makes 95 % of it, for foldings are few.

The point is not moved, though the errors lean to one side: they shrink as more is fitted, so that what
a short folding missed by, taken for a correction, makes a longer one worse.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maquette.scaling.extrapolate import T95
from maquette.scaling.fit import fit_surface
from maquette.scaling.fit_points import LEAST, Array

FAR_T = 2.2  # of Student's t beyond the table


@dataclass(frozen=True)
class Folding:
    """A fit without the largest runs, and how far it missed them."""

    name: str
    kept: int
    """number of runs that were fitted"""
    distances: tuple[float, ...]
    """distances of the runs left out, in e-folds beyond the range of the fitted runs"""
    errors: tuple[float, ...]
    """relative errors of the runs left out: measured over predicted, less 1"""

    @property
    def cost(self) -> float:
        """Root mean square of the error an e-fold."""
        pairs = zip(self.errors, self.distances, strict=True)
        return math.sqrt(sum((e / x) ** 2 for e, x in pairs) / len(self.errors))


@dataclass(frozen=True)
class Cost:
    """The extrapolation error over all foldings."""

    foldings: tuple[Folding, ...]

    @property
    def per_efold(self) -> float:
        """Relative error an e-fold beyond the points that is not exceeded 95 times of 100."""
        n = len(self.foldings)
        t = (
            T95[n - 1] if n <= len(T95) else FAR_T
        )  # the mean is not taken out: n degrees of freedom
        return t * math.sqrt(sum(f.cost**2 for f in self.foldings) / n)

    def at(self, distance: float) -> float:
        """The relative error to expect at a distance; 0 inside."""
        return self.per_efold * max(0.0, distance)


def distance(
    parameters: float, tokens: float, sizes: tuple[float, float], lengths: tuple[float, float]
) -> float:
    """E-folds by which a run lies outside of measured ranges, both axes added; 0 inside."""
    total = 0.0
    for value, (low, high) in ((parameters, sizes), (tokens, lengths)):
        total += max(0.0, math.log(low / value), math.log(value / high))
    return total


def cost(parameters: Array, tokens: Array, loss: Array, *, delta: float = 1.0) -> Cost:
    """Leave out the largest runs, fit the others, predict. Arrays (runs,).

    delta: threshold of the fit's Huber loss. A folding leaves six runs or more, of two sizes and two lengths;
    raises ValueError where there is none.
    """
    sizes, lengths = np.unique(parameters), np.unique(tokens)
    kept_runs = []
    for few in range(1, len(lengths) - 1):
        kept_runs.append((f"the {few} longest", tokens < lengths[-few]))
    for few in range(1, len(sizes) - 1):
        kept_runs.append((f"the {few} largest", parameters < sizes[-few]))
    for few in range(1, min(len(sizes), len(lengths)) - 1):
        both = (tokens < lengths[-few]) & (parameters < sizes[-few])
        kept_runs.append((f"the {few} largest and longest", both))
    foldings = [
        _folding(name, kept, parameters, tokens, loss, delta)
        for name, kept in kept_runs
        if LEAST <= kept.sum() < len(loss)
    ]
    if not foldings:
        raise ValueError(f"{len(loss)} runs are too few to leave any out")
    return Cost(tuple(foldings))


def _folding(
    name: str,
    kept: npt.NDArray[np.bool_],
    parameters: Array,
    tokens: Array,
    loss: Array,
    delta: float,
) -> Folding:
    fit = fit_surface(parameters[kept], tokens[kept], loss[kept], name, delta)
    distances, errors = [], []
    for n, d, measured in zip(parameters[~kept], tokens[~kept], loss[~kept], strict=True):
        distances.append(distance(n, d, fit.range_parameters, fit.range_tokens))
        errors.append(float(measured / fit.law.loss(n, d) - 1))
    return Folding(name, int(kept.sum()), tuple(distances), tuple(errors))
