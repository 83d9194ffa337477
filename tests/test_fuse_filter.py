"""Fuse tables: every key gives its value, strangers pass as often as the bits say, in the space said."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maquette.corpus.text import fuse_filter
from maquette.corpus.text.fuse_filter import Fuse, make, own_bits


def some_keys(count, seed=0):
    draw = np.random.default_rng(seed)
    return np.unique(draw.integers(0, 2**64, count, dtype=np.uint64))


def bits_of(table):
    return len(table.words) * 64


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3000), st.integers(1, 63), st.integers(0, 2**32))
def test_every_key_gives_its_value(count, bits, seed):
    keys = some_keys(count, seed)
    values = np.random.default_rng(seed + 1).integers(0, 1 << bits, len(keys), dtype=np.uint64)
    table = make(keys, values, bits)
    assert np.array_equal(table.read(keys[::-1]), values[::-1])


@pytest.mark.parametrize("bits", [1, 4, 7, 10])
def test_strangers_pass_as_often_as_the_bits_say(bits):
    keys, strangers = some_keys(20_000, 1), some_keys(400_000, 2)
    passed = make(keys, own_bits(keys, bits), bits).contains(strangers).sum()
    expected = len(strangers) / 2**bits
    assert abs(passed - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize(("count", "overhead"), [(600_000, 1.08), (100_000, 1.13), (10_000, 1.24)])
def test_the_space_is_close_to_the_limit(count, overhead):
    keys = some_keys(count)
    assert bits_of(make(keys, own_bits(keys, 7), 7)) <= overhead * 7 * len(keys) + 64


def test_partitions_answer_as_one_table_does(monkeypatch):
    keys, strangers = some_keys(5000), some_keys(20_000, 3)
    values = np.arange(len(keys), dtype=np.uint64)
    monkeypatch.setattr(fuse_filter, "PARTITION_KEYS", 300)
    table = make(keys, values, 20)
    assert len(table.partitions) == 32
    assert np.array_equal(table.read(keys), values)
    own = make(keys, own_bits(keys, 9), 9)
    assert own.contains(keys).all()
    assert own.contains(strangers).sum() < 5 * len(strangers) / 2**9
    low = keys[keys < 2**63][::8]  # all of them in the first of two partitions
    half = make(low, own_bits(low, 9), 9)
    assert half.partitions[:, 1].tolist()[1:] == [0]
    assert half.contains(low).all()
    assert np.array_equal(half.read(keys[keys >= 2**63]), np.zeros((keys >= 2**63).sum()))


def test_the_table_depends_on_the_keys_alone():
    keys = some_keys(5000)
    one, other = (make(k, own_bits(k, 7), 7) for k in (keys, keys.copy()))
    assert np.array_equal(one.words, other.words)
    assert np.array_equal(one.partitions, other.partitions)


def test_an_empty_filter_holds_nothing():
    empty = make(some_keys(0), some_keys(0), 7)
    assert not empty.contains(some_keys(1000)).any()


def test_what_is_no_hash_is_refused():
    numbers = np.arange(100, dtype=np.uint64)
    with pytest.raises(ValueError, match="not distinct hashes"):
        make(numbers, own_bits(numbers, 7), 7)


@pytest.mark.parametrize(
    "row", [(-64, 50, 3, 0), (0, 1 << 40, 3, 0), (0, 50, 40, 0), (0, -1, 3, 0), (1 << 40, 0, 0, 0)]
)
def test_a_table_that_points_outside_itself_is_refused(row):
    keys = some_keys(500)
    arrays = make(keys, own_bits(keys, 7), 7).arrays()
    assert Fuse.of(7, arrays).contains(keys).all()
    with pytest.raises(ValueError, match="outside"):
        Fuse.of(7, arrays | {"partitions": np.array([row], np.int64)})
    with pytest.raises(ValueError, match="outside"):
        Fuse.of(7, arrays | {"words": arrays["words"][: len(arrays["words"]) // 2]})
    with pytest.raises(ValueError, match="not the arrays"):
        Fuse.of(7, arrays | {"words": arrays["words"].astype(np.int64)})
