"""Gated models: not a byte of a run for who was not accepted, and none from the revocation on.

    maquette reproduce gated_hub            about a minute on 2 cores, 2 seeds
    maquette gate ask|accept|reject|revoke RUN NAME

Hugging Face's hub holds models whose files are given only to users whose request for access was accepted;
the author may reject a request, and revoke what was accepted; names are listed for all. Ours gates what is
served: the run's text, tokens, embeddings, metrics and report. Scaled down: two small runs, the server in
this process, random sequences of decisions and requests by two users with keys, one without, and one with
a wrong key.

A leak is told without a list of secrets: two servers stand side by side that differ in the gated run alone,
and get the same decisions and requests. An answer to a caller who is not accepted must be the same in both,
to the last byte of its status, header fields and body. Only numbers are left out of /metrics, which counts
requests and seconds. Left out too: an answer that was begun before a revocation is finished.

Expected: none of either kind; with the check off every route of the run leaks.
"""

from collections import Counter
from typing import Any

import altair as alt

from maquette.experiments.claims import Measurement, claim
from maquette.experiments.gate_play import ROUTES, played
from maquette.experiments.lab import Lab
from maquette.workshop import charts


@claim(
    statement="nobody sees a byte of a gated run before being accepted, whoever is accepted is answered",
    source="Hugging Face hub, Gated models",
    metric="answers that depend on the run for callers not accepted, and refusals of accepted ones",
    at_most=0,
    control="the same requests with the gate's check off",
    evidence="exact count",
    minutes=1,
)
def no_leak(lab: Lab) -> Measurement:
    """Play random sequences of decisions and requests, with the check and without."""
    on, off = played(lab, "on"), played(lab, "off")
    return Measurement(
        value=float(on.leaks.total() + on.refused),
        control=float(off.leaks.total()),
        details={
            "requests of callers not accepted": on.requests,
            "requests of accepted callers": on.accepted,
            "leaks by route, check off": dict(off.leaks),
        },
        chart=routes_chart({"check on": on.leaks, "check off": off.leaks}),
    )


@claim(
    statement="a revocation holds from the next request on",
    source="Hugging Face hub, Gated models: an author may remove access at any time",
    metric="answers that depend on the run in the request that comes next after a revocation",
    at_most=0,
    control="who was admitted once is remembered",
    evidence="exact count",
    minutes=1,
)
def revocation(lab: Lab) -> Measurement:
    """Let every user who is revoked ask at once."""
    on, remembered = played(lab, "on"), played(lab, "remembered")
    return Measurement(
        value=float(on.late),
        control=float(remembered.late),
        details={"revocations": on.revocations},
        chart=bars({"log read at every request": on.late, "admission remembered": remembered.late},
                   "answers after a revocation"),
    )  # fmt: skip


@claim(
    statement="the log of decisions only grows, by one line for each, and says who is admitted",
    source="reports of access to gated models on Hugging Face's hub",
    metric="changes after which the log is not what it was and the line that is due",
    at_most=0,
    control="a file of the present states in its place",
    evidence="exact count",
    minutes=1,
)
def append_only(lab: Lab) -> Measurement:
    """Compare the log before and after every change, those that must be refused among them."""
    on = played(lab, "on")
    return Measurement(
        value=float(on.not_appended),
        control=float(on.rewritten),
        details={"changes": on.changes},
        chart=bars({"log": on.not_appended, "file of states": on.rewritten},
                   "changes that lost what was written"),
    )  # fmt: skip


def routes_chart(leaks: dict[str, Counter[str]]) -> Any:
    """Leaks by route, with the check and without."""
    rows = [
        {"route": route, "check": check, "leaks": counted[route]}
        for check, counted in leaks.items()
        for route in ROUTES
    ]
    y = alt.Y("route:N", title=None, sort=list(ROUTES), axis=alt.Axis(labelLimit=260))
    color = alt.Color("check:N", title=None, sort=list(leaks))
    x = alt.X("leaks:Q", title="answers that depend on the run")
    chart = alt.Chart(alt.Data(values=rows)).mark_bar().encode(x, y, color)
    return chart.properties(
        width=charts.WIDTH, title="What callers see who were not accepted, by route"
    )


def bars(values: dict[str, int], title: str) -> Any:
    """A bar for each."""
    rows = [{"arm": arm, "count": count} for arm, count in values.items()]
    text = alt.Chart(alt.Data(values=rows)).mark_text(align="left", dx=4)
    x, y = alt.X("count:Q", title=title), alt.Y("arm:N", title=None, sort=list(values))
    chart = alt.Chart(alt.Data(values=rows)).mark_bar().encode(x, y)
    return alt.layer(chart, text.encode(x, y, alt.Text("count:Q"))).properties(
        width=charts.WIDTH, height=80, title=title.capitalize()
    )
