"""muTransfer's claims on curves that are known: what they measure, and when they fail."""

import math

import numpy as np
import pytest

from maquette.experiments.lab import Lab
from maquette.experiments.rate_curves import Curve, Setting, loss_of, rate_chart, rate_curves
from maquette.nn.rules import Role, Scaling
from maquette.systems import mu_transfer as system
from maquette.systems.mu_transfer import BASE, DEPTH, MUP, STANDARD, UNSCALED, WIDTHS, setting
from maquette.training.run import RunDirectory
from maquette.workshop.charts import png

GRID = tuple(range(-12, -2))


def valley(best: float, least: float, seeds: int = 2, grid: tuple[int, ...] = GRID) -> Curve:
    """Losses of a parabola with its least at `best`; the second seed is 0.01 higher."""
    row = [least + 0.05 * (rate - best) ** 2 for rate in grid]
    return Curve(grid, np.array([[loss + 0.01 * seed for loss in row] for seed in range(seeds)]))


def made(mup: list[float], standard: list[float]) -> dict[Setting, Curve]:
    """Curves of all widths with these best rates; a wider model is better by 0.1."""
    return {
        (rules, width, DEPTH): valley(best, 3.0 - 0.1 * i)
        for rules, row in ((MUP, mup), (STANDARD, standard))
        for i, (width, best) in enumerate(zip(WIDTHS, row, strict=True))
    }


@pytest.fixture
def transfers(monkeypatch) -> None:
    """The rules keep the best rate within half a step; without them it halves with the width."""
    curves = made([-6.0, -6.2, -6.5, -6.3], [-6.0, -7.0, -8.0, -9.0])
    monkeypatch.setattr(system, "over_widths", lambda lab: curves)


def test_both_arms_are_one_model_at_the_base():
    """So the base is trained once, and what differs at other widths is the rules alone."""
    assert setting((MUP, BASE, DEPTH), -6) == setting((STANDARD, BASE, DEPTH), -6)
    assert setting((MUP, BASE, DEPTH), -6) == setting((UNSCALED, BASE, DEPTH), -6)
    wide = [setting((rules, 256, DEPTH), -6).model for rules in (MUP, STANDARD)]
    ours, theirs = (Scaling(m.parametrisation, m.width, m.depth) for m in wide)
    assert ours.multipliers(Role.HIDDEN, 256).learning_rate == 1 / 8
    assert theirs.multipliers(Role.HIDDEN, 256).learning_rate == 1
    assert theirs.output_multiplier == theirs.residual_multiplier == 1
    assert ours.multipliers(Role.HIDDEN, 256).std == theirs.multipliers(Role.HIDDEN, 256).std
    deep = [setting((rules, BASE, 16), -6).model for rules in (MUP, UNSCALED)]
    branches = [Scaling(m.parametrisation, m.width, m.depth).residual_multiplier for m in deep]
    assert branches == [1 / 8, 1]
    assert {m.head for m in (*wide, *deep)} == {16}


def test_the_range_of_best_rates_is_measured_between_the_points(transfers):
    found = system.best_rate.function(Lab())
    assert found.value == pytest.approx(0.5)
    assert found.control == pytest.approx(3.0)
    assert system.best_rate.meets(found.value)
    assert not system.best_rate.meets(found.control)
    turned = system.standard_moves.function(Lab())
    assert (turned.value, turned.control) == (found.control, found.value)


def test_regret_is_what_transfer_loses(transfers):
    found = system.regret.function(Lab())
    assert found.value == pytest.approx(0.05 * (0.3**2 - 0.3**2), abs=1e-9)
    assert found.control == pytest.approx(0.05 * 9)  # three steps from the best
    gain = system.transferred.function(Lab())
    assert gain.value == pytest.approx(0.05 * (9 - 0.3**2))
    assert gain.control == 0


def test_the_claims_fail_where_nothing_transfers(monkeypatch):
    curves = made([-6.0, -7.0, -8.0, -9.0], [-6.0, -6.0, -6.0, -6.0])
    monkeypatch.setattr(system, "over_widths", lambda lab: curves)
    for one in (system.best_rate, system.regret, system.transferred, system.standard_moves):
        found = one.function(Lab())
        assert not one.meets(found.value), one.name


class Valley:
    """A lab whose runs are points of a parabola that is never trained."""

    seeds, quick = 1, False

    def __init__(self, best: float) -> None:
        self.best, self.trained = best, set()

    def train_all(self, recipes):
        self.trained |= {recipe.optimiser.learning_rate for recipe in recipes}
        return [f"{recipe.optimiser.learning_rate}" for recipe in recipes]


@pytest.mark.parametrize(
    ("best", "grid"),
    [
        (-6.0, (-8, -7, -6, -5, -4)),
        (-6.8, (-9, -8, -7, -6, -5, -4)),
        (-9.0, (-11, -10, -9, -8, -7, -6, -5, -4)),
        (-30.0, tuple(range(-14, -3))),  # bounded
    ],
)
def test_a_grid_grows_until_its_best_lies_inside(best, grid, monkeypatch):
    import maquette.experiments.rate_curves as machinery

    monkeypatch.setattr(machinery, "loss_of", lambda path: (math.log2(float(path)) - best) ** 2)
    what = (MUP, 64, DEPTH)
    lab = Valley(best)

    def make(what: Setting, rate: int, seed: int):
        return setting(what, rate, seed)

    curves = rate_curves(lab, make, [what], (-8, -7, -6, -5, -4), grow=True)  # type: ignore[arg-type]
    assert curves[what].rates == grid
    assert lab.trained == {2.0**rate for rate in grid}
    if grid[0] > -14:
        assert curves[what].best() == pytest.approx(best, abs=1e-6)


def test_a_runs_loss_is_the_mean_of_its_last_twenty(monkeypatch, tmp_path):
    losses = [float(i) for i in range(100)]
    monkeypatch.setattr(RunDirectory, "records", lambda self: [{"loss": x} for x in losses])
    assert loss_of(tmp_path / "a") == 89.5
    assert loss_of(tmp_path / "a", 0.5) == 39.5
    losses[95] = None  # type: ignore[call-overload]
    assert loss_of(tmp_path / "b") == math.inf


def test_a_run_that_diverged_is_in_no_parabola_and_no_line():
    curve = valley(-5.0, 3.0)
    curve.losses[:, -3:] = math.inf
    assert curve.grid_best == -6
    assert math.isfinite(curve.best())
    picture = rate_chart(
        {(MUP, 64, DEPTH): curve, (STANDARD, 64, DEPTH): valley(-7.0, 3.0)}, "width"
    )
    assert png(picture).startswith(b"\x89PNG")
