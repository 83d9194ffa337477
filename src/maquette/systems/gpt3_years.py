"""Years as GPT-3 reads them: beyond those that were compared, which came first is not known.

    maquette reproduce gpt3_years         about 2 minutes on one core, 2 seeds

Talmor et al. (2020, section 4.2) ask masked language models which of two ages is higher: most that answer
know the common range and nothing beyond. A year is a name and no number. Scaled down: decoders of 190,000
parameters on sentences that tell which of two years came first, of 1700 to 1819, each year one token. The
questions are pairs that no sentence compares, in either order, of the same years; and pairs of the 120 years
before, which the text names and never compares: chance is 50 %.

The control is a second calendar in the same text, 1240 to 1359, whose years stand for one another at random:
it is ordered as well, so what was learned in range is an order of names.

Expected: the thresholds; not measured yet with these settings. Measured first with decoders 32 wide and one
block deep, 600 steps (56,000 parameters, seeds 0 and 1): it failed, 71 and 73 % in range, so that nothing
could be asked of the others (48 and 53 %). A trial of these, 64 wide, with another seed and 500 steps,
ordered 96 % in range, 95 % of the second calendar and 49 % outside.
"""

import functools
from random import Random

import numpy as np

from maquette.corpus.text.build_options import BuildOptions
from maquette.experiments.bases.made_documents import made_corpus, made_decoder, right_choices
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.percent_right import bars, of_seeds, over_seeds, percent
from maquette.training.recipe import LanguageRecipe
from maquette.workshop.load import load
from maquette.worlds.questions.registry import Side, side_of

SPANS = {"in range": range(1700, 1820), "outside": range(1580, 1700), "renamed": range(1240, 1360)}
"""years that are compared, that are only named, and that are compared under one another's names"""
SENTENCES, STEPS, TO_A_DOCUMENT = 210_000, 700, 10  # 1.3 million tokens: once over the text
TOY_SENTENCES = 4000
QUESTIONS = 500  # of each span
NEEDED = 95.0
"""percent of the years in range that a model must order before it is asked of others"""


@claim(
    statement="a year is a name: beyond those that were compared, which came first is not known",
    source="Talmor et al. 2020, section 4.2",
    metric="percent of other years ordered right; 100 where fewer than 95 are in range",
    at_most=60,
    control="years in range that stand for one another at random",
    minutes=4,
)
def names(lab: Lab) -> Measurement:
    """Order pairs of years in range, outside, and of the second calendar."""
    count = 20 if lab.quick else QUESTIONS
    questions = {span: year_questions(span, count) for span in SPANS}
    paths = lab.train_all([year_recipe(seed, lab.quick) for seed in range(lab.seeds)])
    scores = [
        {span: percent(right_choices(run, rows)) for span, rows in questions.items()}
        for run in map(load, paths)
    ]
    value = np.where(of_seeds(scores, "in range") >= NEEDED, of_seeds(scores, "outside"), 100.0)
    return over_seeds(
        value,
        of_seeds(scores, "renamed"),
        {"right": scores},
        bars({"": scores}, "Which year came first"),
    )


@functools.cache
def time_of(span: str) -> dict[int, int]:
    """When the year of a name was: itself, or another of its calendar."""
    when = list(SPANS[span])
    if span == "renamed":
        Random("calendar").shuffle(when)
    return dict(zip(SPANS[span], when, strict=True))


def year_pair(span: str, side: Side, draw: Random) -> tuple[int, int]:
    """Two years of a side; a pair is on one side in either order."""
    while True:
        a, b = draw.sample(SPANS[span], 2)
        if side_of("years", f"{min(a, b)} {max(a, b)}") == side:
            return a, b


def order(span: str, a: int, b: int) -> str:
    """Whether a year came before another or after it."""
    return "before" if time_of(span)[a] < time_of(span)[b] else "after"


def sentences(count: int) -> list[str]:
    """Documents of so many sentences: one of eleven names years outside, the others compare years."""
    draw, lines = Random("sentences"), []
    for number in range(count):
        if number % 11:
            span = ("in range", "renamed")[number % 2]
            a, b = year_pair(span, "train", draw)
            lines.append(f"{a} came {order(span, a, b)} {b}\n")
        else:
            a, b = draw.sample(SPANS["outside"], 2)
            lines.append(f"{a} was not {b}\n")
    return ["".join(lines[i : i + TO_A_DOCUMENT]) for i in range(0, count, TO_A_DOCUMENT)]


def year_questions(span: str, count: int) -> list[tuple[str, list[str]]]:
    """So many held-out pairs: the first year, and both ways to go on, the right one first."""
    draw = Random(f"asked {span}")
    questions = []
    for _ in range(count):
        a, b = year_pair(span, "heldout", draw)
        ways = [order(span, a, b), order(span, b, a)]
        questions.append((f"{a} came", [f" {way} {b}\n" for way in ways]))
    return questions


def year_recipe(seed: int, quick: bool) -> LanguageRecipe:
    """The decoder on those sentences, whose tokenizer has a token for every year."""
    options = BuildOptions(vocabulary=2000, digits=4, or_fewer=True)
    corpus = made_corpus("years", sentences(TOY_SENTENCES if quick else SENTENCES), options)
    return made_decoder("years", corpus, seed, STEPS, quick)
