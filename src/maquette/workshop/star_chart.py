"""The picture of a model that teaches itself: accuracy by loop, and what each loop has kept."""

from typing import Any

from maquette.workshop import charts
from maquette.workshop.adapt_star import Loop

KEPT = "right without a hint", "right with the answer shown"


def star_chart(loops: list[Loop]) -> Any:
    """Two charts: held-out accuracy by loop with 95 % intervals, and the shares that were kept."""
    import altair as alt

    scored, kept = [], []
    for one in loops:
        low, high = one.heldout.interval
        scored.append({"loop": one.loop, "accuracy": one.heldout.value, "low": low, "high": high})
        for name, count in zip(KEPT, (one.kept, one.rationalised), strict=True):
            if one.asked:
                kept.append({"loop": one.loop, "share": count / one.asked, "kept": name})
    size = {"width": charts.WIDTH * 3 // 4, "height": charts.HEIGHT}
    loop = alt.X("loop:O", title="loop", axis=alt.Axis(labelAngle=0))
    base = alt.Chart(alt.Data(values=scored))
    title = "held-out questions answered right"
    whole = alt.Scale(domain=[0, 1])
    left = alt.layer(
        base.mark_rule(color=charts.SECOND, opacity=0.5).encode(
            loop, alt.Y("low:Q", title=title, scale=whole), alt.Y2("high:Q")
        ),
        base.mark_line(point=True, color=charts.SECOND).encode(loop, alt.Y("accuracy:Q")),
    ).properties(**size)
    colour = alt.Color("kept:N", title=None, sort=list(KEPT))
    right = (
        alt.Chart(alt.Data(values=kept))
        .mark_bar()
        .encode(loop, alt.Y("share:Q", title="questions kept", scale=whole), colour)
        .properties(**size)
    )
    return alt.hconcat(left, right)
