"""The surface's solver beside the paper's: variable projection against L-BFGS from many starts.

    python benchmarks/fit.py                        245 planted points, 0.5 % noise
    python benchmarks/fit.py --starts 500           more of the paper's 4,500 starting points
    python benchmarks/fit.py --from CSV --columns parameters=...,flops=...,loss=... --drop 5

The points lie on Besiroglu et al.'s surface, over the range of their data. The objective is the sum of
Huber losses for both; `mean` minimises the same divided by the number of points, at torch's own
tolerances, and its row shows the sum at the point where it stopped. Seconds are the process' clock,
the least of three rounds for the solver and one round for L-BFGS; one thread.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from maquette.base.machine import processor
from maquette.scaling.fit import Fit, fit
from maquette.scaling.fit_points import Points, columns_from, points_of, read_points
from maquette.scaling.laws import Law, law
from maquette.scaling.lbfgs import lbfgs_fit

POINTS, NOISE, RESAMPLES = 245, 0.005, 100


def main() -> None:
    """Fit the same points every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=100, help="of L-BFGS")
    parser.add_argument("--from", dest="source", type=Path, help="a CSV of points instead")
    parser.add_argument("--columns", default="", help="its columns: parameters=NAME,...")
    parser.add_argument("--drop", type=int, default=0, help="leave out so many highest losses")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.source:
        names = columns_from(arguments.columns) if arguments.columns else None
        points = read_points(arguments.source, names)
    else:
        points = planted()
    points = points.ends().without_highest(arguments.drop)
    lbfgs_fit(points, "sum", starts=1)  # imports and warms up
    rows = {
        "variable projection": timed(lambda: fit(points, resamples=0), 3),
        f"the same, {RESAMPLES} resamples": timed(lambda: fit(points, resamples=RESAMPLES), 3),
        f"L-BFGS, sum, {arguments.starts} starts": timed(
            lambda: lbfgs_fit(points, "sum", starts=arguments.starts), 1
        ),
        f"L-BFGS, mean, {arguments.starts} starts": timed(
            lambda: lbfgs_fit(points, "mean", starts=arguments.starts), 1
        ),
    }
    print(f"{processor()}; {len(points)} points\n")
    print(f"{'':<28} {'seconds':>8} {'objective':>12} {'E':>7} {'A':>8} {'B':>9} {'alpha':>7} "
          f"{'beta':>7} {'a':>7}")  # fmt: skip
    for name, (seconds, found) in rows.items():
        c = found.law
        print(f"{name:<28} {seconds:>8.2f} {found.objective:>12.4e} {c.E:>7.4f} {c.A:>8.1f} {c.B:>9.1f} "
              f"{c.alpha:>7.4f} {c.beta:>7.4f} {c.exponent:>7.4f}")  # fmt: skip
    sure(rows[f"the same, {RESAMPLES} resamples"][1])
    kept = {
        name: {"seconds": seconds, "objective": found.objective} | found.law.constants()
        for name, (seconds, found) in rows.items()
    }
    print(json.dumps({"points": len(points), "fits": kept}))


def sure(found: Fit) -> None:
    """How sure the best size and the least loss of a budget are: deviations over the resamples."""
    e, a, b, alpha, beta = found.draws.T
    print("\nbudget    sd of log N*  sd of L*")
    for flops in 10.0 ** np.arange(18, 26):
        g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
        n = g * (flops / 6) ** (beta / (alpha + beta))
        loss = e + a / n**alpha + b / (flops / 6 / n) ** beta
        print(f"{flops:<9.0e} {np.std(np.log(n)):>11.3f} {np.std(loss):>10.4f}")


def planted() -> Points:
    """Points on the default law's surface."""
    truth, draw = law("besiroglu"), np.random.default_rng(0)
    assert isinstance(truth, Law)
    n, d = 10 ** draw.uniform(7.7, 10.2, POINTS), 10 ** draw.uniform(9, 11.7, POINTS)
    loss = truth.E + truth.A / n**truth.alpha + truth.B / d**truth.beta
    return points_of(n, d, loss * np.exp(NOISE * draw.normal(size=POINTS)), source="planted")


def timed(work: Callable[[], Fit], rounds: int) -> tuple[float, Fit]:
    """The least seconds of so many rounds, and the last answer."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        found = work()
        taken.append(time.process_time() - start)
    return min(taken), found


if __name__ == "__main__":
    main()
