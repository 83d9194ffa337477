"""Prompt tuning: a few vectors before the first token, and the gap to full tuning closes with size.

    maquette adapt prompt RUN questions.jsonl --prompts 10
    maquette reproduce prompt_tuning      about 40 minutes on 2 cores, 3 seeds

Lester et al. (2021) train 100 vectors before the input of a frozen T5 on SuperGLUE: far behind full tuning at
60 million parameters, level with it at 11 billion (figure 1). Scaled down: decoders of width 48, 96 and 192
(0.1 to 1.9 million parameters) that write passages of known style (`worlds/styles.py`); 10 vectors learn two
tasks about passages (mood, age of language) from 1,000 labelled ones. What is measured is the share of full
fine-tuning's gain over the base. 11 billion are out of reach here: whether the gap shrinks with size is what
can be asked, not whether it closes.

Expected: not measured yet.
"""

from typing import Any

import altair as alt
import numpy as np

from maquette.base.statistics import mean_interval
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.style_arms import Arm, accuracies, base_name
from maquette.workshop import charts

WIDTHS = (48, 96, 192)
TASKS = ("style_mood", "style_age")
PROMPT = {w: Arm(f"prompt {w}", "prompt", 0.1, w) for w in WIDTHS}
FULL = {w: Arm(f"full {w}", "full", 0.003, w) for w in WIDTHS}
UNTRAINED = {w: Arm(f"prompt {w}, untrained", "prompt", 0.1, w, trained=False) for w in WIDTHS}


@claim(
    statement="the larger the model, the more of full tuning's gain prompt tuning has",
    source="Lester et al. 2021, figure 1",
    metric="prompt tuning's share of full tuning's gain at width 192 less that at width 48, mean over two "
    "tasks and the seeds: low end of the 95 % interval",
    at_least=0.0,
    control="the same, of bases that were never trained",
    minutes=20,
)
def scale(lab: Lab) -> Measurement:
    """Three seeds of three sizes."""
    seeds = lab.seeds if lab.quick else max(3, lab.seeds)
    wide = Lab(seeds, lab.quick, lab.say)
    wide.bases = lab.bases
    arms = [arm for table in (PROMPT, FULL, UNTRAINED) for arm in table.values()]
    found = accuracies(wide, arms, TASKS)
    shares = {w: _share(found, PROMPT[w], FULL[w]) for w in WIDTHS}
    untrained = {w: _share(found, UNTRAINED[w], FULL[w]) for w in WIDTHS}
    middle, low, high = mean_interval(shares[WIDTHS[-1]] - shares[WIDTHS[0]])
    control = mean_interval(untrained[WIDTHS[-1]] - untrained[WIDTHS[0]])[1]
    return Measurement(
        value=low,
        control=control,
        interval=(low, high),
        details={"difference, mean": middle}
        | {f"share at width {w}": float(shares[w].mean()) for w in WIDTHS}
        | {f"share at width {w}, untrained": float(untrained[w].mean()) for w in WIDTHS},
        chart=_chart(shares, untrained),
        seeds=seeds,
    )


def _share(
    found: dict[str, dict[str, list[float]]], arm: Arm, full: Arm
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """An arm's gain over its base, of full tuning's gain over the trained base: a number a seed."""
    gain = np.array([np.subtract(found[arm.name][t], found[base_name(arm)][t]) for t in TASKS])
    whole = np.array([np.subtract(found[full.name][t], found[base_name(full)][t]) for t in TASKS])
    return np.asarray(gain.mean(0) / max(1e-9, float(whole.mean())))


def _chart(shares: Any, untrained: Any) -> Any:
    """The share of the gain by width, trained bases and untrained ones."""
    rows = [
        {"width": w, "share": float(value), "base": name}
        for name, table in (("trained", shares), ("untrained", untrained))
        for w, values in table.items()
        for value in values
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("width:O", title="width of the model"),
            y=alt.Y("share:Q", title="share of full tuning's gain"),
            color=alt.Color("base:N", title="base"),
        )
        .properties(width=charts.WIDTH, height=charts.HEIGHT)
    )
