"""GPT-3's arithmetic: sums that end with the digits, products by heart, and a jump that is the metric's.

    maquette reproduce gpt3_arithmetic    about 4 minutes on one core, 2 seeds

GPT-3 (Brown et al. 2020, section 3.9.1) adds two digits without fault, three mostly, four to a quarter,
and multiplies two digits to a third. One reading: it has learned tables, of which one column is the sum of
others. Scaled down: decoders of 130,000 parameters on bytes, on tables with a total, of sums of 2, 3 and 4
digits and of products of 2 (`experiments/bases/number_tables.py`). The question is a row whose pair of
operands is in no table, after the table's head; the answer counts where greedy decoding writes all of it
with its end. The control is a table of the same text whose totals are in another order.

Phase change (Schaeffer et al. 2023, section 3): the same sums at ten points of the training. How much of the
whole rise comes between two neighbouring points, of exact answers, and of the log-likelihood of the right
answer? Exact answers jump where the log-likelihood is smooth; the control exchanges the two.

Expected: the thresholds; not measured yet. The bars of the fall with the digits and of the jump are ours. A
trial with another seed, in which a quarter of the tables were sums of 2 digits and the training had 1,400
steps, got 5 % of these; now half of them are, in 2,000 steps, which was not tried.
"""

from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.evaluation.likelihood import log_likelihoods
from maquette.experiments.bases.made_documents import asked, exact_matches
from maquette.experiments.bases.number_tables import KINDS, table_questions, table_runs
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.percent_right import Percents, bars, of_seeds, over_seeds, percent
from maquette.training.checkpoint import MODEL, read_files, saved_steps
from maquette.training.run import RunDirectory
from maquette.workshop import charts
from maquette.workshop.load import load
from maquette.worlds.questions.registry import Side

SIDES: dict[str, Side] = {"held out": "heldout", "in the tables": "train"}
QUESTIONS = 500  # of each kind
Curve = npt.NDArray[np.float64]


@claim(
    statement="sums of operands that were in no table are right",
    source="Brown et al. 2020, section 3.9.1",
    metric="percent of held-out sums of 2 digits",
    at_least=50,
    control="the same of tables whose totals are in another order",
    minutes=6,
)
def sums(lab: Lab) -> Measurement:
    """Ask for sums of pairs that no table holds."""
    scores = table_scores(lab)
    held_out = of_seeds(scores, "sum 2 held out")
    return over_seeds(held_out, of_seeds(scores, "code 2 held out"), *shown(scores))


@claim(
    statement="products are not right of operands that were in no table",
    source="Brown et al. 2020, section 3.9.1",
    metric="percent of held-out products of 2 digits",
    at_most=10,
    control="held-out sums of 2 digits",
    minutes=6,
)
def products(lab: Lab) -> Measurement:
    """Ask for products of pairs that no table holds."""
    scores = table_scores(lab)
    held_out = of_seeds(scores, "product 2 held out")
    return over_seeds(held_out, of_seeds(scores, "sum 2 held out"), *shown(scores))


@claim(
    statement="sums are right less often, the more digits they have",
    source="Brown et al. 2020, figure 3.10",
    metric="points of held-out sums from 2 digits to 4; 0 where 3 digits are not between",
    at_least=50,
    control="the same of tables whose totals are in another order",
    minutes=6,
)
def digits(lab: Lab) -> Measurement:
    """Ask for sums of 2, 3 and 4 digits."""
    scores = table_scores(lab)
    sums_fall, codes_fall = (
        np.array([fall([seed[f"{name} {n} held out"] for n in (2, 3, 4)]) for seed in scores])
        for name in ("sum", "code")
    )
    return over_seeds(sums_fall, codes_fall, *shown(scores))


