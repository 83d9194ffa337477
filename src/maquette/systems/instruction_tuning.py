"""Instruction tuning: a model that has read of tasks learns to do what it is told, and so others too (FLAN).

    maquette reproduce instruction_tuning       about 20 minutes on 2 cores, 2 seeds

Wei et al. (2021) tune a language model of 137 billion parameters on 62 data sets written as instructions,
and score it on clusters of tasks that were held out: it beats the untuned one, the more clusters it was
tuned on the better, and not without the instructions. Scaled down to decoders of 1.1 million parameters that
have read lists of tasks and worked examples of 39 tasks on words and numbers in 16 clusters
(`experiments/bases/instructed_decoder.py`), where every question has one right answer. They are tuned on the
tasks of 1, 2, 4 or 8 clusters, and asked for those of the other 8, in phrasings and of arguments that tuning
never had. What the paper found of size (below 8 billion parameters tuning hurt) is not claimed: here held-out
tasks were all read of before, and to answer is to say in one form what is known in another.

Expected: all three claims fail. The base that has read worked examples answers 55 and 59 % of the held-out
questions before it is tuned, for their form is nearly that of what it read, and tuning on eight clusters
leaves 32 and 30 %; there is nothing for instructions to unlock. The number of clusters helps (0.68 of the 0.8
wanted), and without instructions 65 % is kept where at most half should be. It would take a base that knows
the tasks in another form than they are asked in, and tunings that change it less.
"""

import functools
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from maquette.base.statistics import spearman
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.instruction_arms import accuracy, bases, questions, records, tuned
from maquette.experiments.lab import Lab
from maquette.training.recipe import LanguageRecipe
from maquette.workshop import charts
from maquette.worlds.questions.instruction_tasks import CLUSTERS, TASKS, InstructionTask

DOCUMENTS, STEPS = 16_000, 700  # of the base, 5,120 tokens a step
EXAMPLES, TUNING = 3000, 120  # of an arm, and its steps
ASKED = 400  # held-out questions
COUNTS = (1, 2, 4, 8)
SPLIT = 8  # clusters that can be tuned on; the others are asked for


@claim(
    statement="a model that is tuned on instructions follows those of clusters it was not tuned on",
    source="Wei et al. 2021, figure 1 and section 3",
    metric="right answers of the tuned model over those of the untuned one, held-out clusters and phrasings",
    at_least=3.0,
    control="tuned on the same inputs, each with the answer of another example",
    minutes=14,
)
def held_out_clusters(lab: Lab) -> Measurement:
    """Tune on eight clusters, ask for the other eight, before and after."""
    found = _scores(lab)
    before, after, control = found["untuned"][0], found["plain"][-1], found["shuffled"][-1]
    least = 1 / ASKED  # of a model that answers nothing
    ratios = after / np.maximum(before, least)
    return Measurement(
        value=float(after.mean() / max(before.mean(), least)),
        control=float(control.mean() / max(before.mean(), least)),
        interval=(float(ratios.min()), float(ratios.max())),
        details={"untuned": before.tolist(), "tuned": after.tolist(), "shuffled": control.tolist()},
        chart=_bars({"untuned": before, "tuned": after, "answers of others": control}),
    )


@claim(
    statement="the more clusters a model is tuned on, the better it follows held-out ones",
    source="Wei et al. 2021, figure 6",
    metric="rank correlation of the number of clusters, 1 to 8, and right answers of held-out clusters",
    at_least=0.8,
    control="the same examples without their instructions",
    minutes=14,
)
def clusters(lab: Lab) -> Measurement:
    """Tune on 1, 2, 4 and 8 clusters, with as many examples of all together."""
    found, counts = _scores(lab), _counts(lab)
    scores = {kind: found[kind].T for kind in ("plain", "alone")}  # (seeds, counts)
    each = [spearman(counts, row) for row in scores["plain"]]
    number = np.tile(counts, lab.seeds)
    return Measurement(
        value=spearman(number, scores["plain"].ravel()),
        control=spearman(number, scores["alone"].ravel()),
        interval=(min(each), max(each)),
        details={"clusters": list(counts)} | {kind: rows.tolist() for kind, rows in scores.items()},
        chart=_curves(counts, scores),
    )


