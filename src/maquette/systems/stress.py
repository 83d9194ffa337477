"""Context under stress: what wrong labels cost where the mapping is known, and correlated examples anywhere.

    maquette reproduce stress             about 5 minutes on 2 cores, 2 seeds

Min et al. (2022) find that the labels of the examples in a prompt hardly matter: a model of GPT-3's kind
(Brown et al. 2020) knows the mapping, and the examples tell it which one is meant. Where the mapping is new,
the labels are all there is. Scaled down: the bursty decoders of `bursty_data`, 130,000 parameters in place of
0.8 to 175 billion, which know the labels of common names by heart and read those of new names from the
context. Known: one of the 500 commonest names after eight others, whose labels are right, or drawn at random.
Fresh: a name that was never seen, three times in the context before it, whose label there is always the same,
or drawn at random. One of 26 labels is asked for. The control of the first are capitals, which are no labels:
Min et al. find that labels outside the space of labels do cost. That of the second is the first.

Examples that say the same as others say less. The law of it is that of regression: the variance of a
coefficient grows as 1 / (1 - rho^2) with the correlation of its input with another (Marquardt 1970, the
variance inflation factor). Measured on least squares and on logistic regression, 400 examples at a time; the
control takes rho to be 0.

Expected: fresh mapping 66 points lost (the seeds 94 and 37: right were 99 and 41 %); the law to within 0.03.
Known mapping nothing lost; but capitals cost nothing either: a decoder that knows a name does not look at
others. So the claim on known mappings fails with its control.
"""

from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.experiments.bases.bursts import BURSTY, LABELS, SHOWN, World, burst_runs
from maquette.experiments.bases.made_documents import right_choices
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.workshop import charts
from maquette.workshop.load import load

RIGHT, RANDOM, OUTSIDE = "right", "random", "capitals"
KNOWN, FRESH = "known", "fresh"
QUESTIONS = 1000
COMMONEST = 500  # classes whose labels are known by heart
Scores = dict[str, dict[str, list[float]]]
"""percent right, of each seed, by kind of mapping and of labels"""

CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
EXAMPLES, REPEATS = 400, 4000
COEFFICIENTS = np.array([0.3, 0.0])
NEWTON_STEPS = 6
Array = npt.NDArray[np.float64]


@claim(
    statement="random labels in the context cost nothing where the mapping is known",
    source="Min et al. 2022, figure 3",
    metric="points lost by random labels of other names, known mapping",
    at_most=5,
    control="capitals, which are no labels",
    minutes=5,
)
def known_labels(lab: Lab) -> Measurement:
    """Ask for labels that are known by heart, after labels that are right, random, or none."""
    scores = label_scores(lab)
    return _lost(scores, (KNOWN, RANDOM), (KNOWN, OUTSIDE))


@claim(
    statement="random labels in the context cost all where the mapping is new",
    source="Min et al. 2022",
    metric="points lost by random labels, fresh mapping",
    at_least=30,
    control="points lost by random labels, known mapping",
    minutes=5,
)
def fresh_labels(lab: Lab) -> Measurement:
    """Ask for labels that the context alone tells, or does not."""
    scores = label_scores(lab)
    return _lost(scores, (FRESH, RANDOM), (KNOWN, RANDOM))


@claim(
    statement="the variance of a coefficient grows as 1 / (1 - rho^2)",
    source="Marquardt 1970, the variance inflation factor",
    metric="largest relative error of the law, rho 0.3 to 0.95, least squares and logistic regression",
    at_most=0.1,
    control="the law at rho 0",
    minutes=1,
    evidence="exact count",
)
def correlated(lab: Lab) -> Measurement:
    """Fit two correlated inputs many times over, and compare the variance with that at rho 0."""
    repeats = 200 if lab.quick else REPEATS
    ratios = np.array([inflation(seed, repeats) for seed in range(lab.seeds)])
    law = 1 / (1 - np.square(CORRELATIONS))
    errors = np.abs(ratios / law - 1).max((1, 2))  # (seeds,), of (seeds, kinds, correlations)
    return Measurement(
        value=float(np.abs(ratios.mean(0) / law - 1).max()),
        control=float(np.abs(1 / ratios.mean(0) - 1).max()),
        interval=(float(errors.min()), float(errors.max())),
        details={"rho": list(CORRELATIONS), "law": law.tolist(), "measured": ratios.tolist()},
        chart=_inflation_chart(ratios),
    )


def label_scores(lab: Lab) -> Scores:
    """Percent right by kind of mapping and of labels, of the bursty decoder of every seed."""
    kinds = (RIGHT, RANDOM, OUTSIDE)
    scores: Scores = {mapping: {kind: [] for kind in kinds} for mapping in (KNOWN, FRESH)}
    count = 20 if lab.quick else QUESTIONS
    for _, world, path in burst_runs(lab, BURSTY):
        run = load(path)
        for mapping, questions in ((KNOWN, known_questions), (FRESH, fresh_questions)):
            for kind in kinds:
                right = right_choices(run, questions(world, kind, count))
                scores[mapping][kind].append(100 * float(np.mean(right)))
    return scores


def known_questions(world: World, kind: str, count: int) -> list[tuple[str, list[str]]]:
    """A known name after eight others with labels of a kind; the right answer first."""
    draw = np.random.default_rng((world.seed, 3))
    asked = []
    for _ in range(count):
        (last,) = world.different(draw, 1, COMMONEST)
        drawn = world.different(draw, SHOWN + 1)
        others = draw.permutation([i for i in drawn if i != last][:SHOWN]).tolist()
        shown = [(world.known[i], _label(draw, kind, world.labels[i])) for i in others]
        asked.append((_context(shown) + world.known[last], _ways(world.labels[last])))
    return asked


