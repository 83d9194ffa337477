"""The picture of a corpus' mixture: how much of each component there is, and how much is read."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from maquette.corpus.text.mixture import Row
from maquette.workshop import charts


def mixture_chart(rows: Sequence[Row]) -> Any:
    """A bar for each component's share of the raw bytes, and one for its share of what is written."""
    whole = max(1, sum(row.raw_bytes for row in rows))
    bars = []
    for row in rows:
        name = f"{row.component} ({row.epochs:.1f} epochs)"
        bars.append({"component": name, "what": "as found", "share": row.raw_bytes / whole})
        bars.append({"component": name, "what": "in the mixture", "share": row.weight})
    return _bars(bars, "Share of each component, by bytes", ["as found", "in the mixture"])


def corpus_chart(manifest: Mapping[str, Any]) -> Any:
    """The same from a corpus' manifest; a corpus without a mixture has one bar for each component."""
    if manifest.get("mixture"):
        return mixture_chart([Row(**row) for row in manifest["mixture"]])
    sizes = {
        name: count["train_bytes"] + count["heldout_bytes"]
        for name, count in manifest["components"].items()
    }
    whole = max(1, sum(sizes.values()))
    bars = [{"component": n, "what": "as found", "share": s / whole} for n, s in sizes.items()]
    return _bars(bars, "Share of each component, by bytes", ["as found"])


def _bars(bars: list[dict[str, Any]], title: str, kinds: list[str]) -> Any:
    return (
        alt.Chart(alt.Data(values=bars))
        .mark_bar()
        .encode(
            alt.X("share:Q", title="share of the bytes", axis=alt.Axis(format="%")),
            alt.Y("component:N", title=None, sort=None, axis=alt.Axis(labelLimit=240)),
            alt.YOffset("what:N", sort=kinds),
            alt.Color("what:N", title=None, sort=kinds,
                      legend=alt.Legend() if len(kinds) > 1 else None),
        )
        .properties(width=charts.WIDTH, height=alt.Step(18), title=title)
    )  # fmt: skip
