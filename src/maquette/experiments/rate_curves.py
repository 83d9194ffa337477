"""Loss over the learning rate, for models that differ in one thing: grids that grow, and a picture.

A grid starts the same for all and grows until it has two points beyond its best on each side; a
parabola through three points of the mean over seeds places the optimum between them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.experiments.lab import Lab
from maquette.training.recipe import LanguageRecipe
from maquette.training.run import RunDirectory
from maquette.workshop import charts
from maquette.workshop.optimum import find_optimum

BEYOND = 2
"""number of points that a grid must have beyond its best on each side"""
FURTHEST = (-14, -1)
"""least and greatest log2 of a rate, where a grid stops growing"""
LAST = 20
"""number of training losses whose mean is a run's loss"""
Array = npt.NDArray[np.float64]
Setting = tuple[str, int, int]
"""rules, width, depth"""


@dataclass(frozen=True)
class Curve:
    """Loss over the learning rate of one setting."""

    rates: tuple[int, ...]
    """log2 of the learning rates, ascending"""
    losses: Array
    """training losses (seeds, rates); infinite where a run diverged"""

    def best(self, seed: int | None = None) -> float:
        """log2 of the best rate between the grid's points, for the mean over seeds or for one seed."""
        losses = self.losses.mean(0) if seed is None else self.losses[seed]
        return math.log2(find_optimum([2.0**r for r in self.rates], losses.tolist()).value)

    @property
    def grid_best(self) -> int:
        """log2 of the best rate that was tried."""
        return self.rates[int(self.losses.mean(0).argmin())]

    def at(self, rate: int) -> Array:
        """Losses at one rate: (seeds,)."""
        return self.losses[:, self.rates.index(rate)]


def rate_curves(
    lab: Lab,
    make: Callable[[Setting, int, int], LanguageRecipe],
    wanted: Sequence[Setting],
    rates: Sequence[int],
    grow: bool,
) -> dict[Setting, Curve]:
    """Train every setting over its grid of log2 rates, which may grow until its best lies inside.

    make: the recipe of a setting at a rate with a seed.
    """
    grids = dict.fromkeys(wanted, tuple(rates))
    while True:
        jobs = [
            (setting, rate, seed)
            for setting, grid in grids.items()
            for rate in grid
            for seed in range(lab.seeds)
        ]
        paths = lab.train_all([make(*job) for job in jobs])
        losses = {job: loss_of(path) for job, path in zip(jobs, paths, strict=True)}
        curves = {
            setting: Curve(
                grid,
                np.array([[losses[setting, r, seed] for r in grid] for seed in range(lab.seeds)]),
            )
            for setting, grid in grids.items()
        }
        grown = _grown(curves) if grow else {}
        if all(grown.get(setting, grid) == grid for setting, grid in grids.items()):
            return curves
        grids |= grown


def _grown(curves: dict[Setting, Curve]) -> dict[Setting, tuple[int, ...]]:
    """The grids with as many points beyond their bests as they should have.

    All reach the best of the first setting of each kind of rules: the others are asked how they do
    `at` it.
    """
    firsts: dict[str, int] = {}
    for (rules, _, _), curve in curves.items():
        firsts.setdefault(rules, curve.grid_best)
    grids = {}
    for setting, curve in curves.items():
        best = curve.grid_best
        least = max(FURTHEST[0], min(curve.rates[0], best - BEYOND))
        most = min(FURTHEST[1], max(curve.rates[-1], best + BEYOND))
        grids[setting] = tuple(range(min(least, *firsts.values()), max(most, *firsts.values()) + 1))
    return grids


@functools.lru_cache(maxsize=4096)
def _recorded(path: str) -> tuple[float, ...]:
    """The training losses of a finished run."""
    losses = [record["loss"] for record in RunDirectory(path).records()]
    return tuple(math.inf if x is None or not math.isfinite(x) else float(x) for x in losses)


def loss_of(path: Path, part: float = 1.0) -> float:
    """Mean of the last 20 losses up to that part of a run."""
    losses = _recorded(str(path))
    end = round(part * len(losses))
    recent = losses[max(0, end - LAST) : end]
    return sum(recent) / len(recent)


def rate_chart(curves: dict[Setting, Curve], dimension: str) -> Any:
    """Loss over the rate, a line a size and a panel a kind of rules; rings mark the best."""
    rows, best = [], []
    for (rules, width, depth), curve in curves.items():
        size = width if dimension == "width" else depth
        mean = curve.losses.mean(0)
        for rate, loss in zip(curve.rates, mean.tolist(), strict=True):
            if math.isfinite(loss):
                row = {"rate": 2.0**rate, "loss": loss, "size": str(size), "rules": rules}
                rows.append(row)
                if rate == curve.grid_best:
                    best.append(row)
    sizes = sorted({row["size"] for row in rows}, key=int)
    x = alt.X("rate:Q", title="learning rate at the base", axis=alt.Axis(format=".2~g", tickCount=6),
              scale=alt.Scale(type="log", base=2, nice=False))  # fmt: skip
    y = alt.Y("loss:Q", title="training loss (nats a byte)", scale=alt.Scale(zero=False))
    color = alt.Color("size:O", title=dimension, sort=sizes, scale=alt.Scale(scheme="viridis"))
    panels = []
    for rules in dict.fromkeys(row["rules"] for row in rows):
        chosen = [row for row in rows if row["rules"] == rules]
        least = [row for row in best if row["rules"] == rules]
        lines = alt.Chart(alt.Data(values=chosen)).mark_line(point=True)
        rings = alt.Chart(alt.Data(values=least)).mark_point(size=160, color=charts.ACCENT)
        panels.append(
            alt.layer(lines.encode(x, y, color), rings.encode(x, y)).properties(
                width=charts.WIDTH // 2, height=charts.HEIGHT, title=rules
            )
        )
    return alt.hconcat(*panels).resolve_scale(y="shared")
