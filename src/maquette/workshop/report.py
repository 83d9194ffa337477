"""The report of a run: one HTML file that needs no network, and its pictures as PNG beside it.

Everything on it is read from the run's files, so it can be written again at any time.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from maquette.base.files import read_json, write_atomic
from maquette.base.version import __version__
from maquette.training.decide import load_decisions
from maquette.training.run import CORPUS, DECISIONS, OUTCOME, RunDirectory
from maquette.workshop import charts
from maquette.workshop.forecast import compared

EVALUATION, PLAN, REPORT = "evaluation.json", "plan.json", "report.html"
AUDIT, CHAT = "audit.json", "chat.json"
POINTS = 1500  # at most so many steps are drawn


def write_report(path: Path) -> Path:
    """Write `report.html` and `pictures/*.png` of a run; returns the page."""
    run = RunDirectory(path)
    recipe, records = run.recipe(), run.records()
    evaluation = _optional(run / EVALUATION)
    plan = _optional(run / PLAN) or compared(run)
    known = [r for r in records if r["loss"] is not None]
    pictures = {"loss": loss_chart(records, plan, recipe.unit)} if records else {}
    if evaluation:
        pictures["bits"] = bits_chart(evaluation)
    if records:
        pictures["health"] = health_chart(records)
    for name, chart in pictures.items():
        write_atomic(run / "pictures" / f"{name}.png", charts.png(chart))
    environment = Environment(
        loader=PackageLoader("maquette.workshop", "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        version=__version__,
        name=path.resolve().name,
        recipe=recipe,
        recipe_yaml=yaml.safe_dump(recipe.to_dict(), sort_keys=False),
        decisions=load_decisions(run / DECISIONS),
        corpus=read_json(run / CORPUS),
        outcome=_optional(run / OUTCOME),
        first=known[0] if known else None,
        last=known[-1] if known else None,
        seconds=sum(r["seconds"] for r in records),
        events=run.events(),
        evaluation=evaluation,
        audit=_audit(run),
        chat=_optional(run / CHAT),
        plan=plan,
        samples=_samples(run),
        grids=_grids(run),
        unit=recipe.unit,
        specs={name: charts.spec(chart) for name, chart in pictures.items()},
        javascript=charts.javascript(),
    )
    write_atomic(run / REPORT, page)
    return run / REPORT


def loss_chart(
    records: list[dict[str, Any]], plan: dict[str, Any] | None, unit: str = "tokens"
) -> Any:
    """Training loss of every step, held-out loss, and the plan's prediction at the end."""
    thin = records[:: max(1, len(records) // POINTS)]
    points = [
        {"tokens": r[unit], "loss": r["loss"], "what": "training"}
        for r in thin
        if r["loss"] is not None
    ]
    heldout = [
        {"tokens": r[unit], "loss": r["heldout_loss"], "what": "held out"}
        for r in records
        if r.get("heldout_loss") is not None
    ]
    x = alt.X("tokens:Q", title=f"training {unit}", axis=alt.Axis(format="~s", tickCount=6))
    title = "loss (nats a token)" if unit == "tokens" else "loss (a picture)"
    y = alt.Y("loss:Q", title=title, scale=alt.Scale(zero=False))
    color = alt.Color("what:N", title=None)
    layers = [
        alt.Chart(alt.Data(values=points)).mark_line(opacity=0.5).encode(x=x, y=y, color=color),
        alt.Chart(alt.Data(values=heldout))
        .mark_line(point=True)
        .encode(x=x, y=y, color=color, tooltip=["tokens:Q", "loss:Q"]),
    ]
    if plan and plan.get("loss_predicted") is not None:
        mark = [
            {
                "tokens": records[-1][unit],
                "loss": plan["loss_predicted"],
                "low": plan["loss_low"],
                "high": plan["loss_high"],
                "what": "predicted",
            }
        ]
        base = alt.Chart(alt.Data(values=mark))
        layers.append(base.mark_errorbar(thickness=2).encode(
            x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=color))  # fmt: skip
        layers.append(
            base.mark_point(shape="diamond", size=120, filled=True).encode(x=x, y=y, color=color)
        )
    return alt.layer(*layers).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="Loss while training"
    )


def bits_chart(evaluation: dict[str, Any]) -> Any:
    """Bits per byte of each component, the model beside the compressors."""
    rows = [
        {"text": name, "bits": score["bits_per_byte"], "by": "this model"}
        for name, score in evaluation["scores"].items()
    ]
    for name, values in evaluation["compressors"].items():
        rows += [{"text": text, "bits": bits, "by": name} for text, bits in values.items()]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("bits:Q", title="bits per byte of held-out text (less is better)"),
            y=alt.Y("by:N", title=None, sort=["this model"], axis=None),
            color=alt.Color("by:N", title=None, sort=["this model"]),
            row=alt.Row("text:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left")),
            tooltip=["text:N", "by:N", alt.Tooltip("bits:Q", format=".3f")],
        )
        .properties(width=charts.WIDTH - 80, height=54, title="Beside the compressors")
    )


def health_chart(records: list[dict[str, Any]]) -> Any:
    """Gradient norm and learning rate."""
    thin = records[:: max(1, len(records) // POINTS)]
    x = alt.X("step:Q", title="step")

    def line(field: str, title: str) -> Any:
        rows = [{"step": r["step"], "value": r[field]} for r in thin if r[field] is not None]
        return (
            alt.Chart(alt.Data(values=rows))
            .mark_line()
            .encode(x=x, y=alt.Y("value:Q", title=title))
            .properties(width=(charts.WIDTH - 70) // 2, height=160)
        )

    return alt.hconcat(
        line("gradient_norm", "gradient norm"), line("learning_rate", "learning rate")
    )


def _audit(run: RunDirectory) -> dict[str, Any] | None:
    """`audit.json`, its texts cut into marked and unmarked pieces."""
    page = _optional(run / AUDIT)
    if page is None:
        return None
    if page["portrait"]:
        for asked in page["portrait"]["asked"]:
            asked["pieces"] = _pieces(asked["text"], asked["spans"])
    if page["trace"]:
        spans = [(span["start"], span["end"]) for span in page["trace"]["spans"]]
        page["trace"]["pieces"] = _pieces(page["trace"]["text"], spans)
    return page


def _pieces(text: str, spans: Sequence[Sequence[int]]) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether a span holds it."""
    pieces, at = [], 0
    for start, end in sorted(map(tuple, spans)):
        if end > at:
            pieces += [(text[at : max(at, start)], False), (text[max(at, start) : end], True)]
            at = end
    return [*pieces, (text[at:], False)]


def _samples(run: RunDirectory) -> list[tuple[int, str]]:
    """First, middle and last sample."""
    files = sorted((run / "samples").glob("step-*.txt"))
    chosen = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})] if files else []
    return [(int(f.stem.removeprefix("step-")), f.read_text(encoding="utf-8")) for f in chosen]


def _grids(run: RunDirectory) -> list[tuple[int, str]]:
    """First, middle and last grid of pictures, as data URLs."""
    files = sorted((run / "samples").glob("step-*.png"))
    chosen = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})] if files else []
    return [
        (
            int(f.stem.removeprefix("step-")),
            "data:image/png;base64," + base64.b64encode(f.read_bytes()).decode(),
        )
        for f in chosen
    ]


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None
