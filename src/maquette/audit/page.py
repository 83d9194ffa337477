"""A text with highlighted spans as one HTML file: what a trace or a membership test found.

Every span's card stands in the page and every highlight is a link to one, so that it works from the
keyboard, without scripts and on paper; the script shows the cards of one place at a time. Nothing
is loaded from anywhere, and everything that came from a text is escaped.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from maquette.base.files import write_atomic
from maquette.base.version import __version__

SHOWN = 400  # characters of a match in a card
NAMED = 90  # and of a span in the table
EMPTY_LINES = re.compile(r"\n(\s*\n)+")
VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in "\n\t"} | {127: 0x2421}


@dataclass(frozen=True)
class PageDocument:
    """A document that holds a span, and how it reads there."""

    source: str
    details: str
    before: str
    match: str
    after: str


@dataclass(frozen=True)
class PageSpan:
    """A part of the text: characters start .. end.

    label: what is known of it, in a few words. weight: 0 to 1, how dark it is drawn.
    """

    start: int
    end: int
    label: str
    weight: float
    documents: Sequence[PageDocument] = ()


@dataclass(frozen=True)
class Segment:
    """A piece of the text between two neighbouring borders of spans."""

    text: str
    spans: list[int]
    """numbers of the spans that cover the segment, the heaviest first"""
    begins: bool
    """whether a span begins at the segment"""


def write_page(
    path: Path, *, title: str, lead: str, text: str, spans: Sequence[PageSpan], note: str = ""
) -> Path:
    """Write the page; returns its path. Spans are listed in the order given and may overlap."""
    environment = Environment(
        loader=PackageLoader("maquette.audit", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"dense": dense, "shortened": shortened, "visible": visible}
    page = environment.get_template("page.html.j2").render(
        version=__version__,
        title=title,
        lead=lead,
        note=note,
        text=text,
        spans=spans,
        segments=segments(text, spans),
        documents=any(span.documents for span in spans),
        shown=SHOWN,
        named=NAMED,
    )
    write_atomic(path, page.encode("utf-8", "replace"))
    return path


def segments(text: str, spans: Sequence[PageSpan]) -> list[Segment]:
    """The text cut at every border of a span."""
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for number, span in enumerate(spans):
        assert 0 <= span.start <= span.end <= len(text), f"span {number} is not in the text"
        if span.start < span.end:
            starts.setdefault(span.start, []).append(number)
            ends.setdefault(span.end, []).append(number)
    borders = sorted({0, len(text), *starts, *ends})
    cut, open_now = [], set[int]()
    for start, end in itertools.pairwise(borders):
        open_now.difference_update(ends.get(start, ()))
        open_now.update(starts.get(start, ()))
        covering = sorted(open_now, key=lambda number: (-spans[number].weight, number))
        cut.append(Segment(text[start:end], covering, start in starts))
    return cut


def visible(text: str) -> str:
    """The text with a sign in place of each control character."""
    return text.translate(VISIBLE)


def dense(text: str) -> str:
    """The text without its empty lines."""
    return EMPTY_LINES.sub("\n", text)


def shortened(text: str, most: int) -> str:
    """The two ends of a long text."""
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]} \u2026 {text[-(most // 3) :]}"
