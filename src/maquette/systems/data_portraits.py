"""Data Portraits: a corpus' membership in a file of a hundredth of its size (Marone, Van Durme 2023).

    maquette reproduce data_portraits          about a minute on one core

The paper records strided 50-grams of the Pile and other corpora in Bloom filters of about 3 % of
the text, and finds verbatim overlap of at least 99 characters by chains of hits. Scaled down: the
95 MB of text that are on this machine instead of 825 GB. Ours is the portrait of corpus/text/portrait.py:
grams of 33 bytes, 67 apart, which promise the same 99 characters, in a binary fuse filter of 7 bits.

The paper's 3 % are at an error of about one in a thousand for a gram (its filter for The Stack has
14.7 bits an element), so the Bloom filter here is sized for 1 %, the error ours is held to. Nor does
a gram's error say how far a span is to be believed; audit/member.py derives that, and the third claim
holds it against texts of which nothing was seen.

Expected: 0.0117 bytes for a byte of text at a gram error of 0.79 % (Bloom 50/50 at 1 %: 0.0204);
recall 1 from 99 characters on (0.8 at 60: text on this machine repeats itself); chains of 2 hits in
2.6 % of texts of 500 characters where m e^2 is 2.4 %, 1.5 standard errors away (28 from 0.78 %).
"""

import math
import string
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt

from maquette.audit.member import chance, member
from maquette.corpus.progress import silent
from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.ngram_hashes import Hashes, as_bytes, gram_hashes, strided_hashes
from maquette.corpus.text.portrait import (
    STRIDE,
    WIDTH,
    Portrait,
    build_portrait,
    training_rows,
    training_texts,
)
from maquette.corpus.text.store import Corpus
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.workshop import charts

PUBLISHED = 50  # width and stride of the paper's grams
GRAM_ERROR = 0.01
PIECE = 500  # characters of a text in the third claim
LETTERS = np.frombuffer((string.ascii_letters + string.digits + " .,;").encode(), np.uint8)


@claim(
    statement="grams of 33 bytes in a binary fuse filter: a fraction of the published Bloom filter's size",
    source="Marone and Van Durme 2023, section 3; Graf and Lemire 2022",
    metric="bytes of the portrait for a byte of training text, at a measured gram error of at most 1 %",
    at_most=0.0130,
    control="a Bloom filter of 50-grams, 50 apart, at 1 %",
    minutes=1,
    evidence="exact count",
)
def size(lab: Lab) -> Measurement:
    """The file's size, and its error on the grams of text that is not in the corpus."""
    corpus = _corpus(lab)
    texts = list(training_texts(corpus, "portrait", silent))
    total = sum(map(len, texts))
    ours, theirs = (_exact(texts, w, s) for w, s in ((WIDTH, STRIDE), (PUBLISHED, PUBLISHED)))
    with _portrait(corpus) as portrait:
        other = [*_heldout(corpus), _random_text(np.random.default_rng(0), 1 << 20)]
        grams = np.unique(np.concatenate([gram_hashes(as_bytes(t), WIDTH) for t in other]))
        strangers = grams[~_among(ours, grams)]
        error = float(portrait.fuse.contains(strangers).mean())
        bytes_of = {
            "portrait: fuse, 33/67": portrait.size / total,
            "Bloom 50/50 at 1 %": _bloom(len(theirs), GRAM_ERROR) / total,
            "Bloom 50/50 at 0.1 %": _bloom(len(theirs), 0.001) / total,
            "Bloom 33/67 at 1 %": _bloom(len(ours), GRAM_ERROR) / total,
            "limit, 33/67 at 1 %": len(ours) * math.log2(1 / GRAM_ERROR) / 8 / total,
            "limit, 33/67 at 0.8 %": len(ours) * portrait.fuse.bits / 8 / total,
        }
    mine, published = list(bytes_of.values())[:2]
    details = {
        "bytes_of_text": total,
        "grams": {"33/67": len(ours), "50/50": len(theirs)},
        "gram_error": error,
        "strangers": len(strangers),
        "bytes_for_a_byte": bytes_of,
        "bloom": "rbloom" if _rbloom() else "by its formula (rbloom is not installed)",
    }
    return Measurement(
        value=mine if error <= GRAM_ERROR else math.inf,
        control=published,
        details=details,
        chart=_bars(bytes_of),
    )


