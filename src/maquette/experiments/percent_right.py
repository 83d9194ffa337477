"""Percent of right answers by kind of question, of every seed: as a measurement and as bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.experiments.claims import Measurement
from maquette.workshop import charts

Percents = Sequence[Mapping[str, float]]
"""percent right by kind of question, of each seed"""


def percent(right: Sequence[bool]) -> float:
    """Percent of the answers that are right."""
    return 100 * float(np.mean(right))


def of_seeds(percents: Percents, kind: str) -> npt.NDArray[np.float64]:
    """Percent right of a kind of question, of every seed: (seeds,)."""
    return np.array([seed[kind] for seed in percents])


def over_seeds(
    value: npt.NDArray[np.float64],
    control: npt.NDArray[np.float64],
    details: Mapping[str, Any],
    chart: Any,
) -> Measurement:
    """The means of a metric and of its control, (seeds,) each, with the metric's lowest and highest seed."""
    return Measurement(
        value=float(value.mean()),
        control=float(control.mean()),
        interval=(float(value.min()), float(value.max())),
        details=dict(details),
        chart=chart,
    )


def bars(percents: Mapping[str, Percents], title: str, arm: str = "") -> Any:
    """Bars by kind of question and by arm, with a point for every seed. arm: title of the legend."""
    rows = [
        {"arm": name, "kind": kind, "right": right}
        for name, seeds in percents.items()
        for seed in seeds
        for kind, right in seed.items()
    ]
    kinds = list(dict.fromkeys(kind for seeds in percents.values() for kind in seeds[0]))
    names = list(percents)
    x = alt.X(
        "kind:N", title=None, sort=kinds, axis=alt.Axis(labelAngle=-30 if len(kinds) > 4 else 0)
    )
    offset = alt.XOffset("arm:N", sort=names)
    legend = None if len(names) == 1 else alt.Undefined
    color = alt.Color("arm:N", title=arm or None, sort=names, legend=legend)
    scale = alt.Scale(domain=[0, 100])
    base = alt.Chart(alt.Data(values=rows))
    return alt.layer(
        base.mark_bar(opacity=0.7).encode(
            x, alt.Y("mean(right):Q", title="right (%)", scale=scale), color, offset
        ),
        base.mark_point(filled=True, size=40, color=charts.INK).encode(
            x, alt.Y("right:Q", scale=scale), offset
        ),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT, title=title)
