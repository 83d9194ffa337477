"""Was a text seen? The spans of it that a portrait knows, each with the probability of an accident.

A verbatim run of training text holds sampled grams `stride` bytes apart, so what was seen shows as a
chain: hits at o, o + stride, o + 2 stride ... (Marone and Van Durme 2023). A chain of c hits covers
width + (c - 1) stride bytes, from its first gram's start to its last gram's end. Between neighbouring
grams lie stride - width bytes that were not looked up, and the seen run may reach up to stride - 1
bytes further on either side. Overlapping chains (copies of one text in several documents, or a text
that repeats itself) are joined to one span: all of it was seen, though not always as one run.

How sure is a span? Let e = 2^-bits be the portrait's error for one gram, and let a text have m
offsets of grams, none of them of a gram in the sample. Different grams pass independently of each
other, each with probability e; the same gram at two offsets passes at both or at neither. So what
counts is the number d of different grams in a chain, its strength. A chain of strength d that starts
at a given offset has, up to its d-th new gram, d independent accidents: probability e^d. It takes at
least (d - 1) stride bytes, which leaves m - (d - 1) stride offsets to start at. By the union bound,

    P(any accidental chain of strength >= d)  <=  (m - (d - 1) stride) e^d                     (1)

That is a span's `bound`, for the strongest of its chains: how likely a text as long as this one, of
which nothing was seen, shows as strong a chain anywhere. A span is strong where its bound is at most
`error`; the others are weak, and never joined to strong ones. The text's `bound` is (1) at the least
strength that is strong: the probability that a text of which nothing was seen shows any strong span.
Two things it does not say. A chain that is partly real can be longer than it should by an accidental
hit at an end, with probability e at each; and grams that were seen are seen, though they be common
phrases that stand stride bytes apart by coincidence.

Every run of at least width + stride - 1 bytes is reported (weak where it holds few grams: in a long
text one hit proves nothing, and a short one has no room for two). A text with m offsets that was seen
from its start to its end shows m / stride hits in a row, rounded down; where so few make no strong
span, the text is too short to tell, and no fraction of it is said. (1) takes hashes for random numbers:
someone who knows the portrait can make texts that pass.

All is of the text's normal form C; spans are of the text as it was given, to within a character and its
marks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse
from maquette.base.jit import jit
from maquette.corpus.text.ngram_hashes import Bytes, strided_hashes
from maquette.corpus.text.portrait import Portrait
from maquette.corpus.text.unicode_normalisation import Places, nfc_places

CHUNK = 1 << 24  # offsets looked up at a time
ERROR = 0.01
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """A part of the text that was seen."""

    start: int
    end: int
    """end of the span (exclusive), in characters of the text; characters seen in part are not counted"""
    hits: int
    """number of hits of the longest chain"""
    bound: float
    """bound on the probability of as strong a span by accident in such a text: equation 1"""
    strong: bool
    """whether the bound is at most `Membership.error`"""


@dataclass(frozen=True)
class Membership:
    """Membership of a text in a corpus, by its portrait."""

    spans: list[Span]
    """spans, longest first"""
    bound: float
    """bound on the probability that an unseen text of this length has a strong span"""
    error: float
    """largest bound of a strong span"""
    hits_needed: int
    """number of different grams that make a span strong"""
    accidents: float
    """expected number of accidental hits in an unseen text of this length: m e"""
    coverage: float | None
    """fraction of the characters in strong spans; None where the text is too short to tell"""
    too_short: bool
    """whether no strong span was found, though a seen text of this length might have none"""
    sure_from: int
    """least bytes of a text that is long enough to tell"""
    guarantee: int
    """least bytes of a verbatim run that is surely among the spans"""


def member(portrait: Portrait, text: str, error: float = ERROR) -> Membership:
    """The spans of `text` that were seen, and how sure that is."""
    if not 0 < error < 1:
        raise WrongUse(f"error is {error}: use a probability between 0 and 1, such as {ERROR}")
    normal, places = nfc_places(text)
    data = np.frombuffer(normal.encode("utf-8", "surrogatepass"), np.uint8)
    offsets = max(0, len(data) - portrait.width + 1)
    needed = hits_needed(portrait, offsets, error)
    chains = _chains(portrait, data)
    strong = _joined(chains[:, chains[3] >= needed])
    weak = _joined(chains[:, chains[3] < needed])
    reached = np.append(0, strong[1])[np.searchsorted(strong[0], weak[0], "right")]
    both = np.concatenate([strong, weak[:, weak[1] > reached]], axis=1)
    both[:2] = _characters(data, both[:2], len(normal))
    if places is not None:
        both[:2] = _before(places, both[:2])
    spans = [
        Span(start, end, hits, chance(portrait, offsets, strength), strength >= needed)
        for start, end, hits, strength in both.T.tolist()
    ]
    seen = sum(s.end - s.start for s in spans if s.strong)
    sure_from = _sure_from(portrait, offsets, error) + portrait.width - 1
    too_short = not seen and len(data) < sure_from
    return Membership(
        spans=sorted(spans, key=lambda span: (span.start - span.end, span.start)),
        bound=chance(portrait, offsets, needed),
        error=error,
        hits_needed=needed,
        accidents=offsets * portrait.error,
        coverage=None if too_short else seen / max(1, len(text)),
        too_short=too_short,
        sure_from=sure_from,
        guarantee=portrait.guarantee,
    )


def chance(portrait: Portrait, offsets: int, strength: int) -> float:
    """Equation 1: a bound on P(a text with so many offsets has an accidental chain so strong)."""
    room = max(0, offsets - (strength - 1) * portrait.stride)
    return min(1.0, room * portrait.error**strength)


def hits_needed(portrait: Portrait, offsets: int, error: float) -> int:
    """The least strength whose bound is at most `error`."""
    strength = 1
    while chance(portrait, offsets, strength) > error:
        strength += 1
    return strength


def _sure_from(portrait: Portrait, offsets: int, error: float) -> int:
    """The least offsets, so many or more, at which a text that was seen whole is sure to be strong."""
    while offsets // portrait.stride < (needed := hits_needed(portrait, offsets, error)):
        offsets = needed * portrait.stride
    return offsets


def hits(portrait: Portrait, data: Bytes) -> npt.NDArray[np.bool_]:
    """Membership of the gram at each offset, (offsets,), looked up part by part."""
    return np.concatenate([np.empty(0, np.bool_), *_parts(portrait, data)])


def _parts(portrait: Portrait, data: Bytes) -> Iterator[npt.NDArray[np.bool_]]:
    for at in range(0, len(data), CHUNK):
        yield portrait.hits(data[at : at + CHUNK + portrait.width - 1])


@jit
def chains(hits: npt.NDArray[np.bool_], stride: int) -> tuple[Integers, Integers]:
    """Start of each longest chain of hits `stride` apart, sorted, and its number of hits."""
    begins = 0
    for o in range(len(hits)):
        if hits[o] and (o < stride or not hits[o - stride]):
            begins += 1
    starts = np.empty(begins, np.int64)
    lengths = np.empty(begins, np.int64)
    n = 0
    for o in range(len(hits)):
        if hits[o] and (o < stride or not hits[o - stride]):
            end = o + stride
            while end < len(hits) and hits[end]:
                end += stride
            starts[n] = o
            lengths[n] = (end - o) // stride
            n += 1
    return starts, lengths


def _chains(portrait: Portrait, data: Bytes) -> Integers:
    """Start, end, hits and strength of each chain, in the order of their starts: (4, chains)."""
    starts, lengths = chains(hits(portrait, data), portrait.stride)
    ends = starts + (lengths - 1) * portrait.stride + portrait.width
    strengths = lengths.copy()
    for i in np.flatnonzero(lengths > 1).tolist():
        grams = strided_hashes(data[starts[i] : ends[i]], portrait.width, portrait.stride)
        strengths[i] = len(np.unique(grams))
    return np.stack([starts, ends, lengths, strengths])


def _joined(chains: Integers) -> Integers:
    """Chains that overlap become one, with the most hits and the most strength: (4, spans)."""
    starts, ends, lengths, strengths = chains
    reached = np.maximum.accumulate(np.append(0, ends))[:-1]
    first = np.flatnonzero(starts >= reached)
    if not len(first):
        return chains
    most = [np.maximum.reduceat(column, first) for column in (ends, lengths, strengths)]
    return np.stack([starts[first], *most])


def _before(places: Places, spans: Integers) -> Integers:
    """Spans of the normal form as spans of the text, of whole characters with their marks."""
    starts, ends = spans
    last = np.maximum(ends - 1, 0)
    after = places[np.minimum(np.searchsorted(places, places[last], "right"), len(places) - 1)]
    return np.stack([places[starts], np.where(ends > starts, after, places[starts])])


def _characters(data: Bytes, offsets: Integers, length: int) -> Integers:
    """Starts and ends in bytes as those of the whole characters between them: (2, spans)."""
    if length == len(data):
        return offsets
    borders = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
    starts, ends = (
        np.searchsorted(borders, offsets[0]),
        np.searchsorted(borders, offsets[1], "right"),
    )
    return np.stack([starts, ends - 1])
