"""The paper's own optimiser for its surface: L-BFGS over log-sum-exp, from many starts. The reference.

Minimises Huber(LSE(a - alpha log N, b - beta log D, e) - log L) with delta = 1e-3 (Hoffmann et al. 2022,
eq. 3). The objective has to be *summed*: averaged over the points it falls under the optimiser's
tolerance early, at a wrong answer, which is what Besiroglu et al. 2024 found in the original fit.
"""

import itertools
import math
from typing import Literal

import numpy as np

from maquette.scaling.fit import Fit, described
from maquette.scaling.fit_points import Points
from maquette.scaling.projection import DELTA


def lbfgs_fit(
    points: Points,
    reduction: Literal["sum", "mean"],
    *,
    starts: int = 20,
    iterations: int = 1000,
) -> Fit:
    """L-BFGS with torch's own tolerances, from `starts` of the paper's 4,500 starting points.

    reduction: what is made of the points' Huber losses. "mean" reproduces the early stop.
    """
    import torch

    exponent, level, height = (
        (0.0, 0.5, 1.0, 1.5, 2.0),
        (-1.0, -0.5, 0.0, 0.5, 1.0),
        range(0, 30, 5),
    )
    grid = list(itertools.product(level, height, height, exponent, exponent))
    chosen = [grid[int(i)] for i in np.linspace(0, len(grid) - 1, starts)]
    n, d, target = (
        torch.from_numpy(np.log(v)) for v in (points.parameters, points.tokens, points.loss)
    )
    best, minimum = math.inf, np.zeros(5)
    for start in chosen:
        theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([theta], max_iter=iterations, line_search_fn="strong_wolfe")

        def closure(theta: torch.Tensor = theta, optimiser: torch.optim.LBFGS = optimiser) -> float:
            optimiser.zero_grad()
            e, a, b, alpha, beta = theta
            terms = torch.stack([e.expand(len(n)), a - alpha * n, b - beta * d])
            error = torch.nn.functional.huber_loss(
                torch.logsumexp(terms, 0), target, reduction=reduction, delta=DELTA
            )
            error.backward()
            return float(error.detach())

        optimiser.step(closure)
        value = closure()
        if value < best:
            best, minimum = value, theta.detach().numpy().copy()
    e, a, b, alpha, beta = minimum
    centred = [
        e,
        a - alpha * np.log(points.parameters).mean(),
        b - beta * np.log(points.tokens).mean(),
    ]
    return described(
        np.array([*centred, alpha, beta]), points, np.zeros((0, 5)), f"l-bfgs {reduction}"
    )
