"""Contamination: test text in the training text makes a score better than it is, and is found.

    maquette reproduce contamination      about 4 minutes on 2 cores, 2 seeds

Brown et al. (2020, section 4 and appendix C) looked for their benchmarks in GPT-3's training text by
n-grams of up to 13 words and scored the clean part again; Lee et al. (2022) found 4 % of C4's
validation set in its training set. Scaled down: 280,000 parameters and 2.7 MB of this machine's own
text; the benchmark is 1,500 passages of 300 characters of documents that are set aside. 5 % of them
are put into the training text ten times each. (Once would not show: of a string seen once a model of
this size keeps 5 bits, `memorisation`, which is less than the error of a mean over 75 passages.)

The score is bits per byte, the lower the better. The control of the first claim is a model that was
trained without the planted passages: its gap between the same two sets says how much easier one is by
itself. The control of the detector is a corpus into which nothing was put.

Expected: a gap of 0.24 bits per byte, 0.15 to 0.34; without the planted text -0.03, -0.12 to 0.06. All
planted examples are found, and 1 of the 75 in the corpus into which none was put. The clean examples
gain too, 0.14 bits per byte, probably from passages of the same documents (each arm has a tokenizer of
its own, which may have a part in it): "clean" is not "unaffected".
"""

import random
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.audit.canary import plant
from maquette.corpus.document import Document
from maquette.corpus.progress import silent
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

EXAMPLES, LENGTH, WORDS = 1500, 300, 20
PLANTED = 0.05  # of the examples
COPIES = 10
STEPS = 550  # of 2,048 tokens: once over the text
Array = npt.NDArray[np.float64]


@claim(
    statement="test text that was trained on is scored better than test text that was not",
    source="Brown et al. 2020, appendix C; Lee et al. 2022, section 6.1",
    metric="bits per byte of clean minus dirty examples: the lower end of its 95 % interval",
    at_least=0.0,
    control="the same two sets, scored by models trained without the planted text",
    minutes=5,
)
def inflation(lab: Lab) -> Measurement:
    """Train with and without the planted passages; score clean and dirty by what the detector says."""
    from maquette.audit.contamination import bits_per_byte, contamination, gap, split_scores

    host, examples = _benchmark(lab.quick)
    chosen = _chosen(examples)
    lines = [examples[i] for i in chosen for _ in range(COPIES)]
    options = BuildOptions(vocabulary=VOCABULARY, heldout=0.005)
    corpora = {
        "contaminated": kept_corpus("contaminated", plant(host, lines, seed=0), options),
        "clean": kept_corpus("uncontaminated", host, options),
    }
    runs = lab.train_all(
        [
            small_decoder(c, seed, lab.quick, STEPS)
            for c in corpora.values()
            for seed in range(lab.seeds)
        ]
    )
    flagged = contamination(corpora["contaminated"], {"test": examples})["test"]
    dirty = np.zeros(len(examples), bool)
    dirty[flagged.flagged] = True
    scores: dict[str, list[Array]] = {name: [] for name in corpora}
    for path, name in zip(runs, np.repeat(list(corpora), lab.seeds), strict=True):
        run = load(path)
        bits, sizes = bits_per_byte(run.model, run.tokenizer, examples)
        scores[name].append(bits)
    parts = {n: split_scores(np.mean(bits, 0), dirty, sizes) for n, bits in scores.items()}
    gaps = {name: gap(score) for name, score in parts.items()}
    better = np.mean(scores["clean"], 0) - np.mean(scores["contaminated"], 0)
    return Measurement(
        value=gaps["contaminated"].interval[0],
        control=gaps["clean"].interval[0],
        interval=gaps["contaminated"].interval,
        details={
            "dirty": flagged.dirty,
            "planted": len(chosen),
            "gap": {name: score.mean for name, score in gaps.items()},
            "stderr": {name: score.stderr for name, score in gaps.items()},
            "bits_per_byte": {
                n: {k: v.mean for k, v in score.items()} for n, score in parts.items()
            },
            "gained by training on it": {
                k: vars(v) for k, v in split_scores(better, dirty, sizes).items()
            },
        },
        chart=_scores(parts),
    )


