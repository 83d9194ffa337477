"""Tokens of arithmetic: sums are learned from digits, not from numbers cut where byte pairs fall.

    maquette reproduce arithmetic_tokens  about 8 minutes on one core, 2 seeds

GPT-3 (Brown et al. 2020) adds numbers of two digits and fails at more; one explanation is its tokenizer,
which cuts numbers into pieces of one to four digits, so that the same digit is another token wherever it
stands, or none. Claimed here: with everything else equal, digits are worth more than 20 points.

Scaled down: decoders of 130,000 parameters (more where the vocabulary is larger) on sums such as
"57+486=543", half of them of numbers below 100 and half below 1,000. The questions are pairs of numbers that
were not in the training text in either order; the answer counts where greedy decoding writes all of it,
with its end.

Three tokenizers see one text: plain bytes, a byte-pair tokenizer that may join three digits (as GPT-4's
does), and one alike that keeps digits apart. All arms read as many tokens, so that long tokens see more
sums: what is left is in favour of byte pairs. The control is the byte-pair tokenizer whose digits are
apart, so that what is shown is of the digits and not of byte pairs.

Expected: the thresholds; neither measured nor tried at full length.
"""

import re
from random import Random

import numpy as np

from maquette.corpus.text.build_options import BuildOptions
from maquette.experiments.bases.made_documents import exact_matches, made_corpus, made_decoder
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.experiments.percent_right import bars, of_seeds, over_seeds, percent
from maquette.workshop.load import load
from maquette.worlds.questions.registry import Asked, question_world

WORLDS = {2: "arithmetic_2da", 3: "arithmetic_3da"}
LINES, TO_A_DOCUMENT = 200_000, 20
STEPS = 1200  # of 1,792 tokens: 2.2 million
QUESTIONS = 500  # of each number of digits
BYTES, MERGED, APART = "bytes", "byte pairs", "byte pairs, digits apart"
TOKENIZERS = {
    BYTES: BuildOptions(vocabulary=257),
    MERGED: BuildOptions(vocabulary=1500, digits=3, or_fewer=True),
    APART: BuildOptions(vocabulary=280, digits=1, or_fewer=True),
}


@claim(
    statement="sums are learned from single digits, not from byte pairs of digits",
    source="Brown et al. 2020, section 3.9.1; data_audit D10",
    metric="points of held-out sums of 2 and 3 digits, bytes minus byte pairs",
    at_least=20,
    control="bytes minus byte pairs whose digits are apart",
    minutes=10,
)
def digits(lab: Lab) -> Measurement:
    """Train on one text of sums in three tokenizers, and ask for held-out sums."""
    texts = documents(1500 if lab.quick else LINES)
    corpora = {name: made_corpus("sums", texts, options) for name, options in TOKENIZERS.items()}
    arms = [(name, seed) for name in TOKENIZERS for seed in range(lab.seeds)]
    runs = lab.train_all(
        [made_decoder("sums", corpora[name], seed, STEPS, lab.quick) for name, seed in arms]
    )
    count = 20 if lab.quick else QUESTIONS
    questions = {f"{n} digits": held_out(world, count) for n, world in WORLDS.items()}
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in TOKENIZERS}
    for (name, _), run in zip(arms, map(load, runs), strict=True):
        scores[name].append(
            {kind: percent(exact_matches(run, rows)) for kind, rows in questions.items()}
        )
    mean = {
        name: np.mean([of_seeds(seeds, kind) for kind in questions], 0)
        for name, seeds in scores.items()
    }  # (seeds,) each
    return over_seeds(
        mean[BYTES] - mean[MERGED],
        mean[BYTES] - mean[APART],
        {
            "right": scores,
            "tokens_a_sum": {
                name: corpus.manifest["tokens"] / len(texts) / TO_A_DOCUMENT
                for name, corpus in corpora.items()
            },
            "vocabulary": {name: corpus.vocabulary for name, corpus in corpora.items()},
        },
        bars(scores, "Sums by the tokens of their digits", "tokens"),
    )


def line(asked: Asked) -> tuple[str, str]:
    """A sum of the world as its beginning and the rest of its line."""
    a, b = re.findall(r"\d+", asked.question)
    return f"{a}+{b}=", f"{asked.answer}\n"


def documents(count: int) -> list[str]:
    """So many sums of the training side, 2 and 3 digits by turns, twenty to a document."""
    pools = [question_world(world).questions(count // 2, 0, "train") for world in WORLDS.values()]
    draw = Random("sums")
    lines = ["".join(line(draw.choice(pools[i % len(pools)]))) for i in range(count)]
    return ["".join(lines[i : i + TO_A_DOCUMENT]) for i in range(0, count, TO_A_DOCUMENT)]


def held_out(world: str, count: int) -> list[tuple[str, str]]:
    """So many sums of the held-out side."""
    return [line(one) for one in question_world(world).questions(count)]
