"""The suffix array against a naive search, and its files."""

import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.audit import index as module
from maquette.audit import suffix_array
from maquette.audit.index import FOLDER, Index, maximal_matches, open_index
from maquette.base.errors import UserError
from maquette.corpus.text.store import TokenStream

LETTERS = 3  # tokens inside documents; the next token id is the end
MOTIF = st.lists(st.integers(0, LETTERS - 1), min_size=1, max_size=5)
RUNS = st.lists(st.tuples(MOTIF, st.integers(1, 30)), min_size=1, max_size=3)
DOCUMENTS = st.lists(RUNS.map(lambda r: [t for motif, n in r for t in motif * n]), max_size=5)


@dataclass
class Made:
    """As much of a corpus as an index needs; its training tokens in files cut at `cuts`."""

    path: Path
    texts: list[list[int]]
    eos_token_id: int | None = LETTERS
    cuts: tuple[int, ...] = ()
    hash: str = "made"
    vocabulary: int = LETTERS + 1
    dtype: Any = np.uint16
    starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        ending = [] if self.eos_token_id is None else [self.eos_token_id]
        self.stream: list[int] = []
        for text in self.texts:
            self.starts.append(len(self.stream))
            self.stream += text + ending
        tokens = np.array(self.stream, self.dtype)
        tokens.flags.writeable = False
        self.train = TokenStream([p for p in np.split(tokens, sorted(self.cuts)) if len(p)])
        # A held-out row first: rows of the table are not numbers of training documents.
        self.documents = pa.table(
            {
                "split": ["heldout"] + ["train"] * len(self.texts),
                "offset": [0, *self.starts],
                "tokens": [7, *map(len, self.texts)],
            }
        )


def places(corpus: Made, query: list[int]) -> list[int]:
    """Where the query occurs, by looking everywhere."""
    found = []
    for start, text in zip(corpus.starts, corpus.texts, strict=True):
        hits = range(len(text) - len(query) + 1)
        found += [start + i for i in hits if text[i : i + len(query)] == query]
    return found


def assert_found(index: Index, corpus: Made, query: list[int]) -> None:
    """Assert that the index counts and finds the query where looking everywhere does."""
    found = places(corpus, query)
    assert index.count(query) == len(found)
    assert index.find(query).tolist() == found
    firsts: dict[int, int] = {}  # by row
    for place in found:
        firsts.setdefault(int(np.searchsorted(corpus.starts, place, "right")), place)
    for most in (1, 2, 10):
        assert index.earliest(query, most) == list(firsts.items())[:most]
    for row, place in firsts.items():
        start, tokens = index.document(place)
        assert (start, tokens.tolist()) == (corpus.starts[row - 1], corpus.texts[row - 1])


@settings(max_examples=60, deadline=None)
@given(
    DOCUMENTS,
    st.data(),
    st.sampled_from([LETTERS, None]),
    st.integers(1, 200),
    st.lists(st.integers(0, 300), max_size=2).map(tuple),
)
def test_it_finds_what_a_naive_search_finds(
    texts: list[list[int]],
    data: st.DataObject,
    eos_token_id: int | None,
    shard_tokens: int,
    cuts: tuple[int, ...],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Made(Path(folder), texts, eos_token_id, cuts)
        index = open_index(corpus, shard_tokens=shard_tokens)
        stray = st.lists(st.integers(-1, LETTERS + 2), min_size=1, max_size=4)
        pieces = [stray]
        if texts:
            text = st.sampled_from(texts)
            pieces.append(text.flatmap(lambda t: st.integers(0, len(t) - 1).map(lambda i: t[i:])))
        query = [t for p in data.draw(st.lists(st.one_of(pieces), max_size=3)) for t in p]

        lengths, counts = index.matches(query)
        for i, length in enumerate(lengths.tolist()):
            assert length == 0 or places(corpus, query[i : i + length])
            assert i + length == len(query) or not places(corpus, query[i : i + length + 1])
        for i in np.flatnonzero(maximal_matches(lengths)):
            assert counts[i] == len(places(corpus, query[i : i + lengths[i]]))
            assert all(j + lengths[j] < i + lengths[i] for j in range(i))
        assert (counts[~maximal_matches(lengths)] == 0).all()

        for part in (query[:1], query[:3], query):
            if part:
                assert_found(index, corpus, part)
        assert index.unigrams.tolist()[:LETTERS] == [
            sum(text.count(t) for text in texts) for t in range(LETTERS)
        ]


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 300), (300, 2000), (70_000, 70_000)])
def test_suffixes_are_sorted(vocabulary: int, length: int) -> None:
    """In one, two and three bytes a token."""
    draw = np.random.default_rng(vocabulary)
    tokens = (
        draw.permutation(vocabulary)
        if vocabulary == length
        else draw.integers(0, vocabulary, length)
    )
    tokens = tokens.astype(np.uint32)
    order, counts = suffix_array.sort_suffixes(tokens, vocabulary)
    naive = np.argsort(tokens) if vocabulary == length else None
    if naive is None:
        listed = tokens.tolist()
        naive = np.array(sorted(range(length), key=lambda i: listed[i:]))
    assert order.tolist() == naive.tolist()
    assert counts.tolist() == np.bincount(tokens, minlength=vocabulary).tolist()


