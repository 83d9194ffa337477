"""What extrapolating has cost, on planted surfaces: the interval covers, and widens with the distance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maquette.scaling import frontier
from maquette.scaling.extrapolation_error import cost, distance
from maquette.scaling.fit import fit_surface
from maquette.scaling.frontier import forecast

SIZES = np.array([7e5, 1.8e6, 3.3e6])
LENGTHS = np.array([0.5e6, 1e6, 2e6, 4e6])
N, D = (grid.ravel() for grid in np.meshgrid(SIZES, LENGTHS, indexing="ij"))


def surface(n, d):
    return 0.85 + 230 / n**0.5 + 100 / d**0.36


def bent(n, d):
    """No surface of the fitted form: tokens teach more than a power, as in a model's first minutes."""
    return 0.6 + 230 / n**0.5 + 3.4 / np.log(d / 2e4)


@pytest.mark.parametrize("law", [surface, bent])
def test_the_interval_covers_what_lies_outside(law):
    """Of 30 planted ladders; twice the fit's error alone, which was the interval, does not."""
    covered = bare = total = 0
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(0, 0.003, len(N))
        measured = law(N, D) * (1 + noise)
        fit = fit_surface(N, D, measured, "planted", delta=1.0)
        found = cost(N, D, measured)
        for n, d in ((1.8e6, 9e6), (3.3e6, 1.6e7), (7e6, 4e6), (7e6, 9e6)):
            away = distance(n, d, fit.range_parameters, fit.range_tokens)
            off = abs(law(n, d) / fit.law.loss(n, d) - 1)
            covered += off <= math.hypot(2 * fit.error, found.at(away))
            bare += off <= 2 * fit.error
            total += 1
    assert covered >= 0.95 * total
    assert bare < 0.75 * total


def test_the_foldings_leave_out_the_largest_and_predict_them():
    found = cost(N, D, surface(N, D))
    assert [f.name for f in found.foldings] == [
        "the 1 longest", "the 2 longest", "the 1 largest", "the 1 largest and longest"
    ]  # fmt: skip
    assert [f.kept for f in found.foldings] == [9, 6, 8, 6]
    assert max(abs(e) for e in found.foldings[0].errors) < 0.03
    for f in found.foldings:
        assert all(x > 0.5 for x in f.distances)


def test_points_that_are_too_few_leave_none_out():
    with pytest.raises(ValueError, match="too few to leave any out"):
        cost(N[:6], D[:6], surface(N[:6], D[:6]))


def test_inside_the_ladder_the_interval_is_the_fits():
    fit = frontier.surface()
    for run in frontier.ladder():
        found = forecast(int(run["parameters"]), int(run["tokens"]))
        assert found.inside and found.factor == 1
        assert found.high - found.low == pytest.approx(4 * fit.error * found.bits_per_byte)


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.floats(1.01, 3), st.booleans())
def test_the_interval_widens_with_the_distance(n, d, more, longer):
    """Relative to the point: outside never narrower than inside, and rising with every factor beyond."""
    sizes, lengths = frontier.surface().range_parameters, frontier.surface().range_tokens

    def width(size, tokens):
        found = forecast(round(size), round(tokens))
        return (found.high - found.bits_per_byte) / found.bits_per_byte

    size, tokens = sizes[1] * n, lengths[1] * d
    further = (size, tokens * more) if longer else (size * more, tokens)
    away = [distance(*p, sizes, lengths) for p in ((size, tokens), further)]
    assert width(size, tokens) >= 2 * frontier.surface().error * (1 - 1e-9)
    if away[1] > away[0] + 1e-6:
        assert width(*further) > width(size, tokens)


def test_nine_million_tokens_are_an_extrapolation_that_says_so():
    size = int(frontier.ladder()[4]["parameters"])
    found = forecast(size, 9_000_000)
    assert not found.inside
    assert found.factor == pytest.approx(9e6 / frontier.surface().range_tokens[1], rel=1e-6)
    share = found.high / found.bits_per_byte - 1
    inside = forecast(size, 3_000_000)
    assert share > 10 * (inside.high / inside.bits_per_byte - 1)
    assert 0 < found.low < found.bits_per_byte < found.high


def test_text_that_repeats_is_worth_less_and_its_interval_holds_both():
    size = int(frontier.ladder()[0]["parameters"])
    fresh, again = forecast(size, 3_000_000), forecast(size, 3_000_000, unique=300_000)
    assert again.bits_per_byte > fresh.bits_per_byte
    assert again.low < fresh.low and again.high > fresh.high
    assert forecast(size, 3_000_000, unique=3_000_000) == fresh
