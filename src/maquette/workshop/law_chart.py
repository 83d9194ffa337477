"""Charts of scaling laws: points with their fits, and the losses of a budget."""

import math
from typing import Any

import numpy as np

from maquette.scaling.approaches import Comparison, Minimum
from maquette.scaling.fit import Fit
from maquette.scaling.fit_points import Array, Points
from maquette.scaling.laws import ScalingLaw
from maquette.workshop import charts

TOLERATED = 0.01
"""relative loss above the best that still counts as near"""
STEPS = 121
SIZES = "parameters (the rest of the budget goes to tokens)"


def fit_chart(points: Points, fit: Fit | None, comparison: Comparison) -> Any:
    """Losses over operations, coloured by size; the IsoFLOP parabolas and their minima; the frontier."""
    ends = points.ends()
    panels = [_measured(ends, fit)]
    if minima := comparison.approaches[1].minima:
        panels.append(_parabolas(comparison.points, minima, comparison))
    return _stacked(panels)


def budget_chart(
    law: ScalingLaw, flops: float, chosen: tuple[float, float], unit: str = "nats a token"
) -> Any:
    """Loss over the size of the model at one budget, and the least loss over budgets about it.

    chosen: parameters and tokens of the model that is going to be trained.
    """
    import altair as alt

    best, tokens = law.best(flops)
    sizes = np.geomspace(best / 30, best * 30, STEPS)
    losses = np.array([law.loss(n, flops / 6 / n) for n in sizes])
    least = law.loss(best, tokens)
    curve = _values(parameters=sizes, loss=losses)
    marks = [
        {"parameters": best, "loss": least, "what": "compute-optimal"},
        {"parameters": chosen[0], "loss": law.loss(*chosen), "what": "chosen"},
    ]
    shown = [float(min(losses.min(), least) * 0.99), float(losses.max() * 1.01)]
    x = _log_x("parameters", SIZES, sizes)
    y = alt.Y("loss:Q", title=f"loss ({unit})", scale=alt.Scale(domain=shown, zero=False))
    layers = [
        alt.Chart(alt.Data(values=curve)).mark_line(color=charts.SECOND).encode(x, y),
        alt.Chart(alt.Data(values=marks)).mark_point(filled=True, size=90).encode(
            x, y, alt.Color("what:N", title=None, sort=["compute-optimal", "chosen"])
        ),
    ]  # fmt: skip
    near = sizes[losses <= (1 + TOLERATED) * losses.min()]
    if len(near) and near[0] > sizes[0] and near[-1] < sizes[-1]:
        band = [{"low": float(near[0]), "high": float(near[-1])}]
        layers.insert(
            0,
            alt.Chart(alt.Data(values=band))
            .mark_rect(color=charts.FAINT, opacity=0.25)
            .encode(_log_x("low", SIZES, sizes), alt.X2("high:Q")),
        )
    upper = alt.layer(*layers).properties(
        width=charts.WIDTH,
        height=charts.HEIGHT,
        title=f"{flops:.3g} FLOP: loss by size; grey costs at most {TOLERATED:.0%} more loss",
    )
    return _stacked([upper, _frontier_panel(law, flops, chosen, unit)])


def _frontier_panel(law: ScalingLaw, flops: float, chosen: tuple[float, float], unit: str) -> Any:
    import altair as alt

    budgets = np.geomspace(flops / 10, flops * 10, STEPS)
    losses = np.array([law.loss(*law.best(c)) for c in budgets])
    mark = [{"flops": flops, "loss": law.loss(*chosen)}]
    x = _log_x("flops", "budget (FLOP)", budgets)
    y = alt.Y("loss:Q", title=f"least loss ({unit})", scale=alt.Scale(zero=False))
    return alt.layer(
        alt.Chart(alt.Data(values=_values(flops=budgets, loss=losses)))
        .mark_line(color=charts.SECOND)
        .encode(x, y),
        alt.Chart(alt.Data(values=mark))
        .mark_point(filled=True, size=90, color=charts.ACCENT)
        .encode(x, y),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT // 2, title="A tenth of the budget to ten times it"
    )


