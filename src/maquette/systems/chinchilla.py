"""Chinchilla: size and tokens grow together, and the frontier predicts (Hoffmann et al. 2022).

    maquette reproduce chinchilla            about 12 minutes on 2 cores, 2 seeds

The paper trained over 400 models of 70 million to 16 billion parameters and found that the best size
at C operations grows as C^0.50 (approaches 1 and 2; Kaplan et al. 2020 had 0.73), about 20 tokens a
parameter, and trained the 70 billion model that this predicts. Besiroglu et al. 2024 fitted its
third approach anew: the optimiser had stopped early, because the loss was averaged over the points.

Scaled down: decoders of 5,700 to 195,000 parameters, bytes of the default corpus, six budgets from
2e10 to 6.4e11 operations, and a held-out run of 2.6e12. A step has 256 tokens, the second moment a
memory of 0.99, and N counts the embeddings: without these, small runs show other exponents (Porian et
al. 2024, Pearce and Song 2024). One trunk a size, the shorter runs branch off it. The surface
E + A / N^alpha + B / D^beta is fitted to planted points alone: it does not fit runs this small.

Expected: an exponent within 0.30 to 0.65 (measured 0.51, with 21 to 27 tokens a parameter at every
budget), and the planted exponent found within 0.02. The prediction fails: the held-out run is 3.1 %
worse than predicted, outside the frontier's own interval. One learning rate serves all lengths here:
half of it is worse by 1 to 2 % after 2,600 steps and better by 1.8 % after the held-out run's 12,640
(docs/log.md), which would then be met within 1.1 %. The claim keeps the rate it was fixed with.
`balanced` judges edges on the mean over the seeds: its first version judged each seed by itself, and in
seed 0 the largest size is the best at the largest budget.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from maquette.base.errors import UserError
from maquette.experiments.bases.isoflop import (
    BUDGETS,
    LARGEST,
    budgets,
    heldout_losses,
    largest,
    measured_ladder,
    steps_of,
)
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.decoder_recipes import published_recipes
from maquette.experiments.lab import Lab
from maquette.scaling.extrapolate import Ladder, analyse
from maquette.scaling.rungs import BATCH, SEQUENCE, rung_recipe, size
from maquette.training.recipe import LanguageRecipe

KAPLAN = 0.73
MIDDLE, HALF = 0.475, 0.175  # of the exponents that the claim admits, 0.30 to 0.65
RECIPES = published_recipes("gopher-280b", "chinchilla-70b")


@recipe
def chinchilla_rung() -> LanguageRecipe:
    """The held-out run: 131,520 parameters, four times the operations of the largest budget."""
    return rung_recipe(LARGEST, steps_of(LARGEST, 4 * BUDGETS[-1]))


@claim(
    statement="the best size and the best number of tokens grow about equally with compute",
    source="Hoffmann et al. 2022, table 2, approach 2",
    metric="distance of the exponent of N*(C) from 0.475, mean of the seeds; a minimum on an edge: "
    "infinite",
    at_most=HALF,
    control="the same sizes with losses that are least where Kaplan et al. 2020 have it, C^0.73",
    minutes=12,
)
def balanced(lab: Lab) -> Measurement:
    """IsoFLOP minima over six budgets; the interval is that of the bootstrap."""
    ladder = measured_ladder(lab)
    edge = any(m.edge for m in ladder.minima)
    value = math.inf if edge else abs(ladder.split[0] - MIDDLE)
    drawn = None if edge else ladder.exponents()
    low, high = drawn["a"] if drawn else (-math.inf, math.inf)
    nearest = 0.0 if low <= MIDDLE <= high else min(abs(low - MIDDLE), abs(high - MIDDLE))
    furthest = max(abs(low - MIDDLE), abs(high - MIDDLE))
    ratios = [m.tokens / m.parameters for m in ladder.minima]
    return Measurement(
        value=value,
        control=kaplan(ladder),
        interval=(nearest, furthest) if drawn else None,
        details=_minima(ladder)
        | {
            "a": None if edge else ladder.split[0],
            "a_95": drawn and drawn["a"],
            "a_of_each_seed": [_exponent(_of_seed(ladder, s)) for s in range(lab.seeds)],
            "tokens_per_parameter_most_over_least": max(ratios) / min(ratios),
        },
        chart=_chart(ladder),
    )


def kaplan(ladder: Ladder) -> float:
    """The metric, by the same analysis, where the best size grows as C^0.73 about the middle budget."""
    inside = [m for m in ladder.minima if not m.edge]
    if not inside:
        return math.inf
    middle = inside[len(inside) // 2]
    least = {m.flops: m.loss for m in ladder.minima}
    planted = [
        replace(p, loss=least[p.flops] * (1 + middle.curvature * math.log(
            p.parameters / middle.parameters / (p.flops / middle.flops) ** KAPLAN) ** 2))
        for p in ladder.points
    ]  # fmt: skip
    try:
        return abs(analyse(planted).split[0] - MIDDLE)
    except UserError:
        return math.inf


@claim(
    statement="the frontier of the small runs predicts the loss of a run four times the largest",
    source="Hoffmann et al. 2022, section 3.4 and figure 3",
    metric="relative error of the predicted loss of the held-out run",
    at_most=0.02,
    control="prediction that the loss stays that of the largest budget's best",
    minutes=12,
)
def prediction(lab: Lab) -> Measurement:
    """The frontier and its growth off the best split, at the held-out run's size and tokens."""
    ladder, runs = measured_ladder(lab), heldout_losses(lab)
    flops = 4 * budgets(lab.quick)[-1]
    width = largest(lab.quick)
    steps = steps_of(width, flops)
    losses = runs[width, steps]
    loss, split = float(np.mean(losses)), (size(width, 257), steps * SEQUENCE * BATCH)
    stays = abs(ladder.minima[-1].loss / loss - 1)
    details = _minima(ladder) | {"flops": flops, "losses": losses, "split": list(split)}
    try:
        expected = ladder.predict(split=split)
    except UserError as error:
        refused = details | {"refused": str(error)}
        return Measurement(math.inf, stays, details=refused, chart=_chart(ladder))
    errors = [abs(expected.loss / actual - 1) for actual in losses]
    forecast = {"loss": expected.loss, "low": expected.low, "high": expected.high}
    outcome = {"flops": 6.0 * split[0] * split[1], "loss": loss, "predicted": forecast}
    return Measurement(
        value=abs(expected.loss / loss - 1),
        control=stays,
        interval=(min(errors), max(errors)),
        details=details | {"predicted": forecast, "inside": expected.low <= loss <= expected.high},
        chart=_chart(ladder, outcome),
    )


