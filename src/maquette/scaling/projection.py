"""The least of the Huber loss of L(N, D) = E + A / N^alpha + B / D^beta, by variable projection.

Given alpha and beta the surface is linear in E, A, B, so only two numbers are searched, on a grid
that zooms, and the rest is a least-squares problem of three columns with an exact non-negative
answer (Golub and Pereyra 1973). No starting point, no scipy. What is minimised is the paper's sum
over the points of Huber(log L predicted - log L), with delta = 1e-3 (Hoffmann et al. 2022, eq. 3),
by iteratively reweighted least squares. The best of the grid is then polished in all five constants,
and so are all resamples of the points at once.

theta: log E, log A', log B', alpha, beta, where A' and B' belong to sizes and tokens divided by their
geometric means, which keeps the three columns of one size.
"""

import itertools
import math

import numpy as np

from maquette.scaling.fit_points import Array, Points

DELTA = 1e-3
LOWEST, HIGHEST = 0.02, 2.0
"""bounds of the grid of both exponents"""
GRID, ZOOMS, REWEIGHTS = 15, 3, 12
POLISH = 300


def huber(residuals: Array, delta: float = DELTA) -> Array:
    """Huber loss of each residual: a square up to delta, a line beyond."""
    size = np.abs(residuals)
    quadratic: Array = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
    return quadratic


def logs(points: Points) -> tuple[Array, Array, Array]:
    """Logs of sizes and tokens over their geometric means, and of losses: (points,) each."""
    x, y = np.log(points.parameters), np.log(points.tokens)
    return x - x.mean(), y - y.mean(), np.log(points.loss)


def constants(theta: Array, points: Points) -> Array:
    """(..., 5) of theta as E, A, B, alpha, beta."""
    e, a, b, alpha, beta = theta.T
    mean_n, mean_d = np.log(points.parameters).mean(), np.log(points.tokens).mean()
    logs = np.stack([e, a + alpha * mean_n, b + beta * mean_d])
    return np.concatenate([np.exp(logs), [alpha, beta]]).T


def searched(x: Array, y: Array, target: Array, delta: float) -> Array:
    """The best theta (1, 5) of a grid over alpha and beta that zooms."""
    low, high = np.full(2, LOWEST), np.full(2, HIGHEST)
    best, theta = math.inf, np.zeros(5)
    for _ in range(ZOOMS):
        axes = [np.linspace(low[i], high[i], GRID) for i in (0, 1)]
        grid = np.array(list(itertools.product(*axes)))  # (grid, 2)
        objective, weights = _projected(grid, x, y, target, delta)
        i = int(np.argmin(objective))
        if objective[i] < best:
            best = float(objective[i])
            theta = np.concatenate([np.log(np.maximum(weights[i], 1e-9)), grid[i]])
        cell = (high - low) / (GRID - 1)
        low = np.clip(theta[3:] - 1.5 * cell, LOWEST, HIGHEST)
        high = np.clip(theta[3:] + 1.5 * cell, LOWEST, HIGHEST)
    return theta[None]


def _projected(grid: Array, x: Array, y: Array, target: Array, delta: float) -> tuple[Array, Array]:
    """For every (alpha, beta) the best E, A, B >= 0: objectives (grid,) and weights (grid, 3)."""
    shape = (len(grid), len(x))
    ones = np.ones(shape)
    columns = np.stack(
        [ones, np.exp(-grid[:, :1] * x), np.exp(-grid[:, 1:] * y)], axis=2
    )  # (grid, points, 3)
    predicted, best = np.tile(np.exp(target), (len(grid), 1)), np.full(len(grid), np.inf)
    kept = np.zeros((len(grid), 3))
    residual = np.zeros(shape)
    for _ in range(REWEIGHTS):
        # log f is linearised about the last f: X w / f = 1 + log L - log f
        root = np.sqrt(np.minimum(1, delta / np.maximum(np.abs(residual), delta)))
        scaled = columns * (root / predicted)[:, :, None]
        weights = _non_negative(scaled, root * (1 - residual))
        predicted = np.maximum((columns @ weights[:, :, None])[:, :, 0], 1e-12)
        residual = np.log(predicted) - target
        objective = huber(residual, delta).sum(axis=1)
        better = objective < best
        best, kept = np.where(better, objective, best), np.where(better[:, None], weights, kept)
    return best, kept