def _measured(ends: Points, fit: Fit | None) -> Any:
    """Every run, and the loss of the best split at each number of operations."""
    import altair as alt

    runs = _values(flops=ends.flops, loss=ends.loss, parameters=ends.parameters)
    x = _log_x("flops", "operations (FLOP)", ends.flops)
    y = alt.Y("loss:Q", title="loss", scale=alt.Scale(type="log", zero=False, nice=False))
    color = alt.Color(
        "parameters:Q", title="parameters", scale=alt.Scale(type="log", scheme="viridis"),
        legend=alt.Legend(format="~s", labelExpr="replace(datum.label, 'G', 'B')"),
    )  # fmt: skip
    layers = [alt.Chart(alt.Data(values=runs)).mark_point(filled=True, size=40).encode(x, y, color)]
    title = f"{len(ends)} runs"
    if fit is not None and not fit.undetermined:
        budgets = np.geomspace(ends.flops.min(), ends.flops.max(), STEPS)
        losses = np.array([fit.law.loss(*fit.law.best(c)) for c in budgets])
        layers.append(
            alt.Chart(alt.Data(values=_values(flops=budgets, loss=losses)))
            .mark_line(color=charts.ACCENT, strokeDash=[6, 4])
            .encode(x, y)
        )
        title += ", and the least loss that the fitted surface allows"
    return alt.layer(*layers).properties(width=charts.WIDTH, height=charts.HEIGHT, title=title)


def _parabolas(ends: Points, minima: list[Minimum], comparison: Comparison) -> Any:
    """Loss over size at each budget, the parabola, its minimum; and where each approach says it lies."""
    import altair as alt

    from maquette.scaling.approaches import budgets

    lines: list[dict[str, Any]] = []
    dots: list[dict[str, Any]] = []
    for rows, minimum in zip(budgets(ends), minima, strict=True):
        group, name = ends.take(rows), f"{minimum.flops:.2g}"
        dots += [
            d | {"budget": name} for d in _values(parameters=group.parameters, loss=group.loss)
        ]
        if minimum.curve[0] <= 0:
            continue
        sizes = np.geomspace(group.parameters.min(), group.parameters.max(), 31)
        losses = np.asarray(np.polyval(minimum.curve, np.log(sizes)), dtype=float)
        lines += [d | {"budget": name} for d in _values(parameters=sizes, loss=losses)]
    stars = [{"parameters": m.parameters, "loss": m.loss} for m in minima if m.interior]
    x = _log_x("parameters", "parameters", ends.parameters)
    y = alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False))
    order = [f"{minimum.flops:.2g}" for minimum in minima]
    color = alt.Color("budget:N", title="FLOP", sort=order, scale=alt.Scale(scheme="viridis"),
                      legend=alt.Legend() if len(order) <= 12 else None)  # fmt: skip
    a = ", ".join(
        f"{minimum.name} {minimum.a:.3f}"
        for minimum in comparison.approaches
        if minimum.a is not None
    )
    return alt.layer(
        alt.Chart(alt.Data(values=dots)).mark_point(filled=True, size=30).encode(x, y, color),
        alt.Chart(alt.Data(values=lines)).mark_line().encode(x, y, color),
        alt.Chart(alt.Data(values=stars))
        .mark_point(shape="diamond", size=90, filled=True, color=charts.ACCENT)
        .encode(x, y),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title=f"Equal budgets. N ~ C^a: {a or 'unknown'}"
    )


def _log_x(name: str, title: str, values: Array) -> Any:
    import altair as alt

    ends = [float(values.min()) / 1.1, float(values.max()) * 1.1]
    figures = ".0e" if name == "flops" else "~s"
    # a scale of whole decades has a label at each; a narrower one has them where they fit
    billions = "replace(datum.label, 'G', 'B')"
    axis = alt.Axis(
        format=figures, labelExpr=billions, tickCount=max(3, round(math.log10(ends[1] / ends[0])))
    )
    scale = alt.Scale(type="log", domain=ends, nice=False)
    return alt.X(f"{name}:Q", title=title, axis=axis, scale=scale)


def _values(**columns: Array) -> list[dict[str, float]]:
    names = list(columns)
    return [
        dict(zip(names, map(float, row), strict=True))
        for row in zip(*columns.values(), strict=True)
    ]


def _stacked(panels: list[Any]) -> Any:
    import altair as alt

    return alt.vconcat(*panels).resolve_scale(color="independent")
