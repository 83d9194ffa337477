"""The picture of a comparison of methods: trained parameters against the score, and what is forgotten."""

from typing import Any

from maquette.workshop import charts
from maquette.workshop.adapt_compare import Comparison, forgotten


def compare_chart(found: Comparison) -> Any:
    """Two charts: score by trained parameters with 95 % intervals, and forgetting by score.

    The dashed line is the base's score.
    """
    import altair as alt

    rows = []
    for one in found.methods:
        error = 1.96 * (one["stderr_after"] or 0.0)
        after = one["metric_after"]
        rows.append({
            "method": one["method"], "trained": one["trained_parameters"], "score": after,
            "low": after - error, "high": after + error,
            "forgotten": forgotten(one) if one["forgetting"] else None,
        })  # fmt: skip
    metric = found.methods[0]["metric"]
    base = alt.Chart(alt.Data(values=rows))
    colour = alt.Color("method:N", title=None, legend=None)
    score = alt.Y("score:Q", title=metric, scale=alt.Scale(zero=False))
    trained = alt.X("trained:Q", title="trained parameters", scale=alt.Scale(type="log"))
    before = alt.Chart(alt.Data(values=[{"before": found.methods[0]["metric_before"]}]))
    left = alt.layer(
        base.mark_rule(opacity=0.5).encode(trained, alt.Y("low:Q"), alt.Y2("high:Q")),
        base.mark_point(filled=True, size=60).encode(trained, score, colour),
        base.mark_text(align="left", dx=7).encode(trained, score, text="method:N"),
        before.mark_rule(strokeDash=[6, 4], color=charts.FAINT).encode(alt.Y("before:Q")),
    )
    size = {"width": charts.WIDTH * 3 // 4, "height": charts.HEIGHT}
    if all(row["forgotten"] is None for row in rows):
        return left.properties(**size)
    lost = alt.X("forgotten:Q", title="bits per byte of the base's own text, more than before")
    right = alt.layer(
        base.mark_point(filled=True, size=60).encode(lost, score, colour),
        base.mark_text(align="left", dx=7).encode(lost, score, text="method:N"),
    )
    return alt.hconcat(left.properties(**size), right.properties(**size))