def fresh_questions(world: World, kind: str, count: int) -> list[tuple[str, list[str]]]:
    """A new name that stands three times before, as in a bursty document, with labels of a kind."""
    draw = np.random.default_rng((world.seed, 4))
    asked = []
    for _ in range(count):
        names = draw.choice(world.never, 4, replace=False).tolist()
        labels = draw.choice(LABELS, 4, replace=False).tolist()
        order = draw.permutation([0] * 3 + [1] * 3 + [2, 3]).tolist()
        shown = [(names[i], _label(draw, kind, labels[i])) for i in order]
        asked.append((_context(shown) + names[0], _ways(labels[0])))
    return asked


def _label(draw: np.random.Generator, kind: str, right: str) -> str:
    """A label of a kind; one number is drawn for each, whatever the kind."""
    number = int(draw.integers(len(LABELS)))
    return {RIGHT: right, RANDOM: LABELS[number], OUTSIDE: LABELS[number].upper()}[kind]


def _context(shown: list[tuple[str, str]]) -> str:
    return "".join(name + label for name, label in shown)


def _ways(right: str) -> list[str]:
    return [right, *(label for label in LABELS if label != right)]


def _lost(scores: Scores, value: tuple[str, str], control: tuple[str, str]) -> Measurement:
    """The points that a kind of labels costs a kind of mapping, and another another."""
    lost, other = (
        np.array(scores[mapping][RIGHT]) - np.array(scores[mapping][kind])
        for mapping, kind in (value, control)
    )
    return Measurement(
        value=float(lost.mean()),
        control=float(other.mean()),
        interval=(float(lost.min()), float(lost.max())),
        details=dict(scores),
        chart=_label_chart(scores),
    )


def inflation(seed: int, repeats: int) -> Array:
    """Variance of the first coefficient over that at rho 0: (2, correlations), squares and logistic."""
    variances = np.array([_variances(seed, rho, repeats) for rho in CORRELATIONS])
    ratios: Array = (variances / variances[0]).T
    return ratios


def _variances(seed: int, rho: float, repeats: int) -> tuple[float, float]:
    """Variance of the first coefficient over many fits, of least squares and of logistic regression.

    The same numbers are drawn for every rho.
    """
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((repeats, EXAMPLES, 2))
    x[..., 1] = rho * x[..., 0] + np.sqrt(1 - rho**2) * x[..., 1]
    y = x @ COEFFICIENTS + draw.standard_normal((repeats, EXAMPLES))
    squares = _solved(x, np.ones((repeats, EXAMPLES)), y)
    labels = draw.random((repeats, EXAMPLES)) < 1 / (1 + np.exp(-x @ COEFFICIENTS))
    logistic = np.zeros((repeats, 2))
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.einsum("rnk,rk->rn", x, logistic)))
        weights = p * (1 - p)
        logistic += _solved(x, weights, (labels - p) / weights)
    return float(squares[:, 0].var()), float(logistic[:, 0].var())


def _solved(x: Array, weights: Array, y: Array) -> Array:
    """Weighted least squares of every repeat: (repeats, 2)."""
    weighted = x * weights[..., None]
    gram = np.einsum("rnk,rnl->rkl", weighted, x)
    solved: Array = np.linalg.solve(gram, np.einsum("rnk,rn->rk", weighted, y)[..., None])[..., 0]
    return solved


def _inflation_chart(ratios: Array) -> Any:
    """Variance over rho, of both regressions, and the law."""
    rows = [
        {"rho": rho, "variance": float(value), "what": name}
        for name, values in zip(
            ("least squares", "logistic regression"), ratios.mean(0), strict=True
        )
        for rho, value in zip(CORRELATIONS, values, strict=True)
    ]
    fine = [{"rho": rho, "variance": 1 / (1 - rho**2)} for rho in np.linspace(0, 0.96, 97).tolist()]
    x = alt.X("rho:Q", title="correlation of the two inputs")
    y = alt.Y("variance:Q", title="variance over that at rho 0", scale=alt.Scale(type="log"))
    return alt.layer(
        alt.Chart(alt.Data(values=fine)).mark_line(color=charts.FAINT).encode(x, y),
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=60)
        .encode(x, y, alt.Color("what:N", title=None)),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="Variance of a coefficient: 1 / (1 - rho^2)"
    )


def _label_chart(scores: Scores) -> Any:
    """Bars by kind of mapping and of labels, with a point for every seed."""
    rows = [
        {"mapping": f"{mapping} mapping", "labels": kind, "right": right}
        for mapping, kinds in scores.items()
        for kind, seeds in kinds.items()
        for right in seeds
    ]
    x = alt.X("mapping:N", title=None, sort=None, axis=alt.Axis(labelAngle=0))
    order = [RIGHT, RANDOM, OUTSIDE]
    offset = alt.XOffset("labels:N", sort=order)
    color = alt.Color("labels:N", title="labels in the context", sort=order)
    scale = alt.Scale(domain=[0, 100])
    base = alt.Chart(alt.Data(values=rows))
    return alt.layer(
        base.mark_bar(opacity=0.7).encode(
            x, alt.Y("mean(right):Q", title="right (%)", scale=scale), color, offset
        ),
        base.mark_point(filled=True, size=50, color=charts.INK).encode(
            x, alt.Y("right:Q", scale=scale), offset
        ),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="What labels in the context are worth"
    )
