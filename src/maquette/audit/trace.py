"""Trace a text: its longest verbatim spans in the training text, with the documents.

After OLMoTrace (Liu et al. 2025, section 3): of every token of the text the longest match in the
training stream is looked up (index.py); the matches that lie within no other are the maximal spans;
the rarest of them by the product of their tokens' frequencies are kept, ceil(0.05 L) for a text of L
tokens, and each is shown with the documents that hold it.

What is guaranteed:

- Each document of a span holds the text's characters `Origin.start` to `Origin.end` word for word, and
  at that place of the document it could be made longer on neither side (but for `self_contained`).
  The span is what the document that holds most of it has; no span lies within another.
- With `everything`, each run of at least `least` tokens of the text that occurs in the training stream
  lies within a span, but for tokens at its ends that are parts of characters.
- `count` is exact: how often the span's whole tokens occur one after the other in the training
  stream, copies that a mixture repeats included.

What is not: tokens decide what is looked up. A document's tokens differ from the text's at the ends
of what they share, where a token reaches over the end; there a span is made longer by characters,
but only in the documents found. So another document may hold a few characters more than a span,
and what is shared in fewer than `least` whole tokens is not found.

OLMoTrace also keeps spans from breaking words and crossing sentences (`self_contained`). That is not
the default: a quotation of ten lines is then ten spans, and code has no sentences.
"""

import itertools
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.audit.index import Index
from maquette.audit.page import PageDocument, PageSpan, write_page
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.order import Interleaving, SampleOrder

LEAST_BYTES = 24  # of a span, in tokens of the corpus' mean size
VERBATIM_BYTES = 50
DESCRIBED = ("component", "source", "title", "date", "licence")
KEPT = 0.05  # spans for each token of the text (Liu et al. 2025, section 3, step 2)
DOCUMENTS = 10
CONTEXT = 160  # characters on each side
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: read as a sign of its own
STOPS = re.compile(r"\n|[.!?](?=\s|$)")  # a line or a sentence ends here
WORD = re.compile(r"\w")
Integers = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Origin:
    """A training document that holds a span."""

    row: int
    """row in the corpus' table of documents"""
    component: str
    source: str
    title: str | None
    date: str | None
    licence: str | None
    position: int
    """position of the span's first whole token in the training stream"""
    offset: int
    """offset in characters of the document"""
    start: int
    end: int
    """end of the part of the text that the document holds, in characters of the text"""
    before: str
    after: str
    """text of the document after the match"""


@dataclass(frozen=True)
class Span:
    """A part of the text that stands verbatim in training documents."""

    start: int
    end: int
    """end of the span (exclusive), in characters of the text"""
    text: str
    tokens: int
    """number of whole tokens"""
    count: int
    """number of occurrences of these tokens in the training stream"""
    log_probability: float
    """log probability of these tokens under the stream's token frequencies; the least is the rarest"""
    documents: list[Origin]
    """earliest documents in the corpus, those that hold most of the text first"""


