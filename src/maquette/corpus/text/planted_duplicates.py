"""Planted duplicates: how many does deduplication find, and is what it finds one?

Copies go into given texts, and what was done is known: some are the text itself, some differ in case and
white space alone, some have so many words changed that their Jaccard similarity is the one wanted,
and decoys are changed so much that they must stay. Stretches of some texts are put into others. The
similarities are measured here by sets of Python, which nothing in near_duplicates.py or substring.py uses.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from maquette.base.statistics import wilson
from maquette.corpus.text.near_duplicates import WIDTH, Near, fold, near_duplicates, signatures
from maquette.corpus.text.substring import Ranges, repeated_ranges

WORD = re.compile(r"\S+\s*")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHECKED = 500  # found pairs and ranges looked at for the precision, when there are more


@dataclass(frozen=True)
class Copy:
    """Text number `copy` was made from number `original`; their gram sets have that similarity."""

    kind: str  # exact, spaced, near, decoy
    original: int
    copy: int
    similarity: float


@dataclass(frozen=True)
class Stretch:
    """Bytes start .. end of text `host` stand in an earlier text."""

    host: int
    start: int
    end: int


@dataclass
class Planted:
    """The texts, and the truth about them."""

    texts: list[bytes]
    copies: list[Copy] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)


@dataclass(frozen=True)
class Rate:
    """A proportion with its 95 % interval (Wilson 1927, which holds near 0 and 1 too)."""

    right: int
    of: int

    @property
    def value(self) -> float:
        return self.right / self.of if self.of else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.of)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.4f} [{low:.4f}, {high:.4f}] ({self.right:,} of {self.of:,})"


def similarity(a: bytes, b: bytes) -> float:
    """The Jaccard similarity of the gram sets of two texts, the slow and plain way."""
    x, y = ({t[i : i + WIDTH] for i in range(len(t) - WIDTH + 1)} for t in _folded(a, b))
    return len(x & y) / len(x | y)


def plant(
    texts: Sequence[bytes],
    seed: int = 0,
    *,
    exact: int = 50,
    spaced: int = 50,
    near: int = 100,
    decoys: int = 100,
    jaccard: float = 0.8,
    decoy_jaccard: float = 0.7,
    stretches: int = 100,
    length: int = 200,
) -> Planted:
    """Put copies of `texts` behind them, in a random order, and stretches into the later half.

    near: copies of similarity `jaccard` or as little above it as one more word changed would take
    away; decoys: the same for `decoy_jaccard`. length: characters of a stretch. Copies and
    stretches are made of texts in the earlier half that are long enough for it.
    """
    draw = random.Random(seed)
    half = len(texts) // 2
    planted = Planted(list(texts))
    for host in draw.sample(range(half, len(texts)), min(stretches, len(texts) - half)):
        source = texts[draw.randrange(half)].decode()
        if len(source) < length:
            continue
        at = draw.randrange(len(source) - length + 1)
        stretch = source[at : at + length].encode()
        whole = texts[host].decode()
        before = whole[: draw.randrange(len(whole) + 1)].encode()
        planted.texts[host] = before + stretch + texts[host][len(before) :]
        planted.stretches.append(Stretch(host, len(before), len(before) + len(stretch)))
    kinds = exact * ["exact"] + spaced * ["spaced"] + near * ["near"] + decoys * ["decoy"]
    draw.shuffle(kinds)
    long_enough = [i for i in range(half) if len(fold(texts[i])) >= 40 * WIDTH]
    for kind, original in zip(kinds, draw.sample(long_enough, len(long_enough)), strict=False):
        text, similar = texts[original], 1.0
        if kind == "spaced":
            text = _spaced(text.decode(), draw).encode()
        elif kind != "exact":
            text = edited(text, jaccard if kind == "near" else decoy_jaccard, draw)
            similar = similarity(texts[original], text)
        planted.copies.append(Copy(kind, original, len(planted.texts), similar))
        planted.texts.append(text)
    return planted


def edited(text: bytes, jaccard: float, draw: random.Random) -> bytes:
    """The text with as many words changed as leave it at least `jaccard` similar.

    A change puts none, one or two made-up words in the place of one.
    """
    words = WORD.findall(text.decode())
    changes = [
        (position, "".join(_made_up(draw) + " " for _ in range(draw.randrange(3))))
        for position in draw.sample(range(len(words)), len(words))
    ]

    def changed(count: int) -> bytes:
        some = dict(changes[:count])
        return "".join(some.get(i, word) for i, word in enumerate(words)).encode()

    low, high = 0, len(words) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if similarity(text, changed(middle)) >= jaccard:
            low = middle
        else:
            high = middle
    return changed(low)


def check(
    texts: Sequence[bytes], seed: int = 0, threshold: float = 0.8, length: int = 100
) -> dict[str, Rate]:
    """Plant duplicates into some texts and say how both stages do: for a build, on a sample of it."""
    planted = plant(
        texts, seed, jaccard=threshold, decoy_jaccard=threshold - 0.1, length=2 * length
    )
    near = near_duplicates(signatures(planted.texts), planted.texts.__getitem__, threshold)
    ranges = repeated_ranges(planted.texts[: len(texts)], length)
    return score_near(planted, near, threshold) | score_substrings(planted, ranges, length)


def score_near(planted: Planted, near: Near, threshold: float = 0.8) -> dict[str, Rate]:
    """Recall for each kind of copy, decoys kept, and the precision of the confirmed pairs."""
    keep = near.keep.tolist()
    rates = {}
    for kind in ("exact", "spaced", "near"):
        removed = [keep[c.copy] == keep[c.original] for c in planted.copies if c.kind == kind]
        rates[f"{kind} copies found"] = Rate(sum(removed), len(removed))
    kept = [keep[c.copy] != keep[c.original] for c in planted.copies if c.kind == "decoy"]
    rates["decoys kept"] = Rate(sum(kept), len(kept))
    links = random.Random(0).sample(near.links.tolist(), min(CHECKED, len(near.links)))
    right = sum(similarity(planted.texts[i], planted.texts[j]) >= threshold for i, j in links)
    return rates | {"near-duplicate precision": Rate(right, len(links))}


def score_substrings(
    planted: Planted, ranges: Sequence[Ranges], length: int = 100
) -> dict[str, Rate]:
    """Recall: planted stretches cut whole. Precision: cut ranges that begin with a repeated window."""
    whole = sum(
        any(start <= s.start and s.end <= end for start, end in ranges[s.host])
        for s in planted.stretches
    )
    joined = b"\xff".join(planted.texts)
    starts = [0]
    for text in planted.texts:
        starts.append(starts[-1] + len(text) + 1)
    cuts = [(starts[i] + start, starts[i]) for i, some in enumerate(ranges) for start, _ in some]
    cuts = random.Random(0).sample(cuts, min(CHECKED, len(cuts)))
    right = 0
    for at, first in cuts:  # a window may have lost up to three bytes of a character
        begins = range(max(first, at - 3), at + 1)
        right += any(0 <= joined.find(joined[b : b + length]) <= b - length for b in begins)
    return {
        "stretches cut": Rate(whole, len(planted.stretches)),
        "substring precision": Rate(right, len(cuts)),
    }


def _folded(*texts: bytes) -> list[bytes]:
    return [fold(text).tobytes() for text in texts]


def _made_up(draw: random.Random) -> str:
    return "".join(draw.choices(LETTERS, k=draw.randint(3, 9)))


def _spaced(text: str, draw: random.Random) -> str:
    """Other white space between the words, and some words in capitals."""
    words = (w.upper() if w.isascii() and draw.random() < 0.2 else w for w in text.split(" "))
    return "".join(word + draw.choice((" ", "\n", "  ", " \t")) for word in words)
