"""The best of a few learning rates: where the loss is least, and how flat it is there.

A grid that doubles is coarse, so a parabola through the best point and its neighbours, over the
logarithm, says where between them the optimum lies. A loss that is infinite (a run that diverged)
is a point like any other: the optimum is elsewhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.01
"""relative loss above the best that counts as good"""


@dataclass(frozen=True)
class Optimum:
    """The optimum of a grid: the least loss and its surroundings."""

    value: float
    """value at the parabola's minimum; the best point itself at the edge of the grid"""
    loss: float
    """loss of the best point"""
    index: int
    """index of the best point, values in ascending order"""
    edge: int
    """position of the best point: -1 the first, 1 the last, 0 inside"""
    off: tuple[float, float]
    """loss above the best one point to the left and to the right; infinite where there is none"""
    good: tuple[float, float]
    """values between which the loss is within 1 % of the best, as far as the grid goes"""
    open: tuple[bool, bool]
    """whether the good values reach the end of the grid, on the left and on the right"""


def find_optimum(values: Sequence[float], losses: Sequence[float]) -> Optimum:
    """The optimum of losses over positive values, in any order. All infinite: the first is best."""
    order = np.argsort(values)
    x = np.log2(np.array(values, float)[order])
    y = np.array([loss if loss == loss else math.inf for loss in losses], float)[order]
    best, last = int(y.argmin()), len(x) - 1
    edge = -1 if best == 0 else 1 if best == last else 0
    off = (
        float(y[best - 1] - y[best]) if best > 0 and math.isfinite(y[best]) else math.inf,
        float(y[best + 1] - y[best]) if best < last and math.isfinite(y[best]) else math.inf,
    )
    position = float(x[best])
    if edge == 0 and all(map(math.isfinite, off)):
        position = _vertex(x[best - 1 : best + 2].tolist(), y[best - 1 : best + 2].tolist())
    limit = y[best] * (1 + TOLERANCE) if math.isfinite(y[best]) else math.inf
    left, right = _crossing(x, y, best, -1, limit), _crossing(x, y, best, 1, limit)
    return Optimum(
        value=2**position,
        loss=float(y[best]),
        index=best,
        edge=edge,
        off=off,
        good=(2 ** (left if left is not None else x[0]), 2 ** (right if right is not None else x[-1])),
        open=(left is None, right is None),
    )  # fmt: skip


def _vertex(x: list[float], y: list[float]) -> float:
    """Minimiser of the parabola through three points, the middle of which is the lowest."""
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    curvature = (right - left) / (x[2] - x[0])
    if curvature <= 0:  # three equal losses
        return x[1]
    slope = left + curvature * (x[1] - x[0])  # at the middle point
    return min(max(x[1] - slope / (2 * curvature), x[0]), x[2])


def _crossing(
    x: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    y: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    best: int,
    step: int,
    limit: float,
) -> float | None:
    """Value at which the loss crosses the limit on one side, interpolated linearly; None: nowhere."""
    at = best
    while 0 <= at + step < len(x):
        if y[at + step] > limit:
            if not math.isfinite(y[at + step]):
                return float(x[at])
            part = (limit - y[at]) / (y[at + step] - y[at])
            return float(x[at] + part * (x[at + step] - x[at]))
        at += step
    return None
