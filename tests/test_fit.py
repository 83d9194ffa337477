"""Fits against planted surfaces, published points and bad files; the three approaches side by side."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command, refused

from maquette.base.errors import UserError, WrongUse
from maquette.scaling.approaches import TIMES, budgets, compare, envelope, isoflop
from maquette.scaling.fit import Fit, fit, fit_surface
from maquette.scaling.fit_points import Points, columns_from, points_of, read_points
from maquette.scaling.laws import Law, law
from maquette.scaling.lbfgs import lbfgs_fit
from maquette.scaling.projection import huber
from maquette.scaling.units import unit_of

TRUE = law("besiroglu")
assert isinstance(TRUE, Law)
# Model card of Cerebras-GPT (Apache 2.0): parameters, tokens, Pile test loss; 20 tokens a parameter
CEREBRAS = [
    (111e6, 2.22e9, 2.566), (256e6, 5.12e9, 2.299), (590e6, 1.18e10, 2.184), (1.3e9, 2.63e10, 1.996),
    (2.7e9, 5.30e10, 1.834), (6.7e9, 1.33e11, 1.704), (13e9, 2.57e11, 1.575),
]  # fmt: skip


def planted(seed: int, count: int = 60, noise: float = 0.005) -> Points:
    """Points on Besiroglu's surface over the range of their data, with relative noise."""
    draw = np.random.default_rng(seed)
    n, d = 10 ** draw.uniform(7.7, 10.2, count), 10 ** draw.uniform(9, 11.7, count)
    return points_of(n, d, surface(n, d) * np.exp(noise * draw.normal(size=count)))


