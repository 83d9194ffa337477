"""The HTML view of spans: what is drawn, what is linked, and that text stays text."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.audit.page import PageDocument, PageSpan, segments, shortened, visible, write_page
from maquette.audit.trace import Origin, Span, Trace, write_trace

HOSTILE = """</div></script><script>alert(1)</script> & &amp; <img src=x onerror=y> "'{{ 7*7 }}"""


class Page(HTMLParser):
    """The elements of a page with their text; the marked text by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.text, self.depth = "", 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        about = dict(attributes)
        self.tags.append((tag, about))
        if self.depth or about.get("id") == "text":
            self.depth += 1
        if tag not in ("meta", "br"):
            self.inside.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag
        self.depth = max(0, self.depth - 1)

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.words[self.inside[-1]][-1] += data
        if self.depth:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [about for name, about in self.tags if name == tag]


def some_spans(length: int) -> st.SearchStrategy[list[PageSpan]]:
    ends = st.lists(st.integers(0, length), min_size=2, max_size=2).map(sorted)
    return st.lists(
        st.builds(lambda e, w: PageSpan(e[0], e[1], "", w), ends, st.floats(0, 1)), max_size=6
    )


@given(some_spans(20))
def test_segments_are_the_text_and_know_their_spans(spans: list[PageSpan]) -> None:
    text = "abcdefghijklmnopqrst"
    cut = segments(text, spans)
    assert "".join(segment.text for segment in cut) == text
    at = 0
    for segment in cut:
        covering = {n for n, s in enumerate(spans) if s.start <= at and at + 1 <= s.end}
        assert set(segment.spans) == covering
        weights = [spans[n].weight for n in segment.spans]
        assert weights == sorted(weights, reverse=True)
        assert segment.begins == any(s.start == at < s.end for s in spans)
        at += len(segment.text)


def document(word: str) -> PageDocument:
    return PageDocument(f"source of {word}", "prose", f"before {word} ", word, f" after {word}")


def test_whatever_the_text_holds_it_stays_text(tmp_path: Path) -> None:
    text = HOSTILE + "\x00\x1b[31m \ud800 \u202e " + "x" * 100_000 + "\n" + HOSTILE
    held = PageDocument(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    spans = [
        PageSpan(3, 40, HOSTILE, 1.0, [held]),
        PageSpan(20, len(text), HOSTILE, 0.5, [held]),
    ]
    path = write_page(
        tmp_path / "page.html", title=HOSTILE, lead=HOSTILE, text=text, spans=spans, note=HOSTILE
    )
    page = Page(path)
    assert page.text == visible(text).replace("\ud800", "?")
    assert not page.inside  # every element is closed
    assert len(page.all("script")) == 1 and not page.all("img")
    assert page.words["b"] == [HOSTILE, HOSTILE]
    assert page.words["h1"] == [HOSTILE]
    for _, about in page.tags:
        assert not {"src", "onerror", "onclick", "rel"} & about.keys()
        assert (about.get("href") or "#").startswith("#")
    (policy,) = [m for m in page.all("meta") if "http-equiv" in m]
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_every_highlight_leads_to_its_card(tmp_path: Path) -> None:
    spans = [
        PageSpan(0, 9, "twice", 0.2, [document("one two"), document("other")]),
        PageSpan(4, 13, "once", 0.9, [document("two three")]),
    ]
    path = tmp_path / "page.html"
    write_page(path, title="t", lead="l", text="one two three four", spans=spans)
    page = Page(path)
    assert page.text == "one two three four"
    places = [about for about in page.all("a") if "style" in about]
    assert [(a["href"], a["data-spans"]) for a in places] == [
        ("#span-1", "0"),
        ("#span-2", "1 0"),
        ("#span-2", "1"),
    ]
    assert [a.get("class") for a in places] == ["begins", "begins", None]
    assert [a["style"] for a in places] == ["--a:0.22", "--a:0.57", "--a:0.57"]
    assert [a["id"] for a in page.all("article")] == ["span-1", "span-2"]
    assert page.words["b"] == ["one two", "other", "two three"]
    assert page.words["h3"] == ["twice", "once"]
    cells = page.words["td"]
    assert "source of one two" in cells and "source of two three" in cells


def test_spans_without_documents_lead_to_their_rows(tmp_path: Path) -> None:
    """As a portrait's members are shown."""
    spans = [PageSpan(0, 3, "bound 1e-9", 1.0), PageSpan(8, 13, "bound 0.01", 0.3)]
    path = tmp_path / "page.html"
    write_page(path, title="t", lead="l", text="one two three", spans=spans, note="n")
    page = Page(path)
    ids = {about["id"] for _, about in page.tags if "id" in about}
    assert {"span-1", "span-2", "text"} <= ids
    assert all((a["href"] or "").removeprefix("#") in ids for a in page.all("a"))
    assert not page.all("article") and not page.all("aside")
    assert "bound 1e-9" in page.words["td"]


def test_nothing_found(tmp_path: Path) -> None:
    for text in ("", "some text"):
        page = Page(write_page(tmp_path / "p.html", title="t", lead="l", text=text, spans=[]))
        assert page.text == text
        assert not page.all("table") and "0 spans" in page.words["h2"]
    with pytest.raises(AssertionError, match="not in the text"):
        write_page(
            tmp_path / "p.html", title="t", lead="l", text="a", spans=[PageSpan(0, 2, "", 1)]
        )


def test_a_trace_as_a_page(tmp_path: Path) -> None:
    known: dict[str, Any] = {"row": 0, "component": "prose", "title": None, "position": 7}
    origin = Origin(
        **known, source="a.txt", date="2024-05-06", licence="MIT", offset=1234,
        start=4, end=13, before="quoted: ", after=", it said",
    )  # fmt: skip
    spans = [
        Span(4, 13, "two three", 2, 1234, -20.0, [origin]),
        Span(8, 18, "three four", 2, 1, -5.0, [origin]),
    ]
    traced = Trace("one two three four", 4, spans, maximal=5, least=2, verbatim=0.25)
    page = Page(write_trace(tmp_path / "trace.html", traced, "Sample"))
    assert page.words["h1"] == ["Sample"]
    assert "25%" in page.words["p"][0] and "2 rarest of 5" in page.words["p"][0]
    assert page.words["h3"] == ["1,234 times in the training text", "once in the training text"]
    details = [words.strip() for words in page.words["div"]]
    assert details.count("prose \u00b7 2024-05-06 \u00b7 MIT \u00b7 at character 1,234") == 2
    assert [a["style"] for a in page.all("a") if "style" in a] == ["--a:0.62"] * 2 + ["--a:0.24"]


def test_long_matches_are_shown_by_their_ends() -> None:
    assert shortened("a" * 50, 50) == "a" * 50
    assert shortened("a" * 60 + "b" * 30, 30) == "a" * 20 + " \u2026 " + "b" * 10
