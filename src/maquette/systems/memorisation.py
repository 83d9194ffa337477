"""Memorisation: what is remembered of a text grows with the logarithm of how often it was seen.

    maquette reproduce memorisation       about 2 minutes on 2 cores, 2 seeds

Carlini et al. (2022) ask GPT-Neo for continuations of its own training text: the fraction that it
gives word for word grows log-linearly in the number of copies, in the size of the model and in the
length of the prompt. Scaled down: 280,000 parameters on 3 MB of this machine's own text, and for
natural text of unknown history canaries (Carlini et al. 2019), random strings of 24 letters, 16 of
each number of copies, drawn anew for every seed. Claimed again is the law in the copies, 1 to 300.

What is remembered is measured in bits: how much lower a canary's loss is than the mean of 4,095
alternatives drawn with it and kept out. Rank among these (exposure, with its exact p-value) and
verbatim extraction are in the details: at this size the one cannot exceed 12 bits, where it stands
from 30 copies on, and the other is 0 up to there, so neither shows the law from end to end. The
control is the same score of as many canaries of another seed, which nothing was trained on.

Expected: R^2 0.956 (the seeds 0.954 and 0.956): 5, 20, 48, 114, 153 and 162 bits; control 0. The curve
is an S on this axis, as it must be between nothing and all: over fewer levels it is less straight.
Smaller or slower learners were tried at one seed (width 32 to 48, rates of 0.0015 to 0.005): there
memory sets in between 30 and 100 copies and more abruptly.
"""

from typing import Any

import altair as alt
import numpy as np

from maquette.audit.canary import Canaries, Level
from maquette.corpus.text.build_options import BuildOptions
from maquette.experiments.bases.small_decoder import (
    VOCABULARY,
    clean_text,
    kept_corpus,
    small_decoder,
)
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.workshop import charts
from maquette.workshop.load import load

STEPS = 700  # of 2,048 tokens: 1.4 million, once over the text
OTHER = 1000  # seed of the control's canaries


@claim(
    statement="what is remembered of a text grows with the logarithm of its copies",
    source="Carlini et al. 2022, figure 1b",
    metric="R^2 of bits remembered on log copies, 1 to 300; 0 where a level is below the one before",
    at_least=0.9,
    control="canaries that were drawn alike and never planted",
    minutes=3,
)
def copies(lab: Lab) -> Measurement:
    """Plant canaries, train, and score them against their alternatives."""
    host = clean_text(1 << 16 if lab.quick else 1 << 20)
    planted = [_canaries(seed, lab.quick) for seed in range(lab.seeds)]
    corpora = [
        kept_corpus("canaries", canaries.documents(host), BuildOptions(vocabulary=VOCABULARY))
        for canaries in planted
    ]
    recipes = [small_decoder(c, seed, lab.quick, STEPS) for seed, c in enumerate(corpora)]
    levels, control = [], []
    for seed, path in enumerate(lab.train_all(recipes)):
        run = load(path)
        levels.append(planted[seed].score(run.model, run.tokenizer))
        others = _canaries(OTHER + seed, lab.quick)
        control.append(others.score(run.model, run.tokenizer))
    bits, never = _bits(levels), _bits(control)  # (seeds, levels)
    counts = [level.copies for level in levels[0]]
    each = [straightness(counts, row) for row in bits]
    return Measurement(
        value=straightness(counts, bits.mean(0)),
        control=straightness(counts, never.mean(0)),
        interval=(min(each), max(each)),
        details={
            "copies": counts,
            "planted": [_summary(level) for level in levels],
            "never planted": [_summary(level) for level in control],
        },
        chart=_chart(counts, bits, never),
    )


def _canaries(seed: int, quick: bool) -> Canaries:
    return Canaries(seed, per_level=2, alternatives=63) if quick else Canaries(seed, per_level=16)


def straightness(counts: list[int], bits: Any) -> float:
    """R^2 of a line through bits over log copies; 0 where they do not rise all the way."""
    y = np.asarray(bits, np.float64)
    if (np.diff(y) < 0).any():
        return 0.0
    return float(np.corrcoef(np.log(counts), y)[0, 1] ** 2)


def _bits(results: list[list[Level]]) -> Any:
    return np.array([[level.memorised_bits for level in levels] for levels in results])


def _summary(levels: list[Level]) -> dict[str, list[float]]:
    return {
        "bits": [level.memorised_bits for level in levels],
        "exposure": [level.exposure for level in levels],
        "p_value": [level.p_value for level in levels],
        "extraction_rate": [level.extraction_rate for level in levels],
    }


def _chart(counts: list[int], planted: Any, never: Any) -> Any:
    points = [
        {"copies": c, "bits": float(b), "what": name}
        for name, rows in (("planted", planted), ("never planted", never))
        for row in rows
        for c, b in zip(counts, row, strict=True)
    ]
    data = alt.Chart(alt.Data(values=points))
    x = alt.X("copies:Q", title="copies in the training text", scale=alt.Scale(type="log"))
    color = alt.Color("what:N", title=None, sort=["planted", "never planted"])
    mean = alt.Y("mean(bits):Q", title="bits remembered of a canary")
    return alt.layer(
        data.mark_point(filled=True, size=60).encode(x, alt.Y("bits:Q"), color),
        data.mark_line().encode(x, mean, color),
    ).properties(
        width=charts.WIDTH,
        height=charts.HEIGHT,
        title="Memory grows with the logarithm of the copies",
    )
