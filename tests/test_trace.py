"""Traces against a naive search, to the character."""

import itertools
import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.audit.index import Index, open_index
from maquette.audit.token_bytes import token_bytes_of
from maquette.audit.trace import Trace, fewest_tokens, seen_at, trace
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.order import SampleOrder
from maquette.corpus.special_tokens import SpecialTokens
from maquette.corpus.text.store import TokenStream
from maquette.corpus.tokenizer import BytePair, Foreign, byte_tokenizer, train_tokenizer

LETTERS = "ab\u00e9\u00e8\u0439\u20ac\U0001f4a7 "  # of one to four bytes; some share bytes


@dataclass
class Made:
    """As much of a corpus as a trace needs."""

    path: Path
    texts: list[str]
    tokenizer: BytePair = field(default_factory=byte_tokenizer)
    hash: str = "made"

    def __post_init__(self) -> None:
        self.vocabulary, self.eos_token_id = self.tokenizer.vocabulary, self.tokenizer.eos_token_id
        self.tokens = [self.tokenizer.encode(text) for text in self.texts]
        lengths = [len(t) + 1 for t in self.tokens]
        stream = np.array(
            [t for text in self.tokens for t in [*text, self.eos_token_id]], np.uint16
        )
        stream.flags.writeable = False
        self.train = TokenStream([stream] if len(stream) else [])
        self.documents = pa.table(
            {
                "component": ["made"] * len(self.texts),
                "source": [f"made:{i}" for i in range(len(self.texts))],
                "sha256": [str(hash(text)).encode() for text in self.texts],
                "split": pa.array(["train"] * len(self.texts), pa.string()),
                "offset": np.cumsum([0, *lengths])[:-1],
                "tokens": pa.array([n - 1 for n in lengths], pa.int64()),
            }
        )


def maximal(text: str, documents: list[str]) -> set[tuple[int, int]]:
    """All (start, end) that stand in a document and lie within no other such."""
    found = [
        (i, j)
        for i, j in itertools.combinations(range(len(text) + 1), 2)
        if any(text[i:j] in document for document in documents)
    ]
    return {
        (i, j)
        for i, j in found
        if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in found)
    }


def occurrences(part: str, whole: str) -> int:
    """How often, overlaps included."""
    count, at = 0, whole.find(part)
    while at >= 0:
        count, at = count + 1, whole.find(part, at + 1)
    return count


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(LETTERS, min_size=1, max_size=30), max_size=4, unique=True),
    st.text(LETTERS, max_size=20),
    st.data(),
)
def test_of_bytes_it_is_all_maximal_spans(texts: list[str], stray: str, data: Any) -> None:
    """Where every byte is a token, the spans are those of a naive search of characters."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Made(Path(folder), texts)
        pieces = data.draw(st.lists(st.sampled_from(texts), max_size=2)) if texts else []
        text = "".join(data.draw(st.permutations([stray, *(p[1:] for p in pieces)])))
        traced = trace(open_index(corpus), text, least=1, everything=True)
        assert traced.text == text
        assert {(s.start, s.end) for s in traced.spans} == maximal(text, texts)
        for span in traced.spans:
            assert span.text == text[span.start : span.end]
            assert span.count == sum(occurrences(span.text, t) for t in texts)
            held = [(i, t.index(span.text)) for i, t in enumerate(texts) if span.text in t]
            assert [(d.row, d.offset) for d in span.documents] == held


class Mixed:
    """Documents of words, numbers and signs, some of which quote one another."""

    WORDS = (
        "the cat sat caf\u00e9 na\u00efve \u0434\u043e\u043c tree (x = 12) "
        "\u2014 return value \U0001f333 wall stone-wall 2024 it's".split()
    )

    def texts(self) -> list[str]:
        draw = random.Random(0)
        texts: list[str] = []
        for _ in range(40):
            words = draw.choices(self.WORDS, k=60)
            text = "".join(w + draw.choice("    \n.,") for w in words)
            if texts:
                quoted = draw.choice(texts)
                at = draw.randrange(len(quoted))
                text = text[:90] + quoted[at : at + 80] + text[90:]
            texts.append(text)
        return texts


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Index:
    texts = Mixed().texts()
    tokenizer = train_tokenizer(texts, 400, or_fewer=True)
    made = Made(tmp_path_factory.mktemp("mixed"), texts, tokenizer)
    return open_index(made, shard_tokens=900)


def queries(index: Index) -> Iterator[str]:
    """Pieces of documents cut anywhere, within other text and one after the other."""
    draw = random.Random(1)
    texts = index.corpus.texts
    for _ in range(12):
        pieces = ["Zebra\u00e9s "]
        for _ in range(2):
            source = draw.choice(texts)
            at = draw.randrange(len(source))
            pieces += [
                source[at : at + draw.randrange(10, 120)],
                draw.choice(["", " qq ", "\u00fc"]),
            ]
        yield "".join(pieces)


def edges(index: Index, text: str) -> dict[int, int]:
    """Where tokens begin and end in characters of the text, where they do so between characters."""
    read = np.array(index.corpus.tokenizer.encode(text))
    joined = [index.token_bytes.decode(read[:i]) for i in range(len(read) + 1)]
    known = [(i, data.decode("utf-8", "ignore"), data) for i, data in enumerate(joined)]
    return {i: len(part) for i, part, data in known if part.encode() == data}


def occurring(index: Index, text: str) -> dict[tuple[int, int], int]:
    """All runs of the text's tokens that stand in a document, of whole characters, with counts."""
    read = "".join(map(chr, index.corpus.tokenizer.encode(text)))
    documents = ["".join(map(chr, t)) for t in index.corpus.tokens]
    found = {}
    for i, j in itertools.combinations(edges(index, text), 2):
        if count := sum(occurrences(read[i:j], document) for document in documents):
            found[i, j] = count
    return found


