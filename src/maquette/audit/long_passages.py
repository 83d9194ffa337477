"""Long verbatim passages of a text from a corpus' locator: no suffix array is needed.

Of every run of at least `guarantee` bytes that stands in the training text, at least a part is found, at
the first place where the corpus holds its gram, and compared with the text there: nothing false is
reported. (A run whose grams all stand earlier elsewhere is reported as its parts there.) It cannot
count, and names one document; `trace.py` does both, from an index 15 times as large.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from maquette.corpus.text.locator import Locator
from maquette.corpus.text.store import Corpus


@dataclass(frozen=True)
class Passage:
    """A run of the text that stands in a training document."""

    start: int
    end: int
    """end of the passage, in characters of the text"""
    text: str
    documents: list[dict[str, Any]]
    """the first match: row, component, source, title, date, licence, and offset in characters"""


def located(corpus: Corpus, locator: Locator, text: str) -> list[Passage]:
    """The passages of `text`, longest first; none lies within another."""
    data = text.encode("utf-8", "replace")
    begins = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    characters = np.cumsum(np.append(0, begins))
    passages = []
    for match in locator.locate(data):
        start, end = match.start, match.end
        while start < end and not begins[start]:
            start += 1
        while end > start and end < len(data) and not begins[end]:
            end -= 1
        if start == end:
            continue
        about = corpus.documents.slice(match.row, 1).to_pylist()[0]
        before = corpus.text(match.row)[: match.offset + start - match.start]
        names = ("component", "source", "title", "date", "licence")
        location = {"row": match.row, "offset": len(before.decode("utf-8", "replace"))}
        first, last = int(characters[start]), int(characters[end])
        known = {name: about[name] for name in names}
        passages.append(Passage(first, last, text[first:last], [known | location]))
    kept: list[Passage] = []
    for passage in sorted(passages, key=lambda p: (p.start - p.end, p.start)):
        if not any(k.start <= passage.start and passage.end <= k.end for k in kept):
            kept.append(passage)
    return kept
