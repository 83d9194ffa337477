"""LoRA: low-rank changes of a frozen model's matrices do what training all of it does (Hu et al. 2021).

    maquette adapt lora RUN questions.jsonl
    maquette reproduce lora               about 40 minutes on 2 cores, 2 seeds

The paper adapts GPT-3 and smaller models with B A added to their attention's matrices, B from zero, at a
10,000th of the parameters and without loss against full fine-tuning; merged into the weights, it costs
nothing when the model is used. Scaled down: a decoder of 1.9 million parameters that writes passages of
known style (`worlds/styles.py`), four tasks about passages of 1,000 labelled ones each (topic, mood, age of
language, a name), of which it can tell none before; rank 2 in every matrix of the blocks, 0.6 % of the
parameters. Rates were chosen on the task of names with another seed.

Expected: not measured yet.
"""

from typing import Any

import altair as alt
import numpy as np
import torch

from maquette.adaptation.adapters.adapter import adapters_of
from maquette.adaptation.adapters.lora import Merged
from maquette.adaptation.methods import count
from maquette.base.statistics import mean_interval
from maquette.evaluation.tasks.load import open_task
from maquette.experiments.bases.styles import TASKS
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.style_arms import Arm, accuracies, adapted, base_name, base_recipe
from maquette.workshop import charts
from maquette.workshop.load import load

WIDTH, MOST = 192, 0.02
LORA = Arm("lora", "lora", 0.01, WIDTH)
FULL = Arm("full", "full", 0.003, WIDTH)
UNTRAINED = Arm("lora, untrained base", "lora", 0.01, WIDTH, trained=False)


@claim(
    statement="with at most 2 % of the parameters LoRA gains what training all of them gains",
    source="Hu et al. 2021, tables 2 to 4",
    metric="gain of LoRA over the base, of the gain of full fine-tuning: mean over four tasks and the seeds; "
    "minus infinity where it trains more than 2 % of the parameters",
    at_least=0.95,
    control="LoRA on a base that was never trained",
    minutes=15,
)
def gain(lab: Lab) -> Measurement:
    """Accuracy on 500 held-out questions of every task, before and after."""
    found = accuracies(lab, (LORA, FULL, UNTRAINED), TASKS)
    base = np.array([found[base_name(LORA)][task] for task in TASKS])
    full, lora, control = (
        np.array([found[arm.name][task] for task in TASKS]) for arm in (FULL, LORA, UNTRAINED)
    )
    whole = float((full - base).mean())
    middle, low, high = mean_interval(((lora - base) / whole).mean(0)) if whole else (0.0, 0.0, 0.0)
    config = base_recipe(LORA, 0, lab.quick).model
    counted = count(config, LORA.options(0, lab.quick).adapter("text"))
    fits = counted.share <= MOST or lab.quick
    return Measurement(
        value=middle if fits else float("-inf"),
        control=float((control - base).mean()) / whole if whole else 0.0,
        interval=(low, high),
        details={"trained, share of the parameters": counted.share}
        | {
            f"{arm}, {task}": float(np.mean(v))
            for arm, of in found.items()
            for task, v in of.items()
        },
        chart=_chart(found),
    )


@claim(
    statement="merged into the weights, the change is what it was beside them",
    source="Hu et al. 2021, section 4.1",
    metric="largest difference of a logit, merged and not, fp32",
    at_most=1e-4,
    control="merged with twice the scale",
    minutes=1,
    evidence="exact count",
)
def merged(lab: Lab) -> Measurement:
    """LoRA of the first task, on every seed; text is its held-out questions."""
    differences, doubled = [], []
    for path in adapted(lab, (LORA,), TASKS[:1]).values():
        run = load(path)
        text = open_task(TASKS[0]).questions(8)
        rows = [run.tokenizer.encode(one.text)[:40] for one in text]
        tokens = torch.tensor([row for row in rows if len(row) == 40])
        with torch.inference_mode():
            apart = run.model(tokens)
            once = Merged(run.model)
            together = run.model(tokens)
            once.undo()
            (adapter,) = adapters_of(run.model).values()
            adapter.weight = 2.0
            Merged(run.model)
            twice = run.model(tokens)
        differences.append(float((together - apart).abs().max()))
        doubled.append(float((twice - apart).abs().max()))
    interval = min(differences), max(differences)
    points = [
        {"merged": name, "difference": value}
        for name, values in (("as it was", differences), ("with twice the scale", doubled))
        for value in values
    ]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X(
                "difference:Q",
                title="largest difference of a logit",
                scale=alt.Scale(type="symlog", constant=1e-7),
            ),
            y=alt.Y("merged:N", title=None),
        )
        .properties(width=charts.WIDTH, height=charts.HEIGHT // 4)
    )
    return Measurement(max(differences), min(doubled), interval, chart=chart)


def _chart(found: dict[str, dict[str, list[float]]]) -> Any:
    """What is right of each task, by method."""
    rows = [
        {"arm": arm, "task": task.removeprefix("style_"), "right": right}
        for arm, of in found.items()
        for task, values in of.items()
        for right in values
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=60)
        .encode(
            x=alt.X("right:Q", title="share of held-out questions that are right"),
            y=alt.Y("arm:N", title=None),
            color=alt.Color("task:N", title="task"),
        )
        .properties(width=charts.WIDTH, height=charts.HEIGHT // 2)
    )
