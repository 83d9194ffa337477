"""GPT-3's few shots: what a decoder learns from examples in its context, by their number and by its size.

    maquette reproduce gpt3_few_shot      about 3 minutes on one core, 2 seeds

GPT-3 (Brown et al. 2020, figure 1.2) gets better with every example that it is shown, and the better the
larger it is. It has learned that from text; a small decoder does not, unless its text comes in bursts (Chan
et al. 2022, `bursty_data`). Scaled down: three decoders of 11,000 to 130,000 parameters in place of 1.3 to
175 billion, on documents of maps of letters (`experiments/bases/few_shot_ladder.py`).
The questions are of maps that no document holds: so many pairs, drawn with replacement, then a letter. With
16 pairs shown, the letter is among them in 95 of 100 questions.

Restricted choice: the likeliest of the six letters of the map that may be the answer, in the place of
whatever greedy decoding writes. In the control the pairs that are shown have letters of the map at random; of
restricted choice the control chooses among all letters, which is no restriction.

Expected: 77 points from no example to 16 (the seeds 76 and 78), by random pairs none; restricted choice 6.7
points above free generation (4.6 and 8.8), by a choice of all letters 0.2. That the gain grows with the size
fails: the smallest, of one block, gains nothing, the middle one 80 points, all that there is to gain, and the
largest 3 less. The task is too easy to tell the upper two apart. The bars are ours: the reports name none.

Tried before: letters in the order of the examples, one of five orders, as a second task. 64 wide learned the
five orders in 900 steps, and not which one was shown; 96 wide and 3 deep had learned neither by step 552.
"""

import string
from random import Random
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.experiments.bases.few_shot_ladder import SIZES, ladder_runs, letter_map, text
from maquette.experiments.bases.made_documents import exact_matches, right_choices
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.percent_right import over_seeds, percent
from maquette.workshop import charts
from maquette.workshop.load import load

SHOTS = (0, 1, 2, 4, 8, 16)
QUESTIONS = 500  # of each number of shots
CHOICE, FREE, ANY_LETTER, RANDOM = "choice", "free", "choice of all letters", "choice, random pairs"
KINDS = (CHOICE, FREE, ANY_LETTER, RANDOM)
Percents = dict[str, npt.NDArray[np.float64]]
"""percent right by kind of question: (seeds, sizes, shots)"""
Question = tuple[str, list[str]]


@claim(
    statement="accuracy rises with the number of examples shown",
    source="Brown et al. 2020, figure 1.2; data_audit D7",
    metric="points of the largest decoder from no example to 16; 0 where it falls in between",
    at_least=30,
    control="examples of random pairs",
    minutes=8,
)
def shots(lab: Lab) -> Measurement:
    """Show the largest decoder ever more examples."""
    scores = few_shot_scores(lab)
    value, control = (
        np.array([rise(curve) for curve in scores[kind][:, -1]]) for kind in (CHOICE, RANDOM)
    )
    return over_seeds(value, control, *shown(scores))


@claim(
    statement="the larger a decoder, the more it gains from examples",
    source="Brown et al. 2020, figure 1.2; data_audit D7",
    metric="points gained from no example to 16, each size minus the one below: the lesser difference",
    at_least=5,
    control="examples of random pairs",
    minutes=8,
)
def size(lab: Lab) -> Measurement:
    """Compare what the sizes gain."""
    scores = few_shot_scores(lab)
    value, control = (
        np.diff(scores[kind][..., -1] - scores[kind][..., 0], axis=1).min(1)
        for kind in (CHOICE, RANDOM)
    )
    return over_seeds(value, control, *shown(scores))


@claim(
    statement="restricted choice beats free generation",
    source="Brown et al. 2020, section 2.4",
    metric="points of restricted choice minus free generation, mean over shots and sizes",
    at_least=5,
    control="a choice of all letters",
    minutes=8,
)
def restricted(lab: Lab) -> Measurement:
    """Compare the two ways of answering the same questions."""
    scores = few_shot_scores(lab)
    value, control = ((scores[kind] - scores[FREE]).mean((1, 2)) for kind in (CHOICE, ANY_LETTER))
    return over_seeds(value, control, *shown(scores))


def rise(curve: npt.NDArray[np.float64]) -> float:
    """How far a curve rises; 0 where it falls by more than 5 points in between."""
    return float(curve[-1] - curve[0]) if np.diff(curve).min() > -5 else 0.0


def few_shot_scores(lab: Lab) -> Percents:
    """Percent right of every size and every number of shots, by kind of question."""
    count = 20 if lab.quick else QUESTIONS
    scores = {kind: np.zeros((lab.seeds, len(SIZES), len(SHOTS))) for kind in KINDS}
    for size, seed, path in ladder_runs(lab):
        run = load(path)
        for place, number in enumerate(SHOTS):
            at = seed, SIZES.index(size), place
            asked = questions(number, count)
            scores[CHOICE][at] = percent(right_choices(run, asked))
            scores[FREE][at] = percent(exact_matches(run, [(c, a[0]) for c, a in asked]))
            scores[ANY_LETTER][at] = percent(
                right_choices(run, [(c, all_letters(a[0])) for c, a in asked])
            )
            scores[RANDOM][at] = percent(right_choices(run, questions(number, count, random=True)))
    return scores


def questions(shots: int, count: int, random: bool = False) -> list[Question]:
    """So many contexts with the answers of their map, the right one first.

    random: whether the pairs that are shown have letters of the map at random.
    """
    draw, other = Random(f"asked {shots}"), Random(f"random {shots}")
    asked = []
    for _ in range(count):
        pairs = letter_map(draw, "heldout")
        *shown, letter = draw.choices(list(pairs), k=shots + 1)
        answers = [pairs[letter], *(a for a in pairs.values() if a != pairs[letter])]
        context = (
            "".join(f"{one}{other.choice(answers)} " for one in shown)
            if random
            else text(pairs, shown)
        )
        asked.append((context + letter, answers))
    return asked


def all_letters(right: str) -> list[str]:
    """Every letter, the right one first."""
    return [right, *(letter for letter in string.ascii_lowercase if letter != right)]


def shown(scores: Percents) -> tuple[dict[str, Any], Any]:
    """The details and the picture of the scores."""
    plain = {kind: values.tolist() for kind, values in scores.items()}
    return {"sizes": SIZES, "shots": SHOTS, "right": plain}, chart(scores)


def chart(scores: Percents) -> Any:
    """Curves over the shots by size, restricted and free: figure 1.2."""
    rows = [
        {"shots": number, "right": float(value), "size": f"{width} wide, {depth} deep", "answers": way,
         "seed": seed}
        for way, kind in (("of choices", CHOICE), ("free", FREE), ("of choices, random pairs", RANDOM))
        for seed, sizes in enumerate(scores[kind])
        for (width, depth), curve in zip(SIZES, sizes, strict=True)
        for number, value in zip(SHOTS, curve, strict=True)
    ]  # fmt: skip
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True, opacity=0.8)
        .encode(
            alt.X(
                "shots:Q",
                title="examples shown",
                scale=alt.Scale(type="symlog"),
                axis=alt.Axis(values=list(SHOTS)),
            ),
            alt.Y("right:Q", title="right (%)", scale=alt.Scale(domain=[0, 100])),
            alt.Color("size:N", title="decoder", sort=[f"{w} wide, {d} deep" for w, d in SIZES]),
            alt.Detail("seed:N"),
            alt.Facet(
                "answers:N", title=None, sort=["of choices", "free", "of choices, random pairs"]
            ),
        )
        .properties(width=charts.WIDTH // 2, height=charts.HEIGHT, title="Few shots by size")
    )