@claim(
    statement="every verbatim run of at least 99 characters is found",
    source="Marone and Van Durme 2023, section 3.2",
    metric="fraction of planted runs of 99 to 300 characters that are found",
    at_least=1.0,
    control="runs of 60 characters",
    minutes=1,
    evidence="exact count",
)
def recall(lab: Lab) -> Measurement:
    """Plant runs of training text into random text at random offsets, and look for them."""
    corpus = _corpus(lab)
    draw = np.random.default_rng(0)
    count = 100 if lab.quick else 2000
    with _portrait(corpus) as portrait:
        lengths = draw.integers(99, 301, count).tolist()
        recalled = _found(portrait, corpus, [99] * count + lengths, draw)
        curve = {
            n: _found(portrait, corpus, [n] * (count // 2), draw)
            for n in (34, 40, 50, 60, 70, 80, 90, 98, 99, 110, 130)
        }
    return Measurement(
        value=recalled,
        control=curve[60],
        details={"planted": 2 * count, "found_by_length": {str(n): f for n, f in curve.items()}},
        chart=_curve(curve),
    )


@claim(
    statement="accidental chains are as rare as m e^c, whatever a single gram's error is",
    source="audit/member.py, equation 1",
    metric="distance of the measured rate of chains of 2 hits from the law, in standard errors",
    at_most=2.0,
    control="the rate were that of a single gram",
    minutes=1,
    evidence="exact count",
)
def span_law(lab: Lab) -> Measurement:
    """Count texts of 500 characters, none of whose grams was seen, that show a chain all the same."""
    corpus = _corpus(lab)
    draw = np.random.default_rng(0)
    random = _random_text(draw, (1 << 19) if lab.quick else (1 << 23)).decode()
    heldout = [t.decode("utf-8", "replace") for t in _heldout(corpus)]
    exact = _exact(training_texts(corpus, "portrait", silent), WIDTH, STRIDE)
    with _portrait(corpus) as portrait:
        sources = {"random": [random], "held-out": heldout}
        tables = {
            name: _accidents(portrait, exact, _pieces(texts, PIECE), 2)
            for name, texts in sources.items()
        }
        law = {
            (length, c): _accidents(portrait, exact, _pieces([random], length), c)
            for length in (250, 500, 1000, 2000)
            for c in (2, 3)
        }
        accidents, expected, texts = (sum(column) for column in zip(*tables.values(), strict=True))
        error = portrait.error
    rate, predicted = accidents / texts, expected / texts
    return Measurement(
        value=_distance(rate, predicted, texts),
        control=_distance(rate, error, texts),
        details={
            "texts": texts,
            "rate": rate,
            "law": predicted,
            "gram_error": error,
            "by_source": {
                name: {"texts": n, "accidents": a, "expected": e}
                for name, (a, e, n) in tables.items()
            },
            "by_length": [
                {"characters": length, "hits": c, "texts": n, "accidents": a, "expected": e}
                for (length, c), (a, e, n) in law.items()
            ],
        },
        chart=_law(law, error),
    )


def _corpus(lab: Lab) -> Corpus:
    return open_corpus("tiny" if lab.quick else "default")


@contextmanager
def _portrait(corpus: Corpus) -> Iterator[Portrait]:
    with tempfile.TemporaryDirectory() as folder:
        yield build_portrait(corpus, Path(folder) / "portrait.bin")


def _heldout(corpus: Corpus) -> list[bytes]:
    training = set(training_rows(corpus).tolist())
    return [corpus.text(row) for row in range(len(corpus.documents)) if row not in training]


def _random_text(draw: np.random.Generator, length: int) -> bytes:
    return LETTERS[draw.integers(0, len(LETTERS), length)].tobytes()


def _exact(texts: Iterator[bytes] | list[bytes], width: int, stride: int) -> Hashes:
    """The set that the filters approximate, in ascending order."""
    return np.unique(np.concatenate([strided_hashes(as_bytes(t), width, stride) for t in texts]))


def _among(known: Hashes, hashes: Hashes) -> npt.NDArray[np.bool_]:
    index = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.equal(known[index], hashes)


def _rbloom() -> Any:
    try:
        import rbloom
    except ImportError:
        return None
    return rbloom


def _bloom(items: int, error: float) -> float:
    """Bytes of a Bloom filter: rbloom's, or n log2(1/e) / ln 2 bits where it is not installed."""
    if library := _rbloom():
        return float(library.Bloom(items, error).size_in_bits) / 8
    return items * math.log2(1 / error) / math.log(2) / 8


def _found(
    portrait: Portrait, corpus: Corpus, lengths: Sequence[int], draw: np.random.Generator
) -> float:
    """The fraction of planted runs on which a reported span lies with a whole gram."""
    rows = training_rows(corpus)
    least = portrait.width - 6  # up to three bytes at either end are of characters seen in part
    hits = 0
    for length in lengths:
        while len(text := corpus.text(int(draw.choice(rows))).decode()) < length:
            pass
        at = int(draw.integers(0, len(text) - length + 1))
        before, after = (_random_text(draw, int(draw.integers(0, 400))).decode() for _ in range(2))
        query = before + text[at : at + length] + after
        first, last = len(before), len(before) + length
        hits += any(
            len(query[max(first, s.start) : min(last, s.end)].encode()) >= least
            for s in member(portrait, query).spans
        )
    return hits / len(lengths)


def _pieces(texts: Sequence[str], length: int) -> Iterator[str]:
    for text in texts:
        for at in range(0, len(text) - length + 1, length):
            yield text[at : at + length]


def _accidents(
    portrait: Portrait, exact: Hashes, texts: Iterator[str], strength: int
) -> tuple[int, float, int]:
    """Of texts of which nothing was seen: how many have such a chain, should have one, there are."""
    accidents, expected, count = 0, 0.0, 0
    for text in texts:
        grams = gram_hashes(as_bytes(text), portrait.width)
        if _among(exact, grams).any():
            continue
        bound = chance(portrait, len(grams), strength)
        accidents += any(span.bound <= bound for span in member(portrait, text).spans)
        expected += bound
        count += 1
    return accidents, expected, count


def _distance(rate: float, predicted: float, texts: int) -> float:
    return abs(rate - predicted) / math.sqrt(predicted * (1 - predicted) / texts)


def _bars(sizes: dict[str, float]) -> Any:
    rows = [{"what": name, "size": size, "ours": name[0] == "p"} for name, size in sizes.items()]
    x = alt.X("size:Q", title="bytes for a byte of training text", axis=alt.Axis(format=".3f"))
    y = alt.Y("what:N", title=None, sort=None, axis=alt.Axis(labelLimit=200))
    colour = alt.condition("datum.ours", alt.value(charts.ACCENT), alt.value(charts.SECOND))
    bars = alt.Chart(alt.Data(values=rows)).encode(x, y)
    return alt.layer(
        bars.mark_bar().encode(color=colour),
        bars.mark_text(align="left", dx=4).encode(text=alt.Text("size:Q", format=".4f")),
    ).properties(
        width=charts.WIDTH - 80, height=200, title="Size of a portrait that misses no 99 characters"
    )


def _curve(recall_by_length: dict[int, float]) -> Any:
    rows = [{"length": n, "found": f, "what": "found"} for n, f in recall_by_length.items()]
    rows += [
        {
            "length": n,
            "found": min(1, max(0, n - WIDTH + 1) / STRIDE),
            "what": "promised",
        }
        for n in (WIDTH - 1, WIDTH + STRIDE - 1, 130)
    ]
    x = alt.X("length:Q", title="characters of the planted run", scale=alt.Scale(domain=[30, 130]))
    y = alt.Y("found:Q", title="fraction", scale=alt.Scale(domain=[0, 1.05]))
    colour = alt.Color("what:N", title=None)
    layers = alt.Chart(alt.Data(values=rows)).encode(x, y, colour)
    return alt.layer(
        layers.transform_filter("datum.what == 'found'").mark_point(filled=True, size=70),
        layers.transform_filter("datum.what != 'found'").mark_line(strokeDash=[6, 4]),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT, title="From 99 characters on, every run is found"
    )


def _law(law: dict[tuple[int, int], tuple[int, float, int]], error: float) -> Any:
    rows = []
    for (length, c), (accidents, expected, texts) in law.items():
        rate = accidents / texts
        spread = math.sqrt(max(rate, expected / texts) / texts)
        rows.append(
            {
                "characters": length,
                "rate": max(rate, 1e-5),
                "law": expected / texts,
                "low": max(rate - spread, 1e-5),
                "high": max(rate + spread, 1e-5),
                "hits": f"{c} hits or more",
            }
        )
    log = alt.Scale(type="log", domain=[1e-5, 1])
    x = alt.X("characters:Q", title="characters of a text of which nothing was seen",
              scale=alt.Scale(type="log", domain=[220, 2300]))  # fmt: skip
    colour = alt.Color("hits:N", title=None)
    base = alt.Chart(alt.Data(values=rows)).encode(x, color=colour)
    naive = alt.Chart(alt.Data(values=[{"error": error}]))
    return alt.layer(
        base.mark_line(strokeDash=[6, 4]).encode(y=alt.Y("law:Q")),
        base.mark_rule().encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=70).encode(
            y=alt.Y("rate:Q", title="fraction with an accidental chain", scale=log)
        ),
        naive.mark_rule(color=charts.FAINT).encode(y=alt.Y("error:Q")),
    ).properties(
        width=charts.WIDTH, height=charts.HEIGHT,
        title="Accidental chains (points) and m e^c (dashed); one gram's error (grey)",
    )  # fmt: skip
