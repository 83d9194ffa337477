"""Statistics: intervals cover what they should, bootstraps agree with what is known in closed form."""

import math

import numpy as np
import pytest
import torch

from maquette.base.statistics import (
    Share,
    agresti_min,
    bootstrap,
    bootstrap_arrays,
    bootstrap_mean,
    difference,
    mean_interval,
    paired_difference,
    percentiles,
    pooled,
    wilson,
)


def test_wilsons_interval():
    """Against Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for (count, n), expected in {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
    }.items():  # fmt: skip
        assert wilson(count, n) == pytest.approx(expected, abs=5e-5)
    assert wilson(29, 29)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)
    draw = np.random.default_rng(0)
    covered = [low <= 0.03 <= high for low, high in
               (wilson(k, 200) for k in draw.binomial(200, 0.03, 4000))]  # fmt: skip
    assert 0.93 < np.mean(covered) < 0.98


def test_a_difference_has_newcombes_interval():
    """Newcombe 1998, table II: 56/70 less 48/80 is 0.2, from 0.0524 to 0.3339 (method 10)."""
    value, low, high = difference(Share(56, 70), Share(48, 80))
    assert value == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert pooled([Share(1, 4), Share(3, 4)]) == Share(4, 8)


def test_paired_differences():
    a = np.array([True] * 30 + [False] * 70)
    b = np.array([True] * 20 + [False] * 80)
    value, low, high = paired_difference(a, b)
    assert value == pytest.approx(0.10)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.09 / 100), rel=1e-3)
    assert paired_difference(a, a) == (0, 0, 0)


def test_the_interval_of_few_pairs_is_as_wide_as_it_should_be():
    """Of equal arms it holds 0 in about 95 of 100 samples, and is never empty."""
    generator = torch.Generator().manual_seed(0)
    holds = 0
    for _ in range(400):
        a, b = (torch.rand(2, 100, generator=generator) < 0.7).double()
        low, high = agresti_min(a - b)
        holds += low <= 0 <= high
    assert 0.92 < holds / 400 <= 0.99
    low, high = agresti_min(torch.zeros(100, dtype=torch.float64))
    assert low < 0 < high


def test_the_interval_of_a_mean():
    """Of 400 fair coins: half, and 1.96 standard errors of 0.025 on either side."""
    mean, low, high = mean_interval(np.array([1.0, 0.0, 1.0, 0.0] * 100))
    assert mean == 0.5 and high - low == pytest.approx(2 * 0.049, abs=0.001)


def test_a_bootstrap_of_a_mean_is_as_wide_as_the_normal_interval():
    """Both generators; the middle of the interval is the mean, and twice the scale is twice as wide."""
    values = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    array = values.numpy()
    _, low, high = mean_interval(array)
    of_tensor = bootstrap_mean(values)
    of_array = bootstrap_arrays(500, lambda rows: array[rows].mean(1), draws=1000)
    for found in (of_tensor, of_array):
        assert found == pytest.approx((low, high), abs=0.01)
    assert bootstrap_mean(2 * values) == pytest.approx([2 * end for end in of_tensor])


def test_a_bootstrap_takes_whole_rows():
    """A ratio that is the same in every row has no width, though its parts have."""
    below = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    above = 3 * below
    ends = bootstrap(50, lambda rows: above[rows].sum(1) / below[rows].sum(1))
    assert ends == pytest.approx((3, 3))
    assert bootstrap_mean(below)[1] - bootstrap_mean(below)[0] > 0.05


def test_percentiles_of_many_draws_and_of_few():
    assert percentiles(np.arange(1001)) == pytest.approx((25, 975))
    assert percentiles([3, 1, 2], "weibull") == (1, 3)
    assert 1 < percentiles([3, 1, 2])[0] < 2