def assert_true(traced: Trace, index: Index) -> None:
    """Assert what a trace promises of each of its spans."""
    texts = index.corpus.texts
    for span in traced.spans:
        assert span.documents
        assert (span.start, span.end) == (span.documents[0].start, span.documents[0].end)
        assert span.text == traced.text[span.start : span.end]
        for origin in span.documents:
            document, length = texts[origin.row], origin.end - origin.start
            assert origin.source == f"made:{origin.row}"
            assert length <= span.end - span.start
            stop = origin.offset + length
            assert document[origin.offset : stop] == traced.text[origin.start : origin.end]
            assert origin.before == document[max(0, origin.offset - 160) : origin.offset]
            assert origin.after == document[stop : stop + 160]
    for a, b in itertools.permutations(traced.spans, 2):
        assert not (a.start <= b.start and b.end <= a.end)
    rarity = [span.log_probability for span in traced.spans]
    assert rarity == sorted(rarity)


def test_of_pieces_of_words_it_is_true_and_grown(mixed: Index) -> None:
    texts = mixed.corpus.texts
    grown = 0
    for text in queries(mixed):
        traced = trace(mixed, text, least=3, everything=True)
        assert_true(traced, mixed)
        for span in traced.spans:
            for origin in span.documents:
                document, stop = texts[origin.row], origin.offset + origin.end - origin.start
                if origin.start and origin.offset:
                    assert text[origin.start - 1] != document[origin.offset - 1]
                if origin.end < len(text) and stop < len(document):
                    assert text[origin.end] != document[stop]

        runs = occurring(mixed, text)
        outer = {
            (i, j): n
            for (i, j), n in runs.items()
            if j - i >= 3 and not any(a <= i and j <= b and (a, b) != (i, j) for a, b in runs)
        }
        place = edges(mixed, text)
        assert traced.maximal == len(outer)
        held: list[list[tuple[int, int]]] = [[] for _ in traced.spans]
        for (i, j), count in outer.items():
            inside = [
                n
                for n, span in enumerate(traced.spans)
                if span.start <= place[i] and place[j] <= span.end
            ]
            assert inside
            for n in inside:
                held[n].append((j - i, count))
                grown += traced.spans[n].end > place[j]
        for span, inside in zip(traced.spans, held, strict=True):
            assert (span.tokens, span.count) in inside
    assert grown  # some reached further than their tokens


def test_the_rarest_are_kept(mixed: Index) -> None:
    text = "".join(itertools.islice(queries(mixed), 3))
    everything = trace(mixed, text, least=1, everything=True)
    rarest = trace(mixed, text, least=1)
    assert len(rarest.spans) == -(-rarest.tokens // 20) < len(everything.spans)
    assert rarest.spans == everything.spans[: len(rarest.spans)]
    assert rarest.maximal == everything.maximal >= len(everything.spans)


def test_self_contained_spans(mixed: Index) -> None:
    """Whole words, within a line and a sentence, and as long as that allows."""
    for text in queries(mixed):
        traced = trace(mixed, text, least=1, everything=True, self_contained=True)
        assert_true(traced, mixed)
        place, runs = edges(mixed, text), occurring(mixed, text)
        allowed = []
        for i, j in runs:
            start, end = place[i], place[j]
            words = [re.match(r"\w\w", text[max(0, at - 1) : at + 1]) for at in (start, end)]
            stops = [m.start() for m in re.finditer(r"\n|[.!?](?=\s|$)", text)]
            if not any(words) and not any(start <= at < place[j - 1] for at in stops):
                allowed.append((start, end))
        outer = {
            (i, j)
            for i, j in allowed
            if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in allowed)
        }
        assert {(s.start, s.end) for s in traced.spans} == outer
        counts = {(place[i], place[j]): count for (i, j), count in runs.items()}
        assert all(s.count == counts[s.start, s.end] for s in traced.spans)