@claim(
    statement="the detector finds every planted example, whatever became of its case and white space",
    source="Brown et al. 2020, appendix C",
    metric="fraction of planted examples that are flagged",
    at_least=1.0,
    control="the same examples in the corpus into which nothing was put",
    minutes=1,
    evidence="exact count",
)
def detector(lab: Lab) -> Measurement:
    """Plant each example once, disguised, at a random place; those held out with it do not count."""
    from maquette.audit.contamination import contamination
    from maquette.corpus.text.portrait import training_texts

    host, examples = _benchmark(lab.quick)
    chosen = _chosen(examples)
    disguised = [_disguise(examples[i], n) for n, i in enumerate(chosen)]
    options = BuildOptions(vocabulary=257, heldout=0.005)
    corpora = {
        "planted": kept_corpus("disguised", plant(host, disguised, seed=1), options),
        "not planted": kept_corpus("undisguised", host, options),
    }
    training = b"\0".join(training_texts(corpora["planted"], "reading", silent))
    chosen = [i for i, text in zip(chosen, disguised, strict=True) if text.encode() in training]
    results = {n: contamination(c, {"": examples})[""] for n, c in corpora.items()}
    recall = {n: float(np.isin(chosen, result.flagged).mean()) for n, result in results.items()}
    return Measurement(
        value=recall["planted"],
        control=recall["not planted"],
        details={
            "examples": len(examples),
            "planted": len(chosen),
            "flagged": {name: result.dirty for name, result in results.items()},
            "interval": {name: result.interval for name, result in results.items()},
        },
        chart=_bars(recall),
    )


def _benchmark(quick: bool) -> tuple[list[Document], list[str]]:
    """Documents to train on, and passages of a fifth of the documents, which are not trained on."""
    from maquette.corpus.text.overlap import word_count

    documents = clean_text(1 << 16 if quick else 1 << 20)
    aside = [d.text for i, d in enumerate(documents) if i % 5 == 0]
    passages = [text[i : i + LENGTH] for text in aside for i in range(0, len(text), LENGTH)]
    whole = [p for p in passages if len(p) == LENGTH and word_count(p) >= WORDS]
    examples = random.Random(0).sample(whole, min(EXAMPLES, len(whole)))
    return [d for i, d in enumerate(documents) if i % 5], examples


def _chosen(examples: Sequence[str]) -> list[int]:
    """Indices of the planted examples."""
    return sorted(
        random.Random(1).sample(range(len(examples)), max(4, int(PLANTED * len(examples))))
    )


def _disguise(text: str, number: int) -> str:
    """As it is, in capitals on one line, or with dashes and more lines."""
    if number % 3 == 0:
        return text
    return " ".join(text.upper().split()) if number % 3 == 1 else " --\n".join(text.split())


def _scores(parts: dict[str, Any]) -> Any:
    points = [
        {"model": name, "examples": which, "bits": part.mean,
         "low": part.interval[0], "high": part.interval[1]}
        for name, split in parts.items()
        for which, part in split.items()
    ]  # fmt: skip
    data = alt.Chart(alt.Data(values=points))
    y = alt.Y("examples:N", title=None, sort=["clean", "dirty", "all"])
    axis = alt.Scale(zero=False)
    rows = alt.layer(
        data.mark_point(filled=True, size=80).encode(
            alt.X("bits:Q", title="bits per byte", scale=axis), y
        ),
        data.mark_rule().encode(alt.X("low:Q", scale=axis), alt.X2("high:Q"), y),
    ).properties(width=charts.WIDTH, height=80)
    return rows.facet(row=alt.Row("model:N", title="training text")).properties(
        title="Trained on, and scored better"
    )


def _bars(recall: dict[str, float]) -> Any:
    points = [{"corpus": name, "recall": value} for name, value in recall.items()]
    return (
        alt.Chart(alt.Data(values=points))
        .mark_bar()
        .encode(
            alt.X(
                "recall:Q",
                title="planted examples that are flagged",
                scale=alt.Scale(domain=[0, 1]),
            ),
            alt.Y("corpus:N", title=None, sort=list(recall)),
        )
        .properties(width=charts.WIDTH, height=120, title="The detector finds what was planted")
    )
