"""The chinchilla and scaling claims: their design, and what they make of planted losses."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from maquette.experiments.bases import isoflop
from maquette.experiments.catalogue import systems
from maquette.experiments.lab import Lab
from maquette.experiments.results import measure
from maquette.scaling.rungs import LEAST, size, stable_steps
from maquette.systems import scaling
from maquette.training.run import METRICS
from maquette.training.schedule import decay_start
from maquette.workshop.branched_runs import agree


def test_the_budgets_span_thirty_times_and_their_lengths_double():
    assert isoflop.BUDGETS[-1] / isoflop.BUDGETS[0] == 32
    for flops, widths in zip(isoflop.BUDGETS, isoflop.SIZES, strict=True):
        assert len(widths) >= 4
        for width in widths:
            n = size(width, 257)
            steps = isoflop.steps_of(width, flops)
            assert stable_steps(n, flops) >= LEAST
            assert 6 * n * steps * 256 == pytest.approx(flops, rel=0.012)
    held_out = isoflop.steps_of(isoflop.LARGEST, 4 * isoflop.BUDGETS[-1])
    assert (isoflop.LARGEST, held_out) in isoflop.doubling(quick=False)
    steps = [n for _, n in isoflop.doubling(quick=False)]
    assert [b / a for a, b in itertools.pairwise(steps)] == [2] * 4


def test_every_size_of_the_power_law_has_its_share_of_tokens():
    ratios = [steps * 256 / size(width, 257) for width, steps in isoflop.in_proportion(False)]
    assert max(ratios) / min(ratios) < 1.01
    assert ratios[0] == pytest.approx(49.2, rel=0.01)


class Planted(Lab):
    """A lab whose runs are not trained: their losses are those of a known frontier."""

    def __init__(self, folder: Path, exponent: float, floor: float = 0.0) -> None:
        super().__init__(seeds=2)
        self.runs, self.exponent, self.floor, self.asked = folder, exponent, floor, 0

    def best(self, flops: float) -> float:
        return 11_400 * (flops / 2e10) ** self.exponent

    def train_branches(self, runs):
        paths = []
        self.asked = len(runs)
        for i, (recipe, trunk) in enumerate(runs):
            assert agree(recipe, trunk) == decay_start(recipe.schedule, recipe.steps) or (
                recipe == trunk
            )
            n, d = recipe.model.parameters(), recipe.steps * recipe.units_per_step
            off = math.log(n / self.best(6 * n * d))
            loss = (self.floor + 27.8 * (6 * n * d) ** -0.101) * (1 + 0.05 * off * off)
            paths.append(self.runs / str(i))
            paths[-1].mkdir(parents=True, exist_ok=True)
            record = {"step": recipe.steps, "heldout_loss": loss}
            (paths[-1] / METRICS).write_text(json.dumps(record) + "\n", encoding="utf-8")
        return paths


def test_what_is_planted_is_measured(tmp_path):
    lab = Planted(tmp_path / "runs", 0.51)
    found = {}
    for system in ("chinchilla", "scaling"):
        for name, one in systems()[system].claims.items():
            if name != "solver":
                found[one.id] = measure(one, lab, tmp_path)
                assert (tmp_path / f"{one.id}.png").read_bytes().startswith(b"\x89PNG")
    assert lab.asked == 2 * 32  # one set of runs for all of them
    for name, result in found.items():
        assert result.holds, name
    assert found["chinchilla.balanced"].details["a"] == pytest.approx(0.51, abs=0.01)
    assert found["chinchilla.prediction"].measured < 0.003
    assert found["scaling.compute"].details["exponent"] == pytest.approx(0.101, abs=0.002)


def test_what_kaplan_found_would_not_pass(tmp_path):
    """Sizes that grow as C^0.73 leave the sizes tried, or the interval that the claim admits."""
    result = measure(systems()["chinchilla"].claims["balanced"], Planted(tmp_path, 0.73), tmp_path)
    assert not result.holds


def test_a_floor_that_nobody_saw_is_a_miss(tmp_path):
    """A frontier that stops falling above the ladder's budgets is not what the ladder predicts."""
    lab = Planted(tmp_path / "runs", 0.51)
    train = lab.train_branches

    def stops(runs):
        paths = train(runs)
        for (recipe, _), path in zip(runs, paths, strict=True):
            if recipe.steps * recipe.model.parameters() > 1.5e9 / 1.2:
                record = {"step": recipe.steps, "heldout_loss": 1.9}
                (path / METRICS).write_text(json.dumps(record) + "\n", encoding="utf-8")
        return paths

    lab.train_branches = stops
    result = measure(systems()["chinchilla"].claims["prediction"], lab, tmp_path)
    assert result.measured > 0.05
    assert not result.holds


def test_the_averaged_loss_misses_what_the_summed_one_finds(tmp_path):
    result = measure(systems()["chinchilla"].claims["solver"], Lab(seeds=1, quick=True), tmp_path)
    assert result.measured <= result.threshold < result.control_measured


def test_a_line_is_straight_and_another_order_is_not():
    x = np.array([1e3, 2e3, 5e3, 1e4, 3e4])
    losses = np.array([3 * x**-0.1, 3.1 * x**-0.1])
    found = scaling.straight(x, losses, "parameters", "N")
    assert found.value == pytest.approx(1.0)
    assert found.details["exponent"] == pytest.approx(0.1)
    assert found.control < 0.98
    assert math.isclose(scaling.line(x, losses[0])[0], -0.1)