def test_it_grows_through_what_is_tokenised_otherwise(tmp_path: Path) -> None:
    """Two digits are a token, so that one digit more in front moves all of them."""
    digits = "".join(f"{n:02d}" for n in range(60))
    document = f"The number {digits} and the words that follow it, to the end."
    tokenizer = train_tokenizer([document] * 9, 600, or_fewer=True)
    index = open_index(Made(tmp_path, [document], tokenizer))
    text = f"Is 9{digits} and the words"
    assert not index.count(tokenizer.encode(f"9{digits}")[-30:])
    span = trace(index, text, least=3, context=4).spans[0]
    assert span.text == f"{digits} and the words"
    assert (span.documents[0].before, span.documents[0].after) == ("ber ", " tha")
    assert span.documents[0].offset == document.index(digits)


def test_a_text_that_is_nowhere_and_one_that_is_all_there(mixed: Index) -> None:
    assert trace(mixed, "").spans == []
    assert trace(mixed, "").verbatim == 0
    nowhere = trace(mixed, "\u4e16\u754c" * 40)
    assert (nowhere.spans, nowhere.verbatim) == ([], 0)
    whole = mixed.corpus.texts[3]
    everywhere = trace(mixed, whole)
    assert [(s.start, s.end) for s in everywhere.spans] == [(0, len(whole))]
    assert everywhere.verbatim == 1
    half = trace(mixed, whole[:200] + "\u4e16\u754c" * 100)
    assert half.verbatim == pytest.approx(0.5, abs=0.02)
    short = trace(mixed, whole[:30] + "\u4e16", everything=True, least=1)
    assert short.spans[0].tokens > 5 and short.verbatim == 0  # fewer than 50 bytes
    assert trace(mixed, "\ud800 " + whole[:90]).spans[0].start <= 2  # half of a character
    with pytest.raises(WrongUse, match="least is 0"):
        trace(mixed, whole, least=0)
    with pytest.raises(WrongUse, match="documents is 0"):
        trace(mixed, whole, documents=0)


def test_least_is_about_24_bytes(tmp_path: Path, mixed: Index) -> None:
    assert fewest_tokens(open_index(Made(tmp_path, ["bytes of text" * 99]))) == 24
    assert 24 / 4 < fewest_tokens(mixed) < 24 / 1.5
    assert fewest_tokens(open_index(Made(tmp_path / "none", []))) >= 1


def test_a_text_that_is_in_the_corpus_twice_is_shown_once(tmp_path: Path) -> None:
    quoted = "a sentence that stands in both"
    made = Made(tmp_path, [quoted, "x " + quoted, quoted])
    traced = trace(open_index(made), quoted)
    assert traced.spans[0].count == 3
    assert [origin.row for origin in traced.spans[0].documents] == [0, 1]
    assert [o.row for o in trace(open_index(made), quoted, documents=1).spans[0].documents] == [0]


def test_what_is_known_of_a_document(corpus: Any) -> None:
    """On a corpus that was built, opened from its files."""
    row = next(
        r for r in range(len(corpus.documents)) if corpus.documents["split"][r].as_py() == "train"
    )
    document = corpus.text(row).decode()
    traced = trace(open_index(corpus), "Zqj " + document[50:150])
    origin = next(o for o in traced.spans[0].documents if o.row == row)
    assert origin.source == corpus.documents["source"][row].as_py()
    assert origin.component in ("code", "stories")
    length = origin.end - origin.start
    assert document[origin.offset : origin.offset + length] == traced.spans[0].text
    assert traced.to_dict()["spans"][0]["documents"][0]["offset"] == origin.offset


def test_seen_at_is_when_training_read_it() -> None:
    order, batch, steps = SampleOrder(1003, 10, seed=5), 8, 30  # 2.4 epochs
    read: dict[int, list[int]] = {}
    for step in range(1, steps + 1):
        for start in order.starts((step - 1) * batch, batch).tolist():
            for position in range(start, start + 10):
                read.setdefault(position, []).append(step)
    assert all(seen_at(order, p, batch, steps) == read.get(p, []) for p in range(1003))
    assert seen_at(order, 1001, batch, steps) == []


def test_token_bytes_of_other_tokenizers() -> None:
    own = train_tokenizer(Mixed().texts(), 400, or_fewer=True)
    foreign = Foreign(own.to_json(), SpecialTokens())
    assert token_bytes_of(foreign).values == token_bytes_of(own).values
    assert token_bytes_of(own).sizes.tolist() == [len(name) for name in token_bytes_of(own).values]
    assert token_bytes_of(own).characters[:256].sum() == 256 - 64
    pieces = own.to_json().replace("\u0120", "\u2581")  # spaces as SentencePiece writes them
    with pytest.raises(UserError, match="not byte-level"):
        token_bytes_of(Foreign(pieces, SpecialTokens()))
