"""A run is never said to be faster than the machine: the peak is the best that was ever measured."""

import json
from dataclasses import replace

import pytest

from maquette.base import machine
from maquette.base.files import home
from maquette.training.run import RunDirectory
from maquette.training.throughput import Utilisation
from maquette.workshop.train import train


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """A machine whose peaks were measured beside something else: a thousandth of what they are."""
    machine.measure.cache_clear()  # an earlier test may have measured in a home of its own
    machine.measure()
    entries = json.loads((home() / "machine.json").read_text(encoding="utf-8"))
    monkeypatch.setenv("MAQUETTE_HOME", str(tmp_path / "home"))
    path = home() / "machine.json"
    path.parent.mkdir()
    for entry in entries.values():
        entry |= {"fp32_flops": 1.0, "bf16_flops": 1.0}
    path.write_text(json.dumps(entries), encoding="utf-8")
    machine.measure.cache_clear()
    yield
    machine.measure.cache_clear()


def test_no_run_is_faster_than_the_peak(loaded, recipe, tmp_path):
    assert machine.measure().fp32_flops == 1.0
    outcome = train(replace(recipe, watch=replace(recipe.watch, report=False)), tmp_path / "run")
    shares = [record["flops_utilisation"] for record in RunDirectory(tmp_path / "run").records()]
    assert all(0 <= share <= 1 for share in shares)
    assert 0 < outcome.flops_utilisation < 1
    assert min(shares) < 1  # measured again, it is a share
    assert machine.measure().fp32_flops > 1e6
    entries = json.loads((home() / "machine.json").read_text(encoding="utf-8")).values()
    assert sorted(entry["fp32_flops"] > 1e6 for entry in entries)[-1]
    assert all(entry["bf16_flops"] == 1.0 for entry in entries)


def test_the_peak_is_measured_again_once_and_said(monkeypatch):
    asked, said = [], []

    def product_speed(dtype, device):
        asked.append(dtype)
        return 5e9

    known = machine.measure("cpu")
    monkeypatch.setattr(machine, "product_speed", product_speed)
    monkeypatch.setattr(machine, "write_json", lambda path, value: None)
    slow = type(known)(**{**vars(known), "fp32_flops": 1e9})
    used = Utilisation(slow, "fp32", 1, said.append)
    assert used(0.5e9) == 0.5
    assert not asked
    assert used(2e9) == pytest.approx(0.4)
    assert used.peak == 5e9
    assert used(9e9) == 1.0  # at least the peak
    assert len(asked) == len(said) == 1
    assert "2 GFLOP/s, more than the peak of 1 measured before: measured again, it is 5" in said[0]
    ranks = Utilisation(slow, "fp32", 2, said.append)
    assert ranks(4e9) == 1.0  # they share the machine: no measure of it
    assert len(asked) == 1