def _non_negative(columns: Array, target: Array) -> Array:
    """Least squares with weights >= 0: (grid, points, 3), (grid, points) -> (grid, 3).

    The best of the feasible solutions over subsets of columns, which for three is exact.
    """
    gram = columns.transpose(0, 2, 1) @ columns
    right = (columns.transpose(0, 2, 1) @ target[:, :, None])[:, :, 0]
    gram = gram + 1e-13 * np.eye(3) * np.trace(gram, axis1=1, axis2=2)[:, None, None]
    weights = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
    bad = np.flatnonzero((weights < 0).any(axis=1))
    if not len(bad):
        return weights
    best = np.full(len(bad), np.inf)
    gram, right = gram[bad], right[bad]
    for size in (1, 2):
        for chosen in map(list, itertools.combinations(range(3), size)):
            part = np.linalg.solve(gram[:, chosen][:, :, chosen], right[:, chosen][:, :, None])[
                :, :, 0
            ]
            error = -(part * right[:, chosen]).sum(axis=1)  # the rest of the square is the same
            wins = np.flatnonzero((part >= 0).all(axis=1) & (error < best))
            best[wins] = error[wins]
            full = np.zeros((len(wins), 3))
            full[:, chosen] = part[wins]
            weights[bad[wins]] = full
    return weights


def polished(theta: Array, x: Array, y: Array, target: Array, counts: Array, delta: float) -> Array:
    """Descend in all five constants, every row of theta (fits, 5) by itself.

    counts: (fits, points), how often a resample holds each point. Levenberg and Marquardt's steps
    on the reweighted squares; a step that does not lower the objective is not taken.
    """
    theta, damping = theta.copy(), np.full(len(theta), 1e-3)
    residual, slopes = residuals(theta, x, y, target)
    objective = (counts * huber(residual, delta)).sum(axis=1)
    live, stalled = np.arange(len(theta)), np.zeros(len(theta), dtype=int)
    for _ in range(POLISH):
        weight = counts[live] * np.minimum(1, delta / np.maximum(np.abs(residual), delta))
        weighted = slopes * weight[:, None, :]  # (live, 5, points)
        gram = weighted @ slopes.transpose(0, 2, 1)
        scale = np.einsum("bii->bi", gram) + 1e-12
        gram = gram + np.eye(5) * (damping[live][:, None] * scale)[:, None, :]
        step = np.linalg.solve(gram, weighted @ residual[:, :, None])[:, :, 0]
        tried = theta[live] - np.clip(step, -1, 1)
        tried[:, 3:] = np.clip(tried[:, 3:], LOWEST, HIGHEST)
        tried[:, :3] = np.maximum(tried[:, :3], -25)  # log of nothing
        new_residual, new_slopes = residuals(tried, x, y, target)
        value = (counts[live] * huber(new_residual, delta)).sum(axis=1)
        better = value < objective[live]
        stalled[live] = np.where(value < objective[live] * (1 - 1e-7), 0, stalled[live] + 1)
        theta[live] = np.where(better[:, None], tried, theta[live])
        objective[live] = np.where(better, value, objective[live])
        damping[live] = np.clip(damping[live] * np.where(better, 0.2, 5), 1e-12, 1e6)
        residual = np.where(better[:, None], new_residual, residual)
        slopes = np.where(better[:, None, None], new_slopes, slopes)
        going = stalled[live] < 8
        if not going.any():
            break
        live, residual, slopes = live[going], residual[going], slopes[going]
    return theta


def residuals(theta: Array, x: Array, y: Array, target: Array) -> tuple[Array, Array]:
    """log f - log L (fits, points), and its slopes (fits, 5, points)."""
    e, a, b, alpha, beta = (column[:, None] for column in theta.T)
    size, data = np.exp(a - alpha * x), np.exp(b - beta * y)
    whole = np.exp(e) + size + data
    size, data = size / whole, data / whole
    return np.log(whole) - target, np.stack(
        [1 - size - data, size, data, -x * size, -y * data], axis=1
    )