def surface(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    assert isinstance(TRUE, Law)
    return TRUE.E + TRUE.A / n**TRUE.alpha + TRUE.B / d**TRUE.beta


# The solver


def test_points_without_noise_give_their_constants_back():
    for count in (8, 60, 245):
        found = fit(planted(1, count, noise=0), resamples=0)
        assert found.law.constants() == pytest.approx(TRUE.constants(), rel=1e-3)
        assert found.error < 1e-6
        assert not found.warnings


def test_the_bootstrap_interval_covers_the_truth():
    """Of 100 planted sets at least 95. If an interval covers 95 % of the time, 95 of 100 or more come
    out in 62 % of such tests and fewer than 90 in 1 %; the seeds are fixed, so this one has come out."""
    inside = dict.fromkeys(("alpha", "beta", "a"), 0)
    truth = TRUE.constants() | {"a": TRUE.exponent}
    for seed in range(100):
        found = fit(planted(seed), resamples=40, seed=seed)
        for name in inside:
            low, high = found.intervals[name]
            inside[name] += low <= truth[name] <= high
            assert high - low < 0.4
    assert min(inside.values()) >= 95, inside


def test_the_objective_is_the_least_that_can_be_found():
    """No start of L-BFGS, and no step from the answer, reaches less."""
    points = planted(0, 240)
    found = fit(points, resamples=0)
    best = lbfgs_fit(points, "sum", starts=20)
    assert found.objective <= best.objective * (1 + 1e-6)
    assert found.law.exponent == pytest.approx(best.law.exponent, abs=1e-3)
    law = found.law
    for name, value in law.constants().items():
        for factor in (0.999, 1.001):
            moved = replace(law, **{name: value * factor})
            predicted = [
                moved.loss(n, d) for n, d in zip(points.parameters, points.tokens, strict=True)
            ]
            assert huber(np.log(predicted) - np.log(points.loss)).sum() >= found.objective


@pytest.mark.parametrize("delta", [1e-3, 0.02, 1.0])
@pytest.mark.parametrize("outliers", [0, 6])
def test_the_objective_is_the_sum_of_the_fits_own_huber_losses(delta, outliers):
    """Hoffmann et al. 2022, eq. 3, written out: of log losses, summed and not averaged."""
    points = planted(3, 40)
    points.loss[:outliers] *= 1.3
    solvers: dict[str, Callable[[], Fit]] = {"ours": lambda: fit(points, resamples=0, delta=delta)}
    if delta == 1e-3:
        for reduction in ("sum", "mean"):
            solvers[reduction] = partial(lbfgs_fit, points, reduction, starts=1)
    for name, solver in solvers.items():
        found = solver()
        c = found.law
        total, squares = 0.0, 0.0
        for n, d, loss in zip(points.parameters, points.tokens, points.loss, strict=True):
            r = abs(math.log(c.E + c.A / n**c.alpha + c.B / d**c.beta) - math.log(loss))
            total += r * r / 2 if r <= delta else delta * (r - delta / 2)
            squares += r * r
        assert found.objective == pytest.approx(total, rel=1e-6), name
        assert found.error == pytest.approx(math.sqrt(squares / 40), rel=1e-6)
        assert total > 0


def test_an_averaged_loss_stops_lbfgs_early_at_a_wrong_answer():
    """Besiroglu et al. 2024 on the original fit: the same optimiser, the same starts, another scale."""
    points = planted(0, 240)
    summed, averaged = (lbfgs_fit(points, reduction, starts=20) for reduction in ("sum", "mean"))
    assert averaged.objective > 1.2 * summed.objective
    assert abs(summed.law.exponent - TRUE.exponent) < 0.01
    assert abs(averaged.law.exponent - TRUE.exponent) > 0.03


def test_an_outlier_moves_least_squares_and_not_the_fit():
    points = planted(2, 60)
    points.loss[7] *= 1.5
    robust = fit(points, resamples=0)
    squares = fit(points, resamples=0, delta=1.0)
    assert abs(robust.law.exponent - TRUE.exponent) < 0.03
    assert abs(squares.law.exponent - TRUE.exponent) > 2 * abs(robust.law.exponent - TRUE.exponent)
    (outlier,) = robust.outliers
    assert outlier[0] == points.parameters[7]
    assert outlier[3] == pytest.approx(0.41, abs=0.02)  # of log loss
    assert any("1 of 60 points lie far" in line and "--drop" in line for line in robust.warnings)


def test_dropping_takes_the_highest_losses_and_says_when_it_cannot():
    points = planted(0, 10)
    kept = points.without_highest(3)
    assert sorted(kept.loss) == sorted(points.loss)[:7]
    assert fit(points, drop=3, resamples=0).points == 7
    with pytest.raises(WrongUse, match="use 0 to 4"):
        fit(points, drop=5)


# What a fit says of itself


def test_equal_tokens_a_parameter_are_under_determined():
    """Cerebras-GPT's seven models: good for a frontier, no use for two terms."""
    found = fit(points_of(*zip(*CEREBRAS, strict=True)))
    assert any("about 20 tokens a parameter" in line for line in found.undetermined)
    low, high = found.intervals["a"]
    assert high - low > 0.3
    third = compare(points_of(*zip(*CEREBRAS, strict=True))).approaches[2]
    assert third.a is None and third.best(1e21) is None and third.reason


def test_few_sizes_or_token_counts_are_under_determined():
    n, d = np.array([1e8, 1e9] * 4), np.geomspace(1e9, 1e11, 8)
    found = fit(points_of(n, d, surface(n, d)), resamples=0)
    assert any("2 model sizes" in line for line in found.undetermined)
    found = fit(
        points_of(np.geomspace(1e8, 1e10, 8), np.full(8, 1e10), np.linspace(3, 2, 8)), resamples=0
    )
    assert any("1 token counts" in line for line in found.undetermined)


@pytest.mark.parametrize("power", [0.5, 1.4, -1.0])
def test_tokens_that_follow_the_size_are_under_determined(power):
    """Without noise the resamples agree with one another, and the exponents are not the planted ones."""
    draw = np.random.default_rng(0)
    n = np.geomspace(1e8, 1e10, 7)
    d = 1e10 * (n / 1e9) ** power * np.exp(0.05 * draw.normal(size=7))
    found = fit(points_of(n, d, 1.8 + 480 / n**0.35 + 2085 / d**0.366), resamples=0)
    (line,) = [line for line in found.undetermined if "varied together" in line]
    assert "cannot be told apart" in line and line in found.warnings
    n, d = np.tile(n, 2), np.concatenate([d, 100 * d])
    free = fit(points_of(n, d, surface(n, d)), resamples=0)
    assert not free.undetermined
    assert free.law.exponent == pytest.approx(TRUE.exponent, abs=1e-3)


def test_a_minimum_on_the_edge_is_said_to_be():
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
    n, d = n.ravel(), d.ravel()
    found = fit(points_of(n, d, 2 + 1e9 / n**1.2 - 0 * d), resamples=0)  # tokens do nothing
    assert found.on_edge
    assert any("edge of what was searched" in line for line in found.warnings)
    assert min(found.law.E, found.law.A, found.law.B) >= 0


def test_outside_of_its_points_only_a_good_surface_predicts():
    good, bad = fit(planted(0)), fit(planted(0, noise=0.03))
    assert good.error < 0.01 < bad.error
    assert any("misses its points" in line for line in bad.warnings)
    n, d = 1e9, 1e10
    assert good.extrapolates(n, d) == 1
    assert good.extrapolates(1e12, d) == pytest.approx(1e12 / good.range_parameters[1])
    assert good.extrapolates(n, 1e8) == pytest.approx(good.range_tokens[0] / 1e8)
    truth = TRUE.loss(1e11, 1e12)
    far = good.predict(1e11, 1e12)
    assert far.low < truth < far.high
    assert 5 < far.outside < 10 and far.warning == ""
    further = good.predict(1e12, 1e12)
    assert f"{further.outside:.3g} times outside of the points" in further.warning
    near = good.predict(n, d)
    assert near.outside == 1 and near.high - near.low < far.high - far.low
    assert bad.predict(n, d).loss == pytest.approx(TRUE.loss(n, d), rel=0.02)
    with pytest.raises(
        UserError, match=r"lie .* times outside of the points, and the surface misses"
    ):
        bad.predict(1e11, 1e12)


def test_predictions_without_resamples_have_no_interval():
    found = fit_surface(*(getattr(planted(0), k) for k in ("parameters", "tokens", "loss")), "x")
    assert found.intervals == {}
    one = found.predict(1e9, 1e10)
    assert one.low == one.loss == one.high
    with pytest.raises(WrongUse, match="resamples"):
        fit(planted(0), resamples=-1)


# The approaches


def on_budgets(noise: float, offset: float = 0.0, spread: float = 0.6) -> Points:
    """Seven budgets of seven sizes, `offset` decades beside the optimum."""
    draw, rows = np.random.default_rng(0), []
    for flops in np.logspace(18, 21, 7):
        middle = TRUE.best(flops)[0] * 10**offset
        rows += [(n, flops / 6 / n) for n in middle * np.logspace(-spread, spread, 7)]
    n, d = np.array(rows).T
    return points_of(n, d, surface(n, d) * np.exp(noise * draw.normal(size=len(n))))


def curves(noise: float = 0.0) -> Points:
    """Nine sizes, each a curve of sixty looks, of staggered lengths."""
    draw, rows = np.random.default_rng(0), []
    for run, n in enumerate(np.logspace(7.5, 10, 9)):
        rows += [(n, d, run) for d in np.geomspace(n, 1000 * n, 60)]
    n, d, run = np.array(rows).T
    return points_of(n, d, surface(n, d) * np.exp(noise * draw.normal(size=len(n))), run)


def test_isoflop_minima_lie_on_the_frontier():
    """Exact for symmetric grids without noise; with 0.3 % noise within the interval."""
    exact = isoflop(on_budgets(0))
    assert len(exact.minima) == 7 and all(one.interior for one in exact.minima)
    assert exact.a == pytest.approx(TRUE.exponent, abs=1e-6)
    for one in exact.minima:
        assert one.parameters == pytest.approx(TRUE.best(one.flops)[0], rel=0.1)
    noisy = isoflop(on_budgets(0.003))
    assert noisy.interval is not None
    assert noisy.interval[0] < TRUE.exponent < noisy.interval[1]
    assert 0.005 < noisy.interval[1] - noisy.interval[0] < 0.1


def test_minima_at_the_edge_of_the_sizes_are_not_used():
    found = isoflop(on_budgets(0, offset=2.0))
    assert found.a is None
    assert not any(one.interior for one in found.minima)
    assert "at the edge of the sizes" in found.reason


def test_budgets_are_runs_within_ten_percent():
    n = np.array([1e8, 2e8, 4e8, 1e8, 2e8, 4e8, 8e8])
    c = np.array([1.0, 1.05, 0.97, 2.0, 2.5, 2.1, 1.99]) * 1e18
    rows = budgets(replace(points_of(n, c / 6 / n, np.ones(7)), flops=c))
    assert [sorted(group.tolist()) for group in rows] == [[0, 1, 2], [3, 5, 6]]


def test_the_envelope_of_curves_lies_on_the_frontier():
    found = envelope(curves())
    assert found.a == pytest.approx(TRUE.exponent, abs=0.02)
    assert not found.minima[0].interior  # the smallest size wins below the first curve's start too
    n, _ = found.best(1e20) or (0, 0)
    assert n == pytest.approx(TRUE.best(1e20)[0], rel=0.1)


def test_a_comparison_says_what_is_missing_and_where_they_disagree():
    found = compare(on_budgets(0.003))
    assert [one.a is None for one in found.approaches] == [True, False, False]
    assert any("no training curves" in line for line in found.warnings)
    assert not any("disagree" in line for line in found.warnings)
    rows = found.at(1e22)
    assert rows[0][1] is None
    assert rows[1][1] is not None and 6 * np.prod(rows[1][1]) == pytest.approx(1e22)
    only = compare(curves())
    assert any("no budget has three sizes" in line for line in only.warnings)
    bent = on_budgets(
        0.0005
    )  # another world at the same budgets: minima grow faster than the surface's
    bent = replace(
        bent,
        loss=bent.loss * (1 + 0.02 * np.log(bent.flops / 1e19) * np.log(bent.parameters / 1e9)),
    )
    assert any("disagree by more than their intervals" in line for line in compare(bent).warnings)


def test_sizes_are_compared_where_an_approach_has_no_interval():
    """Three sizes a budget leave the parabolas no residual to resample."""
    sizes = np.arange(49) % 7
    three = on_budgets(0).take(np.isin(sizes, (1, 3, 5)))
    found = compare(three)
    assert found.approaches[1].interval is None and found.approaches[2].interval is not None
    assert any("approach 2 has no interval of a" in line for line in found.warnings)
    assert not any("disagree" in line for line in found.warnings)
    bent = three.loss * (1 + 0.005 * np.log(three.flops / 1e19) * np.log(three.parameters / 1e9))
    found = compare(replace(three, loss=bent), flops=1e24)
    one, other = (best[0] for _, best in found.at(1e24)[1:] if best)
    assert max(one, other) > 1.5 * min(one, other)
    assert any("at 1e+24 FLOP approach 2 gives" in line for line in found.warnings)
    assert TIMES * three.flops.max() < 1e24


def test_runs_that_are_too_few_leave_the_other_approaches():
    three = curves().take(np.flatnonzero(curves().run < 5))
    found = compare(three)
    assert found.fit is None
    assert found.approaches[0].a == pytest.approx(TRUE.exponent, abs=0.05)
    assert "5 finished runs cannot fix five constants" in found.approaches[2].reason


# Files


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "points.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


ROWS = [f"{n:.6g},{20 * n:.6g},{3 - i / 10}" for i, n in enumerate(np.geomspace(1e7, 1e9, 8))]
GOOD = "parameters,tokens,loss\n" + "\n".join(ROWS) + "\n"


def test_a_csv_is_read_as_it_stands(tmp_path):
    points = read_points(write(tmp_path, "\ufeff" + GOOD.replace("\n", "\r\n") + "\r\n\r\n"))
    assert len(points) == 8
    assert points.flops == pytest.approx(6 * points.parameters * points.tokens)
    assert (points.run == -1).all() and len(points.ends()) == 8
    flops = [f"{n:.6g},{120 * n**2:.6g},2" for n in np.geomspace(1e7, 1e9, 8)]
    named = "\n".join(["Model Size,Training FLOP,final", *flops])
    words = columns_from("parameters=Model Size, flops=Training FLOP ,loss=final")
    points = read_points(write(tmp_path, named), words)
    assert points.tokens == pytest.approx(points.flops / 6 / points.parameters)
    runs = "run,parameters,tokens,loss\n" + "\n".join(f"r{i // 2},{r}" for i, r in enumerate(ROWS))
    points = read_points(write(tmp_path, runs))
    assert points.curves == [0, 1, 2, 3]
    assert points.ends().loss == pytest.approx([2.9, 2.7, 2.5, 2.3])


def in_units(n_unit, d_unit, header="parameters,tokens,loss"):
    rows = [f"{n / n_unit:.8g},{20 * n / d_unit:.8g},{3 - i / 10}" for i, n in enumerate(SIZES)]
    return "\n".join([header, *rows])


SIZES = np.geomspace(1e8, 2e9, 8)


@pytest.mark.parametrize(
    ("n_unit", "d_unit", "header", "mend"),
    [
        (1e6, 1e9, "parameters,tokens,loss", "parameters=parameters*1e6,tokens=tokens*1e9"),
        (1, 1e9, "parameters,tokens,loss", "tokens=tokens*1e9"),
        (1e9, 1e9, "N (B),D (B),loss", "parameters=N (B)*1e9,tokens=D (B)*1e9"),
        (1e6, 1, "parameters,tokens,loss", "parameters=parameters*1e6"),
        (1, 1e6, "parameters,tokens_M,loss", "tokens=tokens_M*1e6"),
        (1e3, 1e9, "N (k),tokens (B),loss", "parameters=N (k)*1000,tokens=tokens (B)*1e9"),
    ],
)
def test_units_that_cannot_be_are_asked_about(n_unit, d_unit, header, mend, tmp_path):
    """Read as counts they fit as well as any; what to write makes them the numbers they are."""
    path = write(tmp_path, in_units(n_unit, d_unit, header))
    names = dict(zip(("parameters", "tokens", "loss"), header.split(","), strict=True))
    with pytest.raises(WrongUse, match="in which units are they") as error:
        read_points(path, names)
    said = re.search(r"--columns '([^']*)'", str(error.value))[1]
    assert mend == said or mend in said
    points = read_points(path, columns_from(said))
    assert points.parameters == pytest.approx(SIZES, rel=1e-6)
    assert points.tokens == pytest.approx(20 * SIZES, rel=1e-6)
    assert points.flops == pytest.approx(120 * SIZES**2, rel=1e-5)
    names.pop("loss")
    if n_unit == 1e9:
        return  # a tenth of a parameter is no count
    as_they_stand = {name: f"{column}*1" for name, column in names.items()}
    assert (
        len(read_points(path, as_they_stand)) == 8
    )  # whoever says that they are counts is believed


def test_operations_in_units_are_asked_about_too(tmp_path):
    for unit, header in ((1e18, "parameters,flops,loss"), (1e15, "parameters,PFLOPs,loss")):
        rows = [f"{n:.8g},{120 * n**2 / unit:.8g},{3 - i / 10}" for i, n in enumerate(SIZES)]
        path = write(tmp_path, "\n".join([header, *rows]))
        names = {"flops": header.split(",")[1]}
        with pytest.raises(WrongUse, match=r"in which units are they"):
            read_points(path, names)
        points = read_points(path, {"flops": f"{names['flops']}*{unit:g}"})
        assert points.tokens == pytest.approx(20 * SIZES, rel=1e-5)


def test_a_name_with_a_unit_is_noted_where_the_numbers_are_counts(tmp_path):
    header = "params_m,tokens,loss"
    points = read_points(write(tmp_path, in_units(1, 1, header)), {"parameters": "params_m"})
    assert points.notes == (
        "the column 'params_m' is read as a count; if it is in units of 1e6, say --columns "
        "'parameters=params_m*1e6'",
    )
    assert points.ends().notes == points.notes
    assert read_points(write(tmp_path, GOOD)).notes == ()


@pytest.mark.parametrize(
    ("name", "column", "unit"),
    [
        ("tokens", "tokens (B)", 1e9), ("tokens", "tokensB", 1e9), ("tokens", "billion tokens", 1e9),
        ("parameters", "params_M", 1e6), ("parameters", "N (millions)", 1e6), ("tokens", "D", None),
        ("tokens", "B", None), ("parameters", "Model Size", None), ("tokens", "num_tokens", None),
        ("flops", "PFLOPs", 1e15), ("flops", "pf-days", 8.64e19), ("flops", "flops", None),
        ("flops", "petaflop/s-days", 8.64e19), ("flops", "compute (EFLOP)", 1e18),
        ("flops", "flops (1e18)", 1e18), ("flops", "Training FLOP", None), ("flops", "C", None),
    ],
)  # fmt: skip
def test_a_columns_name_says_its_unit(name, column, unit):
    assert unit_of(name, column) == unit


def test_a_factor_that_is_none_is_refused(tmp_path):
    for factor in ("0", "-1", "nan", "inf"):
        with pytest.raises(WrongUse, match="use a factor above 0"):
            read_points(write(tmp_path, GOOD), {"tokens": f"tokens*{factor}"})
    starred = GOOD.replace("tokens", "D*2")  # a column of that name is that column
    assert read_points(write(tmp_path, starred), {"tokens": "D*2"}).tokens[0] == 2e8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: write a header"),
        ("\n\n", "is empty"),
        ("parameters,tokens,loss\n", "0 points cannot fix five constants"),
        ("parameters,tokens,loss\n" + "\n".join(ROWS[:5]), "5 points cannot fix five constants: give six"),
        (GOOD.replace("tokens", "token"), "no column 'tokens' or 'flops'"),
        (GOOD.replace("loss", "losses"), "no column 'loss': did you mean 'losses'? (say which: --columns"),
        (GOOD.replace("loss", "tokens"), "two columns are called 'tokens'"),
        (GOOD.replace("2.8", "-2.8"), "line 4: loss is -2.8: it has to be above 0"),
        (GOOD.replace("2.8", "0"), "line 4: loss is 0"),
        (GOOD.replace("2.8", "nan"), "line 4: loss is nan: take the row out, or mend it"),
        (GOOD.replace("2.8", "inf"), "line 4: loss is inf"),
        (GOOD.replace("2.8", ""), "line 4: loss is empty: write a plain number"),
        (GOOD.replace("2.8", "1e300"), "line 4: loss is 1e300: it has to be 1e-06 to 1e+06"),
        (GOOD.replace("2.8", "1e-9"), "line 4: loss is 1e-9: it has to be 1e-06"),
        (GOOD.replace("1e+07", "0.5"), "line 2: parameters is 0.5: it has to be 1 to 1e+30"),
        (GOOD.replace("1e+07", "1e+31"), "line 2: parameters is 1e+31: it has to be 1 to 1e+30"),
        (GOOD.replace("1e+07", "1e+29"), "line 2: flops (6 N D) is 1.2e+38"),
        (GOOD.replace("tokens", "flops").replace("2e+08", "2e+06"),
         "in which units are they? Say it with --columns 'flops=flops*1e18'"),
        (GOOD.replace("2.8", "low"), "line 4: loss is low: write a plain number"),
        (GOOD.replace("1e+07", "10M"), "line 2: parameters is 10M: write a plain number such as"),
        (GOOD.replace("2.8", "2.8,9"), "line 4: 4 cells under 3 columns"),
        (GOOD.replace(",2.8", ""), "line 4: 2 cells under 3 columns"),
        (GOOD.replace(",", ";"), "not separated by commas"),
        (GOOD.replace("2.8", '"2.8'), "line 9: unexpected end of data: mend it"),
        ("parameters,tokens,loss\n" + "1e8,1e9,3\n" * 8, "every point has 1e+08 parameters"),
        (b"\xff\xfe\x00p", "is not UTF-8 text"),
        (b"parameters,tokens,loss\n1e8,1e9,\x80\n", "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_bad_csv_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(WrongUse) as caught:
        read_points(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def table(folder: Path, loss: Callable[..., np.ndarray]) -> str:
    """25 runs whose loss is a function of n, d and the noise e."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(1e9, 1e11, 5)))
    e = np.random.default_rng(0).normal(size=25)
    values = np.broadcast_to(loss(n, d, e), n.shape)
    rows = [f"{a:.6g},{b:.6g},{c:.9g}" for a, b, c in zip(n, d, values, strict=True)]
    return str(write(folder, "parameters,tokens,loss\n" + "\n".join(rows) + "\n"))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda n, d, e: 2 + 500 / n**0.35, "the loss does not depend on tokens in these points"),
        (
            lambda n, d, e: 2 + 500 / d**0.35,
            "the loss does not depend on parameters in these points",
        ),
        (lambda n, d, e: 3, "the loss does not depend on parameters or tokens in these points"),
        (lambda n, d, e: 2 + 0.01 * e, ""),
        (lambda n, d, e: 2 + (n / 1e9) ** 0.1 + (d / 1e9) ** 0.1, "the loss does not depend on"),
    ],
)
def test_a_loss_that_ignores_a_term_is_one_line(tmp_path, loss, message):
    said = command("plan", "--from", table(tmp_path, loss), "--resamples", "5", "--json")
    if said.code == 0:  # noise may leave both terms: then the surface has no answer, and says so
        assert not message and said.json["parameters"] is None and said.json["warnings"]
    else:
        refused(said, message, code=1)


def test_a_far_budget_is_said_to_be_one(tmp_path):
    csv = table(tmp_path, lambda n, d, e: 1.8 + 480 / n**0.35 + 2085 / d**0.366)
    near = command("plan", "--from", csv, "--resamples", "10", "--json").json
    assert 1 < near["outside"] < 10 and not any("extrapolation" in w for w in near["warnings"])
    far = command("plan", "--from", csv, "--resamples", "10", "--flops", "1e26", "--json").json
    assert far["outside"] > 10 and far["loss_predicted"] is not None
    assert any(w.startswith("extrapolation: ") for w in far["warnings"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flops", "-1"], "flops is -1: use 1 to 1e+30"),
        (["--flops", "0"], "flops is 0: use"),
        (["--flops", "nan"], "flops is nan: use"),
        (["--flops", "inf"], "flops is inf: use"),
        (["--out", "x.yaml"], "leave out --out, which belongs"),
        (
            ["--device", "H100", "--devices", "8"],
            "leave out --device and --devices, which belong to a budget",
        ),
        (["--price", "2"], "leave out --price, which belongs"),
        (["--law", "kaplan"], "leave out --law, which belongs"),
        (["--corpus", "tiny"], "leave out --corpus, which belongs"),
        (["--utilisation", "0.4"], "leave out --utilisation, which belongs"),
        (["--inference-tokens", "1e9"], "leave out --inference-tokens, which belongs"),
        (["--vocabulary", "256"], "leave out --vocabulary, which belongs"),
        (["--context", "64"], "leave out --context, which belongs"),
        (["--hours", "1"], "leave out --hours, which belongs"),
        (["tiny"], "leave out the recipe tiny, which belongs"),
        (["--resamples", "-1"], "resamples is -1: use 0 to 10000"),
        (["--drop", "-1"], "drop is -1: use 0 or more"),
    ],
)
def test_what_a_fit_cannot_take_is_refused_before_it(words, message):
    refused(command("plan", "--from", "nowhere.csv", *words), message, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("loss", "'loss' is not NAME=COLUMN"),
        ("los=x", "unknown name los: did you mean 'loss'?"),
        ("loss=x,loss=y", "loss is named twice"),
    ],
)
def test_bad_column_names_are_refused(words, message):
    with pytest.raises(WrongUse, match=message.replace("?", r"\?")):
        columns_from(words)


def test_a_column_that_was_named_has_to_be_there(tmp_path):
    with pytest.raises(WrongUse, match=r"no column 'toks': did you mean 'tokens'\?"):
        read_points(write(tmp_path, GOOD), {"tokens": "toks"})
    with pytest.raises(WrongUse, match="does not exist"):
        read_points(tmp_path / "none.csv")


def test_a_folder_of_runs_is_points_and_curves(tmp_path, recipe):
    with pytest.raises(WrongUse, match="holds no runs"):
        read_points(tmp_path)
    sizes = []
    for width in (32, 64):
        one = replace(recipe, model=replace(recipe.model, width=width))
        sizes.append(one.model.parameters())
        (tmp_path / f"w{width}").mkdir()
        one.save(tmp_path / f"w{width}/recipe.yaml")
        look = [
            {"step": s, "tokens": 128 * s, "loss": 9.0, "heldout_loss": 5 - s / 10}
            for s in (4, 8, 12)
        ]
        lines = [{"step": 2, "tokens": 256, "loss": 9.0}, {"event": "resumed", "step": 4}, *look]
        (tmp_path / f"w{width}/metrics.jsonl").write_text(
            "\n".join(map(json.dumps, lines)), encoding="utf-8"
        )
    points = read_points(tmp_path)
    assert sorted(set(points.parameters)) == sizes
    assert points.tokens.tolist() == [512, 1024, 1536] * 2
    assert points.ends().loss == pytest.approx([3.8, 3.8])
    (tmp_path / "w64/metrics.jsonl").write_text(
        json.dumps({"step": 1, "tokens": 5, "loss": 2.0}), encoding="utf-8"
    )
    with pytest.raises(WrongUse, match="w64 has no held-out loss"):
        read_points(tmp_path)
    (tmp_path / "w64/metrics.jsonl").write_text(
        '{"step": 1, "tokens": 5, "heldout_loss": NaN}', encoding="utf-8"
    )
    with pytest.raises(WrongUse, match="w64, step 1: the held-out loss is nan"):
        read_points(tmp_path)


def test_laws_and_fits_need_no_torch():
    modules = "laws fit fit_points approaches epochs lbfgs frontier".split()
    code = "import sys; " + "; ".join(f"import maquette.scaling.{m}" for m in modules)
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


# Published points


def chinchilla() -> Points:
    """The 245 points that Besiroglu et al. 2024 read off Hoffmann et al.'s figure 4."""
    folders = [os.environ.get("MAQUETTE_DATA"), ROOT / "shared/data", ROOT.parent / "shared/data"]
    files = [Path(folder) / "chinchilla.csv" for folder in folders if folder]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        pytest.skip(
            "no chinchilla.csv in $MAQUETTE_DATA or shared/data: it has no licence to be kept here"
        )
    return read_points(found, columns_from("parameters=Model Size,flops=Training FLOP,loss=loss"))


def test_besiroglus_points_give_besiroglus_constants():
    points = chinchilla()
    assert len(points) == 245
    found: Fit = fit(points, drop=5)
    assert found.points == 240
    assert found.objective == pytest.approx(0.0010182740, abs=1e-9)  # the least of their notebook
    for name, (value, tolerance) in {
        "E": (1.8169, 0.03), "A": (482.0, 124.5), "B": (2085.4, 1293.0),
        "alpha": (0.3478, 0.015), "beta": (0.3658, 0.02),
    }.items():  # fmt: skip
        assert getattr(found.law, name) == pytest.approx(value, abs=tolerance), name
    assert found.law.exponent == pytest.approx(0.513, abs=0.02)
    published = {"E": 0.0257, "A": 124.5, "B": 1293.3, "alpha": 0.0154, "beta": 0.0206}
    for column, (name, error) in zip(found.draws.T, published.items(), strict=True):
        assert 0.5 * error < column.std() < 2 * error, name
    assert found.error < 0.01
    n, d = found.law.best(5.88e23)
    assert n == pytest.approx(74e9, rel=0.03) and d / n == pytest.approx(18, rel=0.05)


def test_besiroglus_points_read_three_ways():
    """IsoFLOP minima and the surface agree; the five outliers bend the surface by 2.4 % (rms)."""
    found = compare(chinchilla(), drop=5)
    _, minima, parametric = found.approaches
    assert minima.a == pytest.approx(0.5, abs=0.05)  # the paper: 0.49
    assert parametric.interval is not None and parametric.interval[0] < 0.5 < parametric.interval[1]
    assert not any("disagree" in line for line in found.warnings)
    whole = fit(chinchilla())
    assert whole.error > 0.02
    assert whole.outliers[0][2] == pytest.approx(4.665, abs=0.001)
