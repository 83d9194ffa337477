"""The data order: a bijection in both directions, at any point, for any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.corpus.order import Permutation, SampleOrder


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 9))
def test_a_permutation_is_a_bijection_with_its_inverse(size, seed, epoch):
    p = Permutation(size, seed, epoch)
    everything = np.arange(size)
    image = p(everything)
    assert sorted(image.tolist()) == everything.tolist()
    np.testing.assert_array_equal(p.inverse(image), everything)


@given(size=st.integers(1, 2**55), seed=st.integers(0, 2**31), data=st.data())
def test_one_index_of_a_huge_permutation_is_read_at_once(size, seed, data):
    index = data.draw(st.integers(0, size - 1))
    p = Permutation(size, seed)
    assert 0 <= int(p(index)) < size
    assert int(p.inverse(p(index))) == index


def test_an_index_outside_is_refused():
    with pytest.raises(IndexError):
        Permutation(10, 0)([3, 10])


def test_it_looks_random():
    """Neighbours land a third of the range apart on average, as uniform draws do."""
    size = 50_000
    image = Permutation(size, 1)(np.arange(size))
    assert np.abs(np.diff(image)).mean() / size == pytest.approx(1 / 3, abs=0.01)
    assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 0.02
    other = Permutation(size, 2)(np.arange(size))
    assert (image == other).mean() < 0.001


def test_every_epoch_reads_everything_once_in_its_own_order():
    order = SampleOrder(tokens=1000, length=7, seed=3)
    assert order.samples == 142
    whole = order.starts(0, 3 * 142)
    epochs = whole.reshape(3, 142)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == [7 * i for i in range(142)]
        assert epoch.max() + 7 + 1 <= 1000  # a sample and its last target
    assert not np.array_equal(epochs[0], epochs[1])


@given(first=st.integers(0, 500), count=st.integers(1, 60))
def test_any_stretch_is_the_same_stretch(first, count):
    order = SampleOrder(tokens=1000, length=7, seed=3)
    np.testing.assert_array_equal(
        order.starts(first, count), order.starts(0, 600)[first : first + count]
    )


def test_from_text_back_to_the_step_it_was_trained_at():
    order = SampleOrder(tokens=1000, length=7, seed=3)
    for epoch, offset in ((0, 0), (0, 500), (2, 991)):
        number = order.seen_at(offset, epoch)
        start = int(order.starts(number, 1)[0])
        assert start <= offset < start + 7
        assert number // order.samples == epoch


def test_too_little_text_is_refused():
    with pytest.raises(ValueError, match="hold no sample"):
        SampleOrder(tokens=8, length=8, seed=0)
