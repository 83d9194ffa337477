"""The picture of a task under stress: accuracy, and distance from the answer without context, by tokens."""

from collections.abc import Sequence
from typing import Any

from maquette.evaluation.tasks.stress import Stress
from maquette.workshop import charts


def stress_chart(found: Sequence[Stress]) -> Any:
    """A row of two charts for every task; the dashed line is the accuracy of the question alone."""
    import altair as alt

    return alt.vconcat(*(_row(one) for one in found))


def _row(one: Stress) -> Any:
    import altair as alt

    rows = [
        {"kind": kind, "tokens": p.tokens, "accuracy": p.accuracy, "distance": p.distance,
         "low": p.accuracy - (p.accuracy_stderr or 0), "high": p.accuracy + (p.accuracy_stderr or 0)}
        for kind, points in one.curves.items()
        for p in points
    ]  # fmt: skip
    x = alt.X("tokens:Q", title="tokens of garbage")
    base = alt.Chart(alt.Data(values=rows)).encode(x, alt.Color("kind:N", title=None))
    accuracy = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]))
    bars = base.mark_rule(opacity=0.5).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    prior = alt.Chart(alt.Data(values=[{"prior": one.prior}])).mark_rule(
        strokeDash=[6, 4], color=charts.ACCENT
    )
    title = f"{one.task}, {one.shots} shot{'s' * (one.shots != 1)}"
    size = {"width": charts.WIDTH // 2, "height": charts.HEIGHT * 2 // 3}
    left = alt.layer(
        bars, base.mark_line(point=True).encode(accuracy), prior.encode(alt.Y("prior:Q"))
    )
    distance = alt.Y("distance:Q", title="distance from no context", scale=alt.Scale(domain=[0, 1]))
    right = base.mark_line(point=True).encode(distance)
    return alt.hconcat(left.properties(title=title, **size), right.properties(**size))
