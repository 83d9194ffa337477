"""Continued pre-training: whether one's own documents are a drop in the ocean, or push the needle.

    maquette adapt continue RUN DOCUMENTS
    maquette reproduce continued          about 20 minutes on one shared core, 2 seeds

Gururangan et al. (2020, "Don't Stop Pretraining") go on with the pre-training of RoBERTa on 2 to 8 billion
words of a domain, and the domain's loss falls and its tasks gain; on text of another domain they do not. How
much is needed is asked here. Scaled down: 1, 3, 10 ... 1000 documents of 1,000 characters (prose: texts
of this machine's Python packages), for a decoder of 280,000 parameters that has read 4 MB of source code and
its tests. Every arm is `adapt continue` as it is, with its own number of steps for that many documents and a
tenth of replay; scored are 120 other documents of the domain.

The control are as many documents of source code that are not the domain's: what falls there is not what
was asked for. What is forgotten of the base's own text is in the details.

Expected: the claim fails. The needle moves, from 3.087 bits per byte to 3.078 with one document, 2.934 with
100 and 2.397 with 1,000 (unrelated ones: 2.927), but ever faster, not along the logarithm (R^2 0.74): so
small a base has learned little of English, and the domain is not all that it learns from 1,000 documents.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from maquette.adaptation.continued import ContinueOptions, continued_recipe
from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import LocalPart
from maquette.corpus.text.store import Corpus
from maquette.evaluation.bits_per_byte import score_corpus
from maquette.experiments.bases.small_decoder import (
    CONTEXT,
    VOCABULARY,
    kept_corpus,
    small_decoder,
)
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.training.datasets.text_config import TextData
from maquette.training.recipe import LanguageRecipe
from maquette.workshop import charts
from maquette.workshop.load import load

SIZES = (1, 3, 10, 30, 100, 300, 1000)
STEPS, LETTERS, SCORED = 350, 1000, 120
"""steps of the base, characters of a document, and number of documents that are scored"""
FALL = 0.1  # of the bits per byte, which at least is a push
DOMAIN, CONTROL = "documents of the domain", "unrelated documents"


@claim(
    statement="a domain's bits per byte fall with the logarithm of the number of its documents",
    source="Gururangan et al. 2020, section 3 (the number of documents is varied here)",
    metric="R^2 of the domain's bits per byte on log documents, 1 to 1000; 0 where they fall by less than "
    "a tenth from 1 to 1000",
    at_least=0.9,
    control="as many unrelated documents",
    minutes=6,
)
def needle(lab: Lab) -> Measurement:
    """Go on with the base on more and more documents of the domain, and on as many unrelated ones."""
    sizes = (1, 12) if lab.quick else SIZES
    base, parts, held = corpora(lab.quick)
    start = lab.train(small_decoder(base, 0, lab.quick, STEPS))
    keys = [(name, size, seed) for seed in range(lab.seeds) for name in parts for size in sizes]
    recipes = [arm(start, subset(parts[n], size), seed, lab.quick) for n, size, seed in keys]
    most = 4_000 if lab.quick else 100_000
    domain: dict[str, list[list[float]]] = {name: [] for name in parts}
    own: dict[str, list[list[float]]] = {name: [] for name in parts}
    for (name, size, _), path in zip(keys, lab.train_all(recipes), strict=True):
        for found, corpus in ((domain, held), (own, base)):
            if size == sizes[0]:
                found[name].append([])
            found[name][-1].append(bits(path, corpus, most))
    each = [straightness(sizes, row) for row in domain[DOMAIN]]
    before = {"domain": bits(start, held, most), "own": bits(start, base, most)}
    return Measurement(
        value=straightness(sizes, np.mean(domain[DOMAIN], 0)),
        control=straightness(sizes, np.mean(domain[CONTROL], 0)),
        interval=(min(each), max(each)),
        details={
            "documents": list(sizes),
            "before": before,
            "bits per byte of the domain": domain,
            "bits per byte of the base's own text": own,
            "forgotten, bits per byte": {
                name: (np.mean(rows, 0) - before["own"]).tolist() for name, rows in own.items()
            },
        },
        chart=chart(sizes, domain, before["domain"]),
    )


def corpora(quick: bool) -> tuple[Corpus, dict[str, list[Document]], Corpus]:
    """The base's corpus, the documents of both arms, and the held-out ones of the domain."""
    limit = 1 << 16 if quick else 2 << 20
    code = [
        document
        for component in ("code", "tests")
        for document in LocalPart(component, limit)
        if isinstance(document, Document)
    ]
    base = kept_corpus(
        "continued-base", code, BuildOptions(vocabulary=512 if quick else VOCABULARY)
    )
    most, scored = (20, 8) if quick else (max(SIZES), SCORED)
    prose = cut(LocalPart("prose", 8 << 20), most + scored)
    read = {document.source for document in code}
    others = [d for d in cut(LocalPart("code", 16 << 20), 10**6) if d.source not in read][-most:]
    held = kept_corpus(
        "continued-held", prose[-scored:], BuildOptions(heldout=0.9), tokenizer=base.tokenizer
    )
    return base, {DOMAIN: prose[:-scored], CONTROL: others}, held


