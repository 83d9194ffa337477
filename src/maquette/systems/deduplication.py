"""Deduplication: a model trained on text without repeats writes less of it word for word (Lee et al. 2022).

    maquette reproduce deduplication      about 5 minutes on 2 cores, 2 seeds

The paper trained 1.5 billion parameters on C4 as it is, and on C4 without its near-duplicates or its
repeated substrings. Of what the first writes unprompted, over 1 % of the tokens are copies of 50
tokens or more; of what the others write, ten times fewer, at the same or a lower perplexity.

Scaled down: 280,000 parameters; 1.6 MB of this machine's own text, rid of its natural repeats and of
its rulers (a line of 72 equal signs is no memory); into it 24 documents of 1,000 characters are put
10, 30 or 100 times each, every time with another first line, two fifths of the whole. The deduplicated
arm is what `corpus build` makes of that by MinHash and by repeated substrings of 100 bytes. All arms
see as many tokens, cut by one tokenizer; the documents that bits per byte are taken on are in no arm.
64,000 tokens are sampled from each arm, all seeds together; a copy is 50 bytes or more. The control
removes as many bytes as deduplication did, of unique documents drawn at random: fewer bytes alone do
not help.

Expected: a ratio far above 5 (3.1 % of the tokens against 8 of 61,194 tokens; so few that the ratio
itself, 237, is loose; control 0.14), bits per byte 0.92 of those with duplicates (control 1.12). A
first design with twice the unique text and its rulers left in did not hold, at 4.1: the duplicates, a
quarter of the text and seen for three quarters of an epoch, were hardly remembered (0.7 %), and the
longest copies of the deduplicated arm were all rulers.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import train_tokenizer
from maquette.experiments.bases.small_decoder import (
    CONTEXT,
    VOCABULARY,
    clean_text,
    kept_corpus,
    small_decoder,
)
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.workshop import charts
from maquette.workshop.load import load

STEPS = 585  # of 2,048 tokens: 1.2 million, about once over the text with its duplicates
COPIES = (10, 30, 100)
REPEATED = 8  # documents of each number of copies
SAMPLED = 64_000  # tokens of each arm
RULER = re.compile(r"([^\w\s])\1{8,}")
PLAIN, CLEAN, FEWER = "as it is", "deduplicated", "fewer at random"


@claim(
    statement="without duplicates in its training text a model writes five times less of it verbatim",
    source="Lee et al. 2022, section 6.2 and table 4",
    metric="tokens in verbatim spans of 50 bytes: their fraction with duplicates over that without",
    at_least=5.0,
    control="as many bytes removed, of unique documents at random",
    minutes=6,
)
def emission(lab: Lab) -> Measurement:
    """Sample every arm from the start of a document on; look the samples up in its own corpus."""
    from maquette.audit.index import open_index
    from maquette.audit.memorised import memorised

    copied = {}
    for name, (corpus, runs) in _trained(lab).items():
        index = open_index(corpus)
        samples = 8 if lab.quick else -(-SAMPLED // (CONTEXT - 1) // lab.seeds)
        models = [load(path) for path in runs]
        copied[name] = [
            memorised(run.model, run.tokenizer, index, samples=samples, seed=seed)
            for seed, run in enumerate(models)
        ]
    counts = {n: np.array([[sum(m.verbatim), m.tokens] for m in ms]) for n, ms in copied.items()}
    each = _fraction(counts[PLAIN].T) / _fraction(counts[CLEAN].T)
    mean = {name: _fraction(count.sum(0)) for name, count in counts.items()}
    return Measurement(
        value=float(mean[PLAIN] / mean[CLEAN]),
        control=float(mean[PLAIN] / mean[FEWER]),
        interval=(float(each.min()), float(each.max())),
        details={
            name: {
                "tokens": int(counts[name][:, 1].sum()),
                "verbatim": int(counts[name][:, 0].sum()),
                "fractions": [m.fraction for m in ms],
                "intervals": [m.interval for m in ms],
                "longest": [m.spans[0].text for m in ms if m.spans],
            }
            for name, ms in copied.items()
        },
        chart=_bars(
            {name: [m.fraction for m in ms] for name, ms in copied.items()},
            "verbatim tokens, fraction",
        ),
    )


@claim(
    statement="deduplication costs no bits per byte on text that was not trained on",
    source="Lee et al. 2022, section 6.1 and figure 2",
    metric="bits per byte without duplicates over those with them, equal tokens",
    at_most=1.01,
    control="as many bytes removed, of unique documents at random",
    minutes=6,
)
def bits_per_byte(lab: Lab) -> Measurement:
    """Score the same held-out documents by the models of every arm."""
    from maquette.audit.contamination import bits_per_byte as score

    _, heldout = _documents(lab.quick)
    scores = {}
    for name, (_, runs) in _trained(lab).items():
        scored = [score(run.model, run.tokenizer, heldout) for run in map(load, runs)]
        scores[name] = np.array([np.average(bits, weights=sizes) for bits, sizes in scored])
    each = scores[CLEAN] / scores[PLAIN]
    return Measurement(
        value=float(scores[CLEAN].mean() / scores[PLAIN].mean()),
        control=float(scores[FEWER].mean() / scores[PLAIN].mean()),
        interval=(float(each.min()), float(each.max())),
        details={name: bits.tolist() for name, bits in scores.items()},
        chart=_bars({n: bits.tolist() for n, bits in scores.items()}, "bits per byte, held out"),
    )


def _trained(lab: Lab) -> dict[str, tuple[Corpus, list[Path]]]:
    """The three corpora, each with the runs of every seed."""
    documents, _ = _documents(lab.quick)
    originals = _originals(documents)
    duplicated = documents + _copies(originals)
    random.Random(0).shuffle(duplicated)
    tokenizer = train_tokenizer((d.text for d in documents), VOCABULARY)
    options = BuildOptions(heldout=0.01)
    cleaning = replace(options, near=0.8, substrings=100)
    plain = kept_corpus("duplicated", duplicated, options, tokenizer)
    clean = kept_corpus("deduplicated", duplicated, cleaning, tokenizer)
    removed = int(plain.manifest["bytes"]) - int(clean.manifest["bytes"])
    fewer = kept_corpus("fewer", _without(duplicated, originals, removed), options, tokenizer)
    corpora = {PLAIN: plain, CLEAN: clean, FEWER: fewer}
    recipes = [
        small_decoder(c, s, lab.quick, STEPS) for c in corpora.values() for s in range(lab.seeds)
    ]
    runs = lab.train_all(recipes)
    return {
        name: (corpus, runs[i * lab.seeds : (i + 1) * lab.seeds])
        for i, (name, corpus) in enumerate(corpora.items())
    }


def _fraction(counts: npt.NDArray[Any]) -> Any:
    """Verbatim tokens over all; one of them at least, so that a ratio to it is a lower bound."""
    verbatim, tokens = counts
    return np.maximum(1, verbatim) / np.maximum(1, tokens)


def _documents(quick: bool) -> tuple[list[Document], list[str]]:
    """Documents to train on, and the texts of a tenth of all, to score."""
    documents = [
        replace(d, text=RULER.sub(lambda ruler: ruler[0][:8], d.text))
        for d in clean_text(1 << 16 if quick else 1 << 19)
    ]
    return [d for i, d in enumerate(documents) if i % 10], [d.text for d in documents[::10]]


def _originals(documents: Sequence[Document]) -> list[str]:
    """The beginnings of documents from all over, 1,000 characters each."""
    long = [d.text[:1000] for d in documents if len(d.text) >= 1200]
    return random.Random(0).sample(long, min(len(COPIES) * REPEATED, len(long)))


def _copies(originals: Sequence[str]) -> list[Document]:
    """The repeated documents, each under a first line of its own."""
    return [
        Document(f"Mirror {number}-{copy}\n{text}", "repeated", f"copy:{number}/{copy}")
        for number, text in enumerate(originals)
        for copy in range(COPIES[number % len(COPIES)])
    ]


def _without(documents: Sequence[Document], originals: Sequence[str], size: int) -> list[Document]:
    """The documents less `size` bytes of unique ones."""
    unique = [i for i, d in enumerate(documents) if d.component != "repeated"]
    unique = [i for i in unique if documents[i].text[:1000] not in set(originals)]
    random.Random(1).shuffle(unique)
    dropped: set[int] = set()
    for i in unique:
        if size <= 0:
            break
        dropped.add(i)
        size -= len(documents[i].text.encode())
    return [d for i, d in enumerate(documents) if i not in dropped]


def _bars(values: dict[str, list[float]], title: str) -> Any:
    points = [
        {"arm": n, "value": v, "seed": s} for n, vs in values.items() for s, v in enumerate(vs)
    ]
    chart = alt.Chart(alt.Data(values=points))
    y = alt.Y("arm:N", title=None, sort=list(values))
    return alt.layer(
        chart.mark_bar(opacity=0.5).encode(alt.X("mean(value):Q", title=title), y),
        chart.mark_point(filled=True, size=70).encode(alt.X("value:Q"), y),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT // 2, title=f"Deduplication: {title}")
