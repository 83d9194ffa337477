"""What a run was expected to take stands beside what it took."""

import json

import pytest
from conftest import command

from maquette.training.run import RunDirectory
from maquette.workshop.forecast import EXPECTED, compared


def test_a_planned_run_shows_its_plan_beside_its_outcome(tmp_path):
    plan = ("plan", "--flops", "1e10", "--corpus", "tiny", "--out", tmp_path / "p.yaml", "--json")
    planned = command(*plan).json
    run = tmp_path / "run"
    words = ("--run", run, "--compile", "off", "--json")
    said = command("train", tmp_path / "p.yaml", *words)
    assert said.code == 0, said.err
    expected = json.loads((run / EXPECTED).read_text(encoding="utf-8"))
    assert expected["plan"]["loss_predicted"] == pytest.approx(planned["loss_predicted"])
    found = compared(RunDirectory(run))
    assert found is not None
    assert [row["name"] for row in found["compared"]] == [
        "training tokens",
        "seconds in training steps",
        "memory at most",
        "held-out loss, nats a token",
    ]
    wanted, held = found["memory"]
    assert wanted > 0 and held > 0  # how close they are is benchmarks/plan.py's business
    assert all(part > 0 for part in found["seconds"])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"{planned['loss_predicted']:.3f}" in page
    assert "planned" in said.err


def test_a_plan_for_another_length_promises_no_loss(tmp_path):
    plan = ("plan", "--flops", "1e10", "--corpus", "tiny", "--out", tmp_path / "p.yaml")
    assert command(*plan).code == 0
    run = tmp_path / "run"
    assert command("train", tmp_path / "p.yaml", "--run", run, "--steps", "3").code == 0
    found = compared(RunDirectory(run))
    assert found is not None
    assert found["loss_predicted"] is None
    assert found["compared"][-1]["planned"] == "of another size or length"


def test_an_expectation_is_not_made_again(tmp_path):
    run = tmp_path / "run"
    assert command("train", "tiny", "--run", run, "--steps", "3").code == 0
    before = (run / EXPECTED).read_bytes()
    assert command("train", "--run", run, "--resume", "--steps", "5").code == 0
    assert (run / EXPECTED).read_bytes() == before


def test_a_run_without_an_end_compares_nothing(tmp_path):
    assert compared(RunDirectory(tmp_path)) is None