@dataclass(frozen=True)
class Trace:
    """The trace of a text."""

    text: str
    """text as the tokenizer reads it, in whose characters spans are counted"""
    tokens: int
    spans: list[Span]
    """spans, rarest first"""
    maximal: int
    """number of maximal matches of tokens; `spans` are the rarest, grown to the character"""
    least: int
    """least tokens of a span"""
    verbatim: float
    """fraction of the characters inside maximal matches of at least 50 bytes"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


def trace(
    index: Index,
    text: str,
    *,
    least: int | None = None,
    everything: bool = False,
    self_contained: bool = False,
    documents: int = DOCUMENTS,
    context: int = CONTEXT,
) -> Trace:
    """The text's verbatim spans, and the documents that hold them.

    least: tokens of a span; None: as many as hold 24 bytes at the stream's mean size of a token.
    everything: keep all maximal spans, not the rarest ceil(0.05 L). self_contained: spans begin and
    end at words and stop at the ends of lines and sentences. documents: at most, a span; of one
    text only the first. context: characters on each side of a match.
    """
    if least is not None and least < 1:
        raise WrongUse(f"least is {least}: use 1 token or more")
    if documents < 1:
        raise WrongUse(f"documents is {documents}: use 1 or more")
    read = _Text(index, text)
    reader = _Documents(index, read, context, longer=not self_contained)
    lengths, counts = index.matches(read.tokens)
    least = least or fewest_tokens(index)
    starts, stops = _spans(read, lengths, self_contained=False)
    verbatim = read.covered(starts, stops, VERBATIM_BYTES)
    if self_contained:
        starts, stops = _spans(read, lengths, self_contained)
    chosen = np.flatnonzero(stops - starts >= least)
    rarity = read.log_probability(starts, stops)
    order = chosen[np.argsort(rarity[chosen], kind="stable")]
    kept = order if everything else order[: math.ceil(KEPT * len(read.tokens))]
    spans = []
    for n in kept.tolist():
        start, stop = int(starts[n]), int(stops[n])
        piece = read.tokens[start:stop]
        known = stop - start == lengths[start] and counts[start]
        count = int(counts[start]) if known else index.count(piece)
        origins = [reader.origin(start, stop, *at) for at in index.earliest(piece, documents)]
        origins.sort(key=lambda origin: origin["start"] - origin["end"])
        spans.append((stop - start, count, rarity[n], origins))
    return Trace(
        text=read.text,
        tokens=len(read.tokens),
        spans=_described(index, read.text, spans),
        maximal=len(chosen),
        least=least,
        verbatim=verbatim,
    )


def write_trace(path: Path, traced: Trace, title: str) -> Path:
    """The trace as an HTML page (page.py); returns its path."""
    rarest = min((span.log_probability for span in traced.spans), default=-1.0)
    return write_page(
        path,
        title=title,
        lead=f"{traced.verbatim:.0%} of the {len(traced.text):,} characters stand word for word in the "
        f"training text, in runs of {VERBATIM_BYTES} bytes or more. Marked: the {len(traced.spans):,} "
        f"rarest of {traced.maximal:,} matches of {traced.least} tokens or more.",
        text=traced.text,
        spans=[
            PageSpan(
                span.start,
                span.end,
                f"{'once' if span.count == 1 else f'{span.count:,} times'} in the training text",
                span.log_probability / rarest,
                [_on_page(traced.text, origin) for origin in span.documents],
            )
            for span in traced.spans
        ],
        note="Darker is rarer, by the frequencies of its tokens. Counts are of a span's whole tokens "
        "and exact; each document holds what is bold to the character.",
    )


def _on_page(text: str, origin: Origin) -> PageDocument:
    known = (origin.component, origin.title, origin.date, origin.licence)
    details = [*(part for part in known if part), f"at character {origin.offset:,}"]
    match = text[origin.start : origin.end]
    return PageDocument(origin.source, " \u00b7 ".join(details), origin.before, match, origin.after)


def fewest_tokens(index: Index) -> int:
    """Number of tokens of the stream's mean size that hold 24 bytes."""
    counts = index.unigrams.copy()
    if index.corpus.eos_token_id is not None:
        counts[index.corpus.eos_token_id] = 0
    read = max(1, int(counts @ index.token_bytes.sizes))
    return max(1, math.ceil(LEAST_BYTES * int(counts.sum()) / read))