def some(folder: Path, **changed: Any) -> Made:
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, LETTERS, 50).tolist() for _ in range(8)]
    return Made(folder, texts, **changed)


def same(a: Index, b: Index) -> bool:
    """Whether two indexes are cut and sorted alike."""
    return [(s.start, s.suffixes.tobytes()) for s in a.shards] == [
        (s.start, s.suffixes.tobytes()) for s in b.shards
    ]


def test_a_build_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_index(some(tmp_path / "whole"), shard_tokens=110)
    assert len(whole.shards) == 4
    corpus, sort, calls = some(tmp_path / "cut"), suffix_array.sort_suffixes, []

    def cut_off(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sort(*arguments)

    monkeypatch.setattr(suffix_array, "sort_suffixes", cut_off)
    with pytest.raises(KeyboardInterrupt):
        open_index(corpus, shard_tokens=110)
    with pytest.raises(UserError, match="no index yet"):
        open_index(corpus, build=False)
    left = tmp_path / "cut" / FOLDER / ".suffixes-00002.bin.x.tmp"
    left.write_bytes(b"half of it")
    assert same(open_index(corpus, shard_tokens=110), whole)
    assert not left.exists()
    assert len(calls) == 5  # 2 shards, the one cut off, and the 2 that were missing


def test_an_index_is_taken_as_it_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_index(some(tmp_path), shard_tokens=110)
    monkeypatch.setattr(suffix_array, "sort_suffixes", None)  # nothing is sorted any more
    assert same(open_index(some(tmp_path)), first)
    assert same(open_index(some(tmp_path), build=False), first)


def test_another_cut_after_a_part_of_one(tmp_path: Path) -> None:
    open_index(some(tmp_path), shard_tokens=110)
    (tmp_path / FOLDER / "suffixes-00002.bin").unlink()
    corpus = some(tmp_path)
    index = open_index(corpus, shard_tokens=60)
    assert len(index.shards) == 8
    for found in (index, open_index(some(tmp_path / "one"))):
        for query in itertools.product(range(LETTERS), repeat=2):
            assert_found(found, corpus, list(query))


def test_a_foreign_or_damaged_file_is_refused(tmp_path: Path) -> None:
    open_index(some(tmp_path))
    with pytest.raises(UserError, match="belongs to another corpus"):
        open_index(some(tmp_path, hash="other"))
    path = tmp_path / FOLDER / "suffixes-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        open_index(some(tmp_path))
    path.write_bytes(b"something else, and long enough to be read")
    with pytest.raises(UserError, match="is not a file of kind"):
        open_index(some(tmp_path))


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_arrays", full)
    with pytest.raises(UserError, match="No space left"):
        open_index(some(tmp_path))


def test_a_table_that_does_not_fit(tmp_path: Path) -> None:
    corpus = some(tmp_path)
    corpus.documents = corpus.documents.slice(0, 5)
    with pytest.raises(UserError, match="do not fit"):
        open_index(corpus)