def cut(source: LocalPart, most: int) -> list[Document]:
    """The first `most` documents of a component that are long enough, as long as each other."""
    found = []
    for document in source:
        if isinstance(document, Document) and len(document.text) >= LETTERS:
            found.append(replace(document, text=document.text[:LETTERS]))
            if len(found) == most:
                break
    return found


def subset(documents: list[Document], size: int) -> list[Document]:
    """Documents from all over a list, so that each size has the same kinds of them."""
    return documents[:: max(1, len(documents) // size)][:size]


def arm(start: Path, documents: list[Document], seed: int, quick: bool) -> LanguageRecipe:
    """The run that `adapt continue` makes of that many documents."""
    base = load(start)
    corpus = kept_corpus(
        "continued", documents, BuildOptions(heldout=0.05), tokenizer=base.tokenizer
    )
    data = TextData(corpus=str(corpus.path), sequence=CONTEXT)
    options = ContinueOptions(seed=seed, steps=4 if quick else None)
    recipe = continued_recipe(
        options, start, base.model.config, base.recipe, data, len(corpus.train)
    )
    watch = replace(recipe.watch, every=10_000, tokens=4096)
    return replace(recipe, precision="fp32", compile="off", watch=watch)


def bits(path: Path, corpus: Corpus, most: int) -> float:
    """Bits per byte of a corpus' held-out text."""
    return score_corpus(load(path).model, corpus, most_bytes=most)["all"].bits_per_byte


def straightness(sizes: tuple[int, ...], values: Any) -> float:
    """R^2 of a line through values over log sizes; 0 where they fall by less than `FALL` of the first."""
    y = np.asarray(values, np.float64)
    if y[-1] > (1 - FALL) * y[0]:
        return 0.0
    return float(np.corrcoef(np.log(sizes), y)[0, 1] ** 2)


def chart(sizes: tuple[int, ...], domain: dict[str, list[list[float]]], before: float) -> Any:
    points = [
        {"documents": size, "bits": value, "of": name}
        for name, rows in domain.items()
        for row in rows
        for size, value in zip(sizes, row, strict=True)
    ]
    data = alt.Chart(alt.Data(values=points))
    x = alt.X("documents:Q", title="documents", scale=alt.Scale(type="log"))
    color = alt.Color("of:N", title=None, sort=[DOMAIN, CONTROL])
    mean = alt.Y("mean(bits):Q", title="bits per byte of the domain", scale=alt.Scale(zero=False))
    level = alt.Chart(alt.Data(values=[{"bits": before}])).mark_rule(strokeDash=[4, 4])
    return alt.layer(
        data.mark_point(filled=True, size=60).encode(x, alt.Y("bits:Q"), color),
        data.mark_line().encode(x, mean, color),
        level.encode(y="bits:Q"),
    ).properties(
        width=charts.WIDTH,
        height=charts.HEIGHT,
        title="A drop in the ocean, or a push of the needle",
    )
