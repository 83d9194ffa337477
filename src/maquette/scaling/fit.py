"""Fit L(N, D) = E + A / N^alpha + B / D^beta to runs, by variable projection.

Given alpha and beta the surface is linear in E, A, B, so only two numbers are searched, on a grid
that zooms, and the rest is a non-negative least-squares problem of three columns with an exact
answer (Golub and Pereyra 1973). No starting point, no local minimum, no scipy. The weights
1 / L^2 make it least squares of the relative error.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maquette.scaling.laws import Law

Array = npt.NDArray[np.float64]
ZOOMS, GRID = 6, 15


@dataclass(frozen=True)
class Fit:
    """A law and how well it passes through the points."""

    law: Law
    error: float
    """root mean square of the relative residuals"""
    points: int


def fit_surface(parameters: Array, tokens: Array, loss: Array, source: str) -> Fit:
    """The law through at least six points. All arrays (points,), loss in any unit."""
    if len(loss) < 6:
        raise ValueError(f"{len(loss)} points cannot fix five constants: give six or more")
    low, high = np.array([0.05, 0.05]), np.array([1.5, 1.5])
    best = (np.inf, 0.0, 0.0, np.zeros(3))
    for _ in range(ZOOMS):
        for alpha, beta in itertools.product(*(np.linspace(low[i], high[i], GRID) for i in (0, 1))):
            columns = np.stack([np.ones_like(loss), parameters**-alpha, tokens**-beta], axis=1)
            error, weights = _non_negative(columns / loss[:, None], np.ones_like(loss))
            if error < best[0]:
                best = (error, float(alpha), float(beta), weights)
        width = (high - low) / GRID
        centre = np.array(best[1:3])
        low, high = np.maximum(centre - width, 0.01), centre + width
    error, alpha, beta, (e, a, b) = best
    law = Law("fitted", source, float(e), float(a), float(b), alpha, beta, float(parameters.min()))
    return Fit(law, float(np.sqrt(error / len(loss))), len(loss))


def _non_negative(columns: Array, target: Array) -> tuple[float, Array]:
    """Least squares with weights >= 0: the best of the feasible solutions over subsets of columns."""
    best = (float(target @ target), np.zeros(columns.shape[1]))
    for size in range(columns.shape[1], 0, -1):
        for chosen in itertools.combinations(range(columns.shape[1]), size):
            part = columns[:, chosen]
            scale = np.linalg.norm(part, axis=0)
            solution = np.linalg.lstsq(part / scale, target, rcond=None)[0] / scale
            if (solution < 0).any():
                continue
            residual = target - part @ solution
            if (error := float(residual @ residual)) < best[0]:
                weights = np.zeros(columns.shape[1])
                weights[list(chosen)] = solution
                best = (error, weights)
        if size == columns.shape[1] and best[1].any():
            break  # the unconstrained optimum is feasible: nothing is better
    return best