@claim(
    statement="exact answers jump during training where the likelihood rises smoothly",
    source="Schaeffer et al. 2023, section 3",
    metric="largest share of the whole rise between two neighbouring points of the training, in percent: "
    "exact answers minus log-likelihood",
    at_least=20,
    control="log-likelihood minus exact answers",
    minutes=6,
)
def phase_change(lab: Lab) -> Measurement:
    """Follow both metrics of held-out sums of 2 digits through the checkpoints of the training."""
    curves = [training_curves(path, lab.quick) for path in table_runs(lab)]
    jumps = np.array([[jump(curve) for curve in (exact, likely)] for _, exact, likely in curves])
    value = 100 * (jumps[:, 0] - jumps[:, 1])
    return over_seeds(
        value,
        -value,
        {
            "steps": [steps for steps, _, _ in curves],
            "exact": [exact.tolist() for _, exact, _ in curves],
            "log_likelihood": [likely.tolist() for _, _, likely in curves],
            "largest_share_of_the_rise": jumps.tolist(),
        },
        curve_chart(curves),
    )


def fall(right: list[float]) -> float:
    """How far a row of numbers falls; 0 where it does not fall all the way."""
    return right[0] - right[-1] if right == sorted(right, reverse=True) else 0.0


def jump(curve: Curve) -> float:
    """Largest step of a curve (points,) as a share of its whole range; 0 for a flat one."""
    whole = float(curve.max() - curve.min())
    return float(np.abs(np.diff(curve)).max()) / whole if whole else 0.0


def table_scores(lab: Lab) -> list[dict[str, float]]:
    """Percent of the rows that are right, by operation, digits and side, of every seed."""
    count = 10 if lab.quick else QUESTIONS
    questions = {
        f"{name} {n} {what}": table_questions(name, n, side, count)
        for name, n in KINDS
        for what, side in SIDES.items()
    }
    return [
        {kind: percent(exact_matches(run, rows)) for kind, rows in questions.items()}
        for run in map(load, table_runs(lab))
    ]


def shown(scores: list[dict[str, float]]) -> tuple[dict[str, Any], Any]:
    """The details and the picture of the tables' scores."""
    gaps = {
        f"{name} {n}": (
            of_seeds(scores, f"{name} {n} in the tables") - of_seeds(scores, f"{name} {n} held out")
        ).tolist()
        for name, n in KINDS
    }
    arms: dict[str, Percents] = {
        what: [{f"{name} {n}": seed[f"{name} {n} {what}"] for name, n in KINDS} for seed in scores]
        for what in SIDES
    }
    return {"right": scores, "in_the_tables_minus_held_out": gaps}, bars(
        arms, "Rows of tables with a total", "operands"
    )


def training_curves(path: Path, quick: bool) -> tuple[list[int], Curve, Curve]:
    """Steps of a run's checkpoints; percent exact and mean nats of the right answers at each: (points,)."""
    run, folder = load(path), RunDirectory(path).checkpoints
    rows = table_questions("sum", 2, "heldout", 10 if quick else QUESTIONS)
    requests = [asked(run, context, [answer])[0] for context, answer in rows]
    steps, exact, likely = saved_steps(folder), [], []
    for step in steps:
        run.model.load_state_dict(read_files(folder / f"step-{step:08}")[MODEL])
        found = log_likelihoods(run.model, requests)
        exact.append(percent([one.greedy for one in found]))
        likely.append(float(np.mean([one.log_likelihood for one in found])))
    return steps, np.array(exact), np.array(likely)


def curve_chart(curves: list[tuple[list[int], Curve, Curve]]) -> Any:
    """Both metrics over the steps, a line for every seed, each as a share of its range."""
    rows = [
        {"step": step, "share": float(value), "metric": name, "seed": seed}
        for seed, (steps, exact, likely) in enumerate(curves)
        for name, curve in (("exact answers", exact), ("log-likelihood", likely))
        for step, value in zip(
            steps, (curve - curve.min()) / max(float(np.ptp(curve)), 1e-9), strict=True
        )
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            alt.X("step:Q", title="steps of the training"),
            alt.Y("share:Q", title="share of the whole rise"),
            alt.Color("metric:N", title=None),
            alt.Detail("seed:N"),
        )
        .properties(width=charts.WIDTH, height=charts.HEIGHT, title="The same sums by two metrics")
    )