@claim(
    statement="a summed Huber loss recovers the exponents of a planted surface, an averaged one not",
    source="Besiroglu et al. 2024, section 3",
    metric="largest error of a = beta / (alpha + beta) on planted points",
    at_most=0.02,
    control="L-BFGS at its default tolerances on the averaged loss",
    minutes=0.5,
    evidence="exact count",
)
def solver(lab: Lab) -> Measurement:
    """240 points of the refitted constants, spread as the paper's, with 0.5 % noise."""
    from maquette.scaling.fit import fit
    from maquette.scaling.fit_points import points_of
    from maquette.scaling.laws import LAWS, Law
    from maquette.scaling.lbfgs import lbfgs_fit

    known = LAWS["besiroglu"]
    assert isinstance(known, Law)
    errors: list[float] = []
    early: list[float] = []
    for seed in range(lab.seeds):
        random = np.random.default_rng(seed)
        n = 10 ** random.uniform(7.6, 10.2, 240)
        d = np.exp(random.uniform(math.log(6e18), math.log(3e21), 240)) / 6 / n
        clean = known.E + known.A / n**known.alpha + known.B / d**known.beta
        loss = clean * np.exp(0.005 * random.normal(size=240))
        points = points_of(n, d, loss, source="planted")
        for law, into in (
            (fit(points, resamples=0).law, errors),
            (lbfgs_fit(points, "mean", starts=5 if lab.quick else 20).law, early),
        ):
            into.append(abs(law.exponent - known.exponent))
    return Measurement(
        value=max(errors),
        control=min(early),
        interval=(min(errors), max(errors)),
        details={"a": known.exponent, "errors": errors, "averaged": early},
        chart=_errors(errors, early),
    )


def _of_seed(ladder: Ladder, seed: int) -> Ladder:
    return analyse(p for p in ladder.points if p.seed == seed)


def _exponent(ladder: Ladder) -> float | None:
    """a of N*(C), None where a minimum is on an edge."""
    try:
        return ladder.split[0]
    except UserError:
        return None


def _minima(ladder: Ladder) -> dict[str, Any]:
    return {
        "unit": "nats a byte",
        "minima": [
            {
                "flops": m.flops,
                "parameters": m.parameters,
                "tokens": m.tokens,
                "loss": m.loss,
                "edge": m.edge,
            }
            for m in ladder.minima
        ],
        "points": [[p.flops, p.parameters, p.tokens, p.loss, p.seed] for p in ladder.points],
    }


def _chart(ladder: Ladder, outcome: dict[str, Any] | None = None) -> Any:
    from maquette.workshop.ladder_chart import curves, frontier

    return curves(ladder) if outcome is None else frontier(ladder, outcome)


def _errors(summed: list[float], averaged: list[float]) -> Any:
    """The error of the exponent, every seed a point, and the claim's threshold."""
    import altair as alt

    from maquette.workshop import charts

    rows = [
        {"what": name, "error": error}
        for name, errors in (("summed", summed), ("averaged", averaged))
        for error in errors
    ]
    points = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=70)
    bar = alt.Chart(alt.Data(values=[{"error": 0.02}])).mark_rule(strokeDash=[6, 4])
    x = alt.X("error:Q", title="error of the exponent a (dashed: the threshold)")
    y = alt.Y("what:N", title="Huber loss over the points", sort=None)
    return alt.layer(
        points.encode(x, y), bar.encode(x)
    ).properties(
        width=charts.WIDTH, height=120, title="An averaged loss stops L-BFGS early"
    )  # fmt: skip
