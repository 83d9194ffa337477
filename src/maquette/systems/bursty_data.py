"""Bursty data: a decoder learns from its context where its training data come in bursts.

    maquette reproduce bursty_data        about 5 minutes on 2 cores, 2 seeds

Chan et al. (2022) train transformers on sequences of Omniglot characters with their labels. Where a
sequence shows the class that is asked several times (bursty), the model learns to copy the label of what is
alike in its context, and does so for classes that it never saw; where sequences are drawn one by one, it
learns the labels by heart instead; many classes, most of them rare (Zipf), further the first. Scaled down:
130,000 parameters in place of 12 blocks on pictures; a class is a name such as Abc, one of 12,800, drawn by
Zipf's law with exponent 1; its label is one of 26 letters, the same in all documents
(`experiments/bases/bursts.py`). A document shows eight names with their labels, and one more. In a bursty one
this last name comes three times before, so does another, and two others once. The other arm has the same
pairs, to the last one, in random order over all documents: nothing but the burstiness differs.

In context: two of the 4,776 names that were never seen, each four times with a label drawn at random, then
one of them: which of the two labels (chance 50 %)? By heart: a name by Zipf's law after eight others: which
of the 26 labels (chance 4 %)?

Expected: in context 83 % where the data were bursty (the seeds 100 and 67: one began late to copy), 53 %
where not; by heart 17 points less (the seeds 14 and 20). Tried before: labels that are no letters of names
are learned by heart first and copied late, digits for 1,600 names of two letters not within 700 steps,
capitals for 12,800 names by one seed of two within 1,200; and steps of twice the tokens come half as far with
as many tokens.
"""

from typing import Any

import altair as alt
import numpy as np

from maquette.experiments.bases.bursts import BURSTY, LABELS, RANDOM, SHOWN, World, burst_runs
from maquette.experiments.bases.made_documents import right_choices
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.workshop import charts
from maquette.workshop.load import load

ARMS = (BURSTY, RANDOM)
CONTEXT, HEART, NEVER = "in context", "by heart", "never seen, by heart"
QUESTIONS = 1000
Question = tuple[str, list[str]]
Scores = dict[str, list[dict[str, float]]]
"""percent right of every kind of question, of each seed, by arm"""


@claim(
    statement="new classes are learned from the context where the training data were bursty",
    source="Chan et al. 2022, figure 3",
    metric="percent of never seen classes labelled as the context says, of two labels",
    at_least=75,
    control="the same pairs in random order",
    minutes=8,
)
def in_context(lab: Lab) -> Measurement:
    """Score both arms on classes that have no label but that of the context."""
    scores = scores_of(lab)
    bursty, other = (np.array([seed[CONTEXT] for seed in scores[arm]]) for arm in ARMS)
    return Measurement(
        value=float(bursty.mean()),
        control=float(other.mean()),
        interval=(float(bursty.min()), float(bursty.max())),
        details=dict(scores),
        chart=chart(scores),
    )


@claim(
    statement="what is learned from the context is learned less by heart",
    source="Chan et al. 2022, figure 3",
    metric="points of known classes labelled by heart, random order minus bursty",
    at_least=10,
    control="the same of classes that were never seen",
    minutes=8,
)
def by_heart(lab: Lab) -> Measurement:
    """Score both arms on classes that the context does not hold."""
    scores = scores_of(lab)
    known, never = (
        np.array(
            [
                other[what] - bursty[what]
                for bursty, other in zip(scores[BURSTY], scores[RANDOM], strict=True)
            ]
        )
        for what in (HEART, NEVER)
    )
    return Measurement(
        value=float(known.mean()),
        control=float(never.mean()),
        interval=(float(known.min()), float(known.max())),
        details=dict(scores),
        chart=chart(scores),
    )


def scores_of(lab: Lab) -> Scores:
    """Train both arms and ask them every kind of question."""
    scores: Scores = {arm: [] for arm in ARMS}
    for arm, world, path in burst_runs(lab, *ARMS):
        run, asked = load(path), questions(world, 20 if lab.quick else QUESTIONS)
        scores[arm].append(
            {what: 100 * float(np.mean(right_choices(run, rows))) for what, rows in asked.items()}
        )
    return scores


def questions(world: World, count: int) -> dict[str, list[Question]]:
    """Contexts with their answers, the right one first, by kind."""
    draw = np.random.default_rng((world.seed, 2))
    asked: dict[str, list[Question]] = {CONTEXT: [], HEART: [], NEVER: []}
    for _ in range(count):
        names = draw.choice(world.never, 2, replace=False).tolist()
        labels = draw.choice(LABELS, 2, replace=False).tolist()
        shown = draw.permutation([0, 1] * (SHOWN // 2)).tolist()
        context = "".join(names[i] + labels[i] for i in shown)
        asked[CONTEXT].append((context + names[0], labels))
        *others, known = draw.permutation(world.different(draw, SHOWN + 1)).tolist()
        before, right = world.text(others), world.labels[known]
        ways = [right, *(label for label in LABELS if label != right)]
        asked[HEART].append((before + world.known[known], ways))
        asked[NEVER].append((before + names[0], ways))
    return asked


def chart(scores: Scores) -> Any:
    """Bars of both kinds of learning by arm, with a point for every seed."""
    rows = [
        {"arm": arm, "what": what, "right": right}
        for arm, seeds in scores.items()
        for seed in seeds
        for what, right in seed.items()
        if what != NEVER
    ]
    x = alt.X("what:N", title=None, sort="descending", axis=alt.Axis(labelAngle=0))
    offset = alt.XOffset("arm:N", sort=list(ARMS))
    color = alt.Color("arm:N", title="training data", sort=list(ARMS))
    scale = alt.Scale(domain=[0, 100])
    chance = [{"what": CONTEXT, "right": 50}, {"what": HEART, "right": 100 / len(LABELS)}]
    base = alt.Chart(alt.Data(values=rows))
    return alt.layer(
        base.mark_bar(opacity=0.7).encode(
            x, alt.Y("mean(right):Q", title="right (%)", scale=scale), color, offset
        ),
        base.mark_point(filled=True, size=50, color=charts.INK).encode(
            x, alt.Y("right:Q", scale=scale), offset
        ),
        alt.Chart(alt.Data(values=chance))
        .mark_tick(color=charts.INK, thickness=2, width=90)
        .encode(x, alt.Y("right:Q", scale=scale)),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="Bursts teach to learn from the context"
    )
