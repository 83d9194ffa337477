"""The chart of a sweep: loss over the first field, a line per round, and the best point."""

import math
from typing import Any

from maquette.workshop import charts
from maquette.workshop.sweep import Found
from maquette.workshop.sweep_plan import Plan


def sweep_chart(plan: Plan, result: Found) -> Any:
    """Every finite trial as a point; several fields: the others are in no line, only in points."""
    import altair as alt

    name = plan.axes[0].name
    rows = [
        {name: t.point[name], "loss": t.loss, "steps": f"{t.steps:,} steps"}
        for t in result.trials
        if math.isfinite(t.loss)
    ]
    numbers = all(isinstance(row[name], int | float) and row[name] > 0 for row in rows)
    escaped = name.replace(".", "\\.")
    x = alt.X(
        f"{escaped}:{'Q' if numbers else 'N'}",
        title=name,
        scale=alt.Scale(type="log", nice=False) if numbers else alt.Undefined,
        axis=alt.Axis(format=".2~g", labelOverlap="greedy") if numbers else alt.Undefined,
    )
    y = alt.Y("loss:Q", title="training loss (nats)", scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows)).encode(x, y, alt.Color("steps:N", title=None))
    layers = [base.mark_point(filled=True, size=60)]
    if len(plan.axes) == 1 and numbers:
        layers.append(base.mark_line())
    if result.optimum is not None:
        best = [{name: result.optimum.value}]
        rule = alt.Chart(alt.Data(values=best)).mark_rule(strokeDash=[6, 4], color=charts.ACCENT)
        layers.append(rule.encode(x))
    depth = plan.depth or plan.recipe.model.depth
    title = f"{plan.recipe.name} at width {plan.width}, depth {depth}"
    return alt.layer(*layers).properties(width=charts.WIDTH, height=charts.HEIGHT, title=title)