def seen_at(
    order: SampleOrder, position: int, batch: int, steps: int, replay: float = 0.0
) -> list[int]:
    """The steps, from 1, at which a run trained on the token at a position of the stream.

    order: the run's order on this corpus. replay: share of its samples that were of another corpus. The
    last tokens of the stream, which fill no sample, are never trained on. A run that skipped batches took
    what follows so many steps earlier.
    """
    if position // order.length >= order.samples:
        return []
    number = Interleaving(replay).number
    samples = (number(order.seen_at(position, epoch)) for epoch in itertools.count())
    return [n // batch + 1 for n in itertools.takewhile(lambda n: n < batch * steps, samples)]


class _Text:
    """A text as tokens, bytes and characters.

    edges: (tokens + 1,), offset of each token in bytes. characters: (bytes + 1,), number of
    characters that begin before each byte.
    """

    def __init__(self, index: Index, text: str) -> None:
        self.tokens = np.array(index.corpus.tokenizer.encode(text), np.int64)
        self.data = index.token_bytes.decode(self.tokens)
        self.reversed = self.data[::-1]
        self.text = self.data.decode("utf-8", "replace")
        if self.text != text and _signs(self.text, text) != SURROGATE.sub("?", text):
            raise UserError(
                "this corpus' tokenizer does not give a text back as it was, so spans have no exact "
                "place in it: build the corpus with its own tokenizer to trace"
            )
        self.edges = np.cumsum(np.append(0, index.token_bytes.sizes[self.tokens]))
        self.begins = (np.frombuffer(self.data, np.uint8) & 0xC0) != 0x80
        self.characters = np.cumsum(np.append(0, self.begins))
        counts = np.maximum(index.unigrams[self.tokens], 1)  # an unseen token is in no span
        self._log = np.append(0, np.cumsum(np.log(counts / max(1, index.unigrams.sum()))))

    def log_probability(self, starts: Integers, stops: Integers) -> npt.NDArray[np.float64]:
        """The log probability of spans of tokens under the stream's token frequencies."""
        return np.asarray(self._log[stops] - self._log[starts])

    def whole(self, start: int, stop: int) -> tuple[int, int]:
        """The whole characters between two bytes."""
        while start < stop and not self.begins[start]:
            start += 1
        while stop > start and stop < len(self.data) and not self.begins[stop]:
            stop -= 1
        return start, stop

    def covered(self, starts: Integers, stops: Integers, least_bytes: int) -> float:
        """The fraction of characters in the spans of tokens that have so many bytes."""
        marks = np.zeros(len(self.text) + 1, np.int64)
        for first, last in zip(self.edges[starts], self.edges[stops], strict=True):
            if last - first >= least_bytes:
                marks[self.characters[first]] += 1
                marks[self.characters[last]] -= 1
        return float((np.cumsum(marks)[:-1] > 0).mean()) if self.text else 0.0


def _signs(read: str, text: str) -> str:
    """The text as it was read, with ? where it has half a character."""
    if len(read) != len(text):
        return ""
    return "".join("?" if SURROGATE.match(c) else r for r, c in zip(read, text, strict=True))


def _spans(read: _Text, lengths: Integers, self_contained: bool) -> tuple[Integers, Integers]:
    """The maximal matches of whole characters: where they start and stop, in tokens.

    self_contained: keep to whole words, and to a line and a sentence.
    """
    count = len(lengths)
    edge = np.append(read.begins, True)[read.edges]
    ends = np.array([count])
    if self_contained:
        characters = read.characters[read.edges]  # of the tokens' edges, in characters
        word = np.array([WORD.match(c) is not None for c in read.text], bool)
        inside = np.concatenate([[False], word[:-1] & word[1:], [False]])  # a word
        edge &= ~inside[characters]
        at = np.array([match.start() for match in STOPS.finditer(read.text)], np.int64)
        ends = np.append(np.unique(np.searchsorted(characters, at, "right")), count)
    starts = np.flatnonzero(edge[:-1])
    limit = ends[np.searchsorted(ends[:-1], starts, "right")]
    last_edge = np.maximum.accumulate(np.where(edge, np.arange(count + 1), 0))
    stops = last_edge[np.minimum(starts + lengths[starts], limit)]
    longer = stops > np.concatenate([[0], np.maximum.accumulate(stops)[:-1]])
    kept = longer & (stops > starts)
    return starts[kept], stops[kept]


@dataclass(frozen=True)
class _Documents:
    """Reads the documents around matches.

    context: characters on each side; longer: a match grows by the characters that agree beside it.
    """

    index: Index
    read: _Text
    context: int
    longer: bool

    def origin(self, start: int, stop: int, row: int, position: int) -> dict[str, Any]:
        """The part of an `Origin` that is this match: tokens start .. stop of the text."""
        read, token_bytes = self.read, self.index.token_bytes
        begin, tokens = self.index.document(position)
        before, after = tokens[: position - begin], tokens[position - begin + stop - start :]
        first, last = int(read.edges[start]), int(read.edges[stop])
        back = memoryview(read.reversed)[len(read.data) - first :]
        left, more_left = self._beside(back, before, backwards=True)
        right, more_right = self._beside(memoryview(read.data)[last:], after, backwards=False)
        grown, until = read.whole(first - more_left, last + more_right)
        around = left + read.data[first:last] + right  # of the document
        shift = len(left) - first
        more = int(read.characters[grown] - read.characters[first])
        return {
            "row": row,
            "position": position,
            "offset": int(token_bytes.characters[before].sum()) + more,
            "start": int(read.characters[grown]),
            "end": int(read.characters[until]),
            "before": around[: shift + grown].decode("utf-8", "ignore")[-self.context :],
            "after": around[shift + until :].decode("utf-8", "ignore")[: self.context],
        }

    def _beside(self, ours: memoryview, tokens: Array, backwards: bool) -> tuple[bytes, int]:
        """The document's bytes beside the match, and the number of them that the text shares.

        ours: the text's bytes beside the match, away from it.
        """
        reach = self.context // 2 + 8  # most tokens have more than two characters
        while True:
            near = tokens[-reach:] if backwards else tokens[:reach]
            beside = self.index.token_bytes.decode(near)
            theirs = beside[::-1] if backwards else beside
            shared, most = 0, min(len(ours), len(theirs)) if self.longer else 0
            while shared < most and ours[shared] == theirs[shared]:
                shared += 1
            if len(near) == len(tokens) or len(theirs) - shared >= self.context:
                return beside, shared
            reach *= 2


def _described(
    index: Index, text: str, matches: list[tuple[int, int, float, list[dict[str, Any]]]]
) -> list[Span]:
    """The spans with what the table says of their documents; none within another, no text twice.

    matches: (tokens, count, log probability, origins, the longest first) of each span.
    """
    rows = sorted({origin["row"] for *_, origins in matches for origin in origins})
    table = index.corpus.documents
    names = [name for name in (*DESCRIBED, "sha256") if name in table.column_names]
    table = table.select(names).take(np.array(rows, np.int64))
    described = dict(zip(rows, table.to_pylist(), strict=True))
    spans = []
    for tokens, count, log_probability, origins in matches:
        first: dict[bytes, Origin] = {}
        for origin in origins:
            about = described[origin["row"]]
            known = {name: about.get(name) for name in DESCRIBED}
            first.setdefault(about["sha256"], Origin(**known, **origin))
        documents = list(first.values())
        start, end = documents[0].start, documents[0].end
        spans.append(
            Span(start, end, text[start:end], tokens, count, float(log_probability), documents)
        )
    reached, outer = 0, set()
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.end > reached:
            outer.add(id(span))
            reached = span.end
    return [span for span in spans if id(span) in outer]