@claim(
    statement="it is the instructions that are learned from: without them half is lost",
    source="Wei et al. 2021, section 4.3",
    metric="right answers of the model tuned without instructions over those of the one tuned with them",
    at_most=0.5,
    control="tuned with the instructions, in another order of the examples",
    minutes=14,
)
def without_instructions(lab: Lab) -> Measurement:
    """Tune on inputs and answers alone; asked is with the instruction, as in the paper."""
    found = {kind: scores[-1] for kind, scores in _scores(lab).items()}
    with_them = np.maximum(found["plain"], 1 / ASKED)
    ratios = found["alone"] / with_them
    return Measurement(
        value=float(found["alone"].mean() / with_them.mean()),
        control=float(found["again"].mean() / with_them.mean()),
        interval=(float(ratios.min()), float(ratios.max())),
        details={kind: found[kind].tolist() for kind in ("plain", "again", "alone")},
        chart=_bars({"with instructions": found["plain"], "in another order": found["again"],
                     "without": found["alone"]}),
    )  # fmt: skip


def _counts(lab: Lab) -> tuple[int, ...]:
    return COUNTS[::3] if lab.quick else COUNTS


def _scores(lab: Lab) -> dict[str, Any]:
    """Held-out questions right, (numbers of clusters, seeds), of the untuned models and of each kind of arm.

    All are trained side by side, for every claim takes some of the same.
    """
    runs = bases(lab, DOCUMENTS, STEPS)
    arms = [(kind, n) for kind in ("plain", "alone") for n in _counts(lab)]
    arms += [("shuffled", SPLIT), ("again", SPLIT)]
    jobs = [_arm(lab, base, seed, n, kind) for kind, n in arms for seed, base in enumerate(runs)]
    scores: dict[str, list[list[float]]] = {}
    scores["untuned"] = [[_score(base, seed, lab.quick) for seed, base in enumerate(runs)]]
    trained = iter(lab.train_all(jobs))
    for kind, _ in arms:
        rows = [_score(next(trained), seed, lab.quick) for seed in range(lab.seeds)]
        scores.setdefault(kind, []).append(rows)
    return {kind: np.array(rows) for kind, rows in scores.items()}


def tasks_of(names: tuple[str, ...]) -> list[InstructionTask]:
    """The tasks of clusters."""
    return [task for task in TASKS.values() if task.cluster in names]


@functools.cache
def _score(run: Path, seed: int, quick: bool) -> float:
    """Share of the held-out clusters' questions that a run answers right."""
    asked = questions(8 if quick else ASKED, seed, tasks_of(CLUSTERS[1::2]))
    return accuracy(run, asked)


def _arm(lab: Lab, base: Path, seed: int, count: int, kind: str = "plain") -> LanguageRecipe:
    """The base, tuned on some of the clusters. kind: how the examples are written."""
    order = CLUSTERS[::2] if seed % 2 == 0 else CLUSTERS[::2][::-1]
    rows = records(60 if lab.quick else EXAMPLES, seed, tasks_of(order[:count]), kind != "alone")
    if kind == "shuffled":
        answers = [row["answer"] for row in rows]
        np.random.default_rng(seed).shuffle(answers)
        rows = [row | {"answer": answer} for row, answer in zip(rows, answers, strict=True)]
    return tuned(base, rows, seed + (1000 if kind == "again" else 0), TUNING, lab.quick)


def _bars(arms: dict[str, Any]) -> Any:
    rows = [{"arm": name, "right": float(v)} for name, values in arms.items() for v in values]
    data = alt.Chart(alt.Data(values=rows))
    x = alt.X("arm:N", title=None, sort=list(arms), axis=alt.Axis(labelAngle=0))
    y = alt.Y("mean(right):Q", title="held-out questions right")
    return alt.layer(
        data.mark_bar(opacity=0.6).encode(x, y),
        data.mark_point(filled=True, size=60).encode(x, alt.Y("right:Q")),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT, title="Instructions of other tasks")


def _curves(counts: tuple[int, ...], scores: dict[str, Any]) -> Any:
    names = {"plain": "with instructions", "alone": "without"}
    rows = [
        {"clusters": n, "right": float(v), "tuned": names[kind]}
        for kind, values in scores.items()
        for row in values
        for n, v in zip(counts, row, strict=True)
    ]
    data = alt.Chart(alt.Data(values=rows))
    x = alt.X("clusters:Q", title="clusters tuned on", scale=alt.Scale(type="log", base=2))
    color = alt.Color("tuned:N", title=None)
    return alt.layer(
        data.mark_point(filled=True, size=60).encode(x, alt.Y("right:Q"), color),
        data.mark_line().encode(x, alt.Y("mean(right):Q", title="held-out questions right"), color),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT, title="More clusters, better followed")
