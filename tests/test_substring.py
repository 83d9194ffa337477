"""Repeated stretches are those of a naive search, of a suffix array, and nothing of them is left."""

import itertools
import random

import numpy as np
import pytest
from conftest import some_text
from hypothesis import given, settings
from hypothesis import strategies as st
from pydivsufsort import divsufsort, kasai

from maquette.base.errors import WrongUse
from maquette.corpus.text.planted_duplicates import plant, score_substrings
from maquette.corpus.text.scratch import without
from maquette.corpus.text.substring import repeated_ranges


def naive(texts, length):
    """The bytes of each text that are in a window that stands before, without overlap."""
    before, repeated = set(), []
    for text in texts:
        windows = [text[i : i + length] for i in range(len(text) - length + 1)]
        hit = set()
        for i, window in enumerate(windows):
            if window in before or window in windows[: max(0, i - length + 1)]:
                hit |= set(range(i, i + length))
        before |= set(windows)
        repeated.append(hit)
    return repeated


def covered(ranges):
    return [{i for start, end in some for i in range(start, end)} for some in ranges]


few_letters = st.lists(st.text("ab", max_size=40) | st.text("abcd", max_size=60), max_size=5)


@given(few_letters, st.integers(2, 9), st.sampled_from([1 << 10, 1 << 28]))
@settings(max_examples=400, deadline=None)
def test_ranges_are_those_of_a_naive_search(texts, length, block_bytes):
    texts = [t.encode() for t in texts]
    ranges = repeated_ranges(texts, length, block_bytes)
    assert covered(ranges) == naive(texts, length)
    for some in ranges:
        assert all(a < b for a, b in some)
        assert all(b < c for (_, b), (c, _) in itertools.pairwise(some))


@given(st.lists(st.text("aé漢🙂", max_size=30), max_size=4), st.integers(2, 9))
@settings(max_examples=200, deadline=None)
def test_no_character_is_cut_in_two(texts, length):
    data = [t.encode() for t in texts]
    ranges = repeated_ranges(data, length)
    for text, some, hit, expected in zip(
        data, ranges, covered(ranges), naive(data, length), strict=True
    ):
        without(text, some).decode()
        assert hit <= expected
        for i in expected - hit:  # only bytes of a character that is not repeated as a whole
            start = max(j for j in range(i + 1) if text[j] & 0xC0 != 0x80)
            size = len(text[start:].decode()[0].encode())
            assert not set(range(start, start + size)) <= expected


def test_the_first_occurrence_stays():
    shared = some_text(0, 40).encode()
    texts = [b"1" + shared + b"1", b"two", shared, b"3" + shared * 3 + b"3"]
    ranges = repeated_ranges(texts, 50)
    left = [without(t, r) for t, r in zip(texts, ranges, strict=True)]
    assert left == [texts[0], b"two", b"", b"33"]
    assert repeated_ranges([shared * 3], 50) == [[(len(shared), 3 * len(shared))]]


def test_no_repeat_goes_over_the_end_of_a_document():
    shared = some_text(0, 40).encode()
    assert repeated_ranges([shared, shared[:40], shared[40:80]], 50) == [[], [], []]
    assert repeated_ranges([shared, shared[:40] + shared[40:80]], 50) == [[], [(0, 80)]]


def test_a_text_does_not_repeat_by_overlapping_itself():
    assert repeated_ranges([b"a" * 19], 10) == [[]]
    assert repeated_ranges([b"a" * 20], 10) == [[(10, 20)]]
    assert repeated_ranges([b"ab" * 500], 10) == [[(10, 1000)]]


def test_nothing_and_short_texts_and_a_wrong_length():
    assert repeated_ranges([]) == []
    assert repeated_ranges([b"", b"a", b"a" * 99, b"a" * 99]) == [[], [], [], []]
    with pytest.raises(WrongUse, match="such as 100"):
        repeated_ranges([b"text"], 1)


def test_a_suffix_array_finds_the_same():
    """Lee et al. 2022: neighbours in the suffix array whose common prefix is a window."""
    length = 30
    draw = random.Random(0)
    sentences = [some_text(i, 9).encode() for i in range(300)]
    texts = [b"".join(draw.choices(sentences, k=30)) for _ in range(30)]
    joined = np.frombuffer(b"\xff".join(texts), np.uint8).copy()
    order = divsufsort(joined)
    common = kasai(joined, order)
    group = np.concatenate([[0], np.cumsum(common[:-1] < length)])
    first = np.full(group[-1] + 1, len(joined))
    np.minimum.at(first, group, order)
    stop = np.concatenate([np.flatnonzero(joined == 0xFF), [len(joined)]])
    end = stop[np.searchsorted(stop, order)]  # of the document of each suffix
    window = (order + length <= end) & (order - first[group] >= length)
    repeated = np.zeros(len(joined), bool)
    for at in order[window]:
        repeated[at : at + length] = True
    expected = np.split(repeated, stop[:-1])
    ranges = repeated_ranges(texts, length)
    for i, (some, bytes_of) in enumerate(zip(covered(ranges), expected, strict=True)):
        assert some == set(np.flatnonzero(bytes_of[1 if i else 0 :]).tolist())
    assert 0.3 < repeated.mean() < 0.99


def test_planted_stretches_are_cut_and_a_second_pass_leaves_nothing():
    planted = plant(
        [some_text(i, 400).encode() for i in range(200)],
        exact=0, spaced=0, near=0, decoys=0, stretches=100,
    )  # fmt: skip
    ranges = repeated_ranges(planted.texts)
    rates = score_substrings(planted, ranges)
    assert (rates["stretches cut"].right, rates["stretches cut"].of) == (100, 100)
    assert rates["substring precision"].value == 1
    removed = sum(b - a for some in ranges for a, b in some)
    assert removed >= sum(s.end - s.start for s in planted.stretches)
    left = [without(t, r) for t, r in zip(planted.texts, ranges, strict=True)]
    again = sum(b - a for some in repeated_ranges(left) for a, b in some)
    assert again < 0.001 * removed


def test_the_score_shows_a_bad_result():
    planted = plant([some_text(i, 400).encode() for i in range(40)], stretches=10, near=0, decoys=0)
    blind = score_substrings(planted, [[] for _ in planted.texts])
    assert blind["stretches cut"].value == 0
    greedy = score_substrings(planted, [[(0, len(t))] for t in planted.texts[:40]])
    assert greedy["stretches cut"].value == 1
    assert greedy["substring precision"].value < 0.1
