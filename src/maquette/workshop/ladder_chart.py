"""The chart of a ladder: every budget's losses over its sizes, and the frontier of the minima."""

import math
from typing import Any

import numpy as np

from maquette.scaling.extrapolate import Ladder
from maquette.workshop import charts


def chart(ladder: Ladder, outcome: dict[str, Any] | None = None) -> Any:
    """IsoFLOP curves with their minima, above the frontier with its prediction.

    outcome: the outcome of a larger run from `run_ladder`, drawn beside the prediction.
    """
    both = curves(ladder) & frontier(ladder, outcome)
    return both.resolve_scale(color="independent", shape="independent")


def curves(ladder: Ladder) -> Any:
    """Loss over parameters, one colour a budget; crosses at the minima."""
    import altair as alt

    names = {m.flops: f"{m.flops:.1e}" for m in ladder.minima}
    points = [
        {"parameters": p.parameters, "loss": p.loss, "budget": names[p.flops]}
        for p in ladder.points
    ]
    lines, least = [], []
    for m in ladder.interior:
        mine = [p.parameters for p in ladder.points if p.flops == m.flops]
        for n in np.geomspace(min(mine), max(mine), 40):
            off = math.log(n / m.parameters)
            value = m.loss * (1 + m.curvature * off * off)
            if value < 1.06 * m.loss:
                lines.append({"parameters": n, "loss": value, "budget": names[m.flops]})
        least.append({"parameters": m.parameters, "loss": m.loss, "budget": names[m.flops]})
    x = alt.X("parameters:Q", title="parameters", axis=alt.Axis(format="~s"),
              scale=alt.Scale(type="log", nice=False))  # fmt: skip
    y = alt.Y("loss:Q", title="held-out loss (nats a token)", scale=alt.Scale(zero=False))
    color = alt.Color("budget:N", title="operations", sort=list(names.values()))
    kept = {"x": x, "y": y, "color": color}

    def layer(rows: list[dict[str, Any]]) -> Any:
        return alt.Chart(alt.Data(values=rows))

    return alt.layer(
        layer(points).mark_point(filled=True, size=40).encode(**kept),
        layer(lines).mark_line(strokeWidth=1.5).encode(**kept),
        layer(least).mark_point(shape="cross", filled=True, size=140).encode(**kept),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="Every budget has a best size (crosses)"
    )


def frontier(ladder: Ladder, outcome: dict[str, Any] | None = None) -> Any:
    """The minima's losses over operations, the law through them and its interval above them."""
    import altair as alt

    if len(ladder.interior) < 3 or ladder.minima[-1].edge:
        return alt.layer(alt.Chart(alt.Data(values=[])).mark_point()).properties(
            title="No frontier: minima are on an edge"
        )
    last = ladder.minima[-1].flops
    end = 6 * last if outcome is None else 1.5 * outcome["flops"]
    band = []
    for c in np.geomspace(ladder.minima[0].flops, end, 60):
        p = ladder.predict(c)
        band.append({"flops": c, "loss": p.loss, "low": p.low, "high": p.high})
    shown = [
        {"flops": m.flops, "loss": m.loss, "what": "minimum of a budget"} for m in ladder.interior
    ]
    if outcome is not None:
        shown.append({"flops": outcome["flops"], "loss": outcome["loss"], "what": "the larger run"})
        shown.append(
            {
                "flops": outcome["flops"],
                "loss": outcome["predicted"]["loss"],
                "what": "as predicted",
            }
        )
    x = alt.X("flops:Q", title="operations (6 N D)", axis=alt.Axis(format=".0e", tickCount=6),
              scale=alt.Scale(type="log", nice=False))  # fmt: skip
    y = alt.Y("loss:Q", title="held-out loss (nats a token)",
              scale=alt.Scale(type="log", zero=False, nice=False))  # fmt: skip
    rows = alt.Chart(alt.Data(values=band))
    return alt.layer(
        rows.mark_area(opacity=0.15, color=charts.SECOND).encode(
            x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q")
        ),
        rows.mark_line(color=charts.SECOND).encode(x=x, y=y),
        alt.Chart(alt.Data(values=shown))
        .mark_point(filled=True, size=80)
        .encode(x=x, y=y, color=alt.Color("what:N", title=None), shape=alt.Shape("what:N")),
    ).properties(
        width=charts.WIDTH,
        height=charts.HEIGHT,
        title=f"The frontier falls as C^{ladder.frontier.slope:.3f}",
    )
