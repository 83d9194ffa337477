"""The pace of the first minute: another length where it differs, kept with the run."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from maquette.training.checkpoint import saved_steps
from maquette.training.length import lengths_of
from maquette.training.run import RunDirectory
from maquette.training.schedule import learning_rate_factor
from maquette.workshop.replan import Replan, going_on
from maquette.workshop.train import train


@pytest.fixture
def recipe(recipe):
    return replace(recipe, watch=replace(recipe.watch, report=False, sample_tokens=0))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def asked(pace, steps=400, seconds=200.0, first=0.0, slower=None):
    """What a run of that pace is told: (step, length) of every answer, and when it ends."""
    clock, said = Clock(), []
    replan = Replan(steps, seconds, said.append, clock)
    clock.now += first
    answers, step = [], 0
    while step < replan.steps:
        step += 1
        clock.now += pace if slower is None or step < slower[0] else slower[1]
        if (length := replan(step)) is not None:
            answers.append((step, length))
    return answers, clock.now, said


def test_the_planned_pace_changes_nothing():
    for pace in (0.5, 0.485, 0.515):
        answers, took, said = asked(pace)
        assert answers == [] and said == []
        assert took == pytest.approx(200, rel=0.04)


@pytest.mark.parametrize("pace", [0.1, 0.3, 0.7, 1.0, 2.0])
def test_another_pace_is_another_length_that_keeps_to_the_time(pace):
    answers, took, said = asked(pace)
    ((step, length),) = answers  # once
    assert took == pytest.approx(200, rel=0.05)
    assert step * pace >= 50 or step >= 100
    assert step <= 120
    assert (length > 400) == (pace < 0.5)
    assert f"a step takes {1000 * pace:.0f} ms, planned were 500" in said[0]


def test_the_first_step_is_no_pace_but_its_time_is_gone():
    answers, took, _ = asked(0.5, first=60)
    ((_, length),) = answers
    assert length == pytest.approx(400 - 60 / 0.5, abs=5)
    assert took == pytest.approx(200, rel=0.02)


def test_time_that_is_used_up_leaves_room_for_the_rate_to_fall():
    ((step, length),), _, _ = asked(30.0)
    assert length >= 1.2 * step


def test_a_run_that_is_planned_again_is_whole(recipe, tmp_path):
    """Its rates, its records, its recipe; killed before the next checkpoint and resumed, it is the same."""

    def longer(step):
        return 18 if step == 6 else None

    outcome = train(recipe, tmp_path / "whole", replan=longer)
    assert outcome.step == 18 and outcome.finished
    run = RunDirectory(tmp_path / "whole")
    assert run.recipe().steps == 18
    (change,) = lengths_of(run.path).changes
    assert (change.step, change.before, change.after) == (6, 12, 18)
    peak, schedule = recipe.optimiser.learning_rate, recipe.schedule
    rates = [record["learning_rate"] for record in run.records()]
    assert rates == [
        peak * learning_rate_factor(schedule, s, 12 if s < 6 else 18) for s in range(18)
    ]

    def killed(step):
        if step == 7:  # after the change at 6, before the save at 8
            while not saved_steps(
                tmp_path / "parts" / "checkpoints"
            ):  # the save at 4 is written aside
                time.sleep(0.01)
            shutil.copytree(tmp_path / "parts", tmp_path / "killed")
        return longer(step)

    train(recipe, tmp_path / "parts", replan=killed)
    (tmp_path / "killed" / "model.safetensors").unlink(missing_ok=True)
    for folder in (tmp_path / "killed" / "checkpoints").iterdir():
        if folder.name.endswith(".tmp"):
            shutil.rmtree(folder)
    resumed = RunDirectory(tmp_path / "killed")
    assert resumed.recipe().steps == 18
    train(None, resumed.path, resume=True)
    for one, other in zip(run.records(), resumed.records(), strict=True):
        for name in ("step", "loss", "gradient_norm", "learning_rate", "heldout_loss"):
            assert one.get(name) == other.get(name)


def test_a_run_that_goes_on_keeps_to_its_time(recipe, tmp_path):
    """What earlier calls took is gone from its time; a length that was planned again stays."""
    run = RunDirectory(tmp_path / "run")
    train(replace(recipe, stop=4), run.path)
    again = going_on(run, 60.0, lambda line: None)
    spent = sum(record["seconds"] for record in run.records())
    assert (again.steps, again.pace, again.spent) == (12, None, spent) and spent > 0
    train(replace(recipe, steps=8, stop=4), run.path, resume=True)
    again = going_on(run, 60.0, lambda line: None)
    assert again.steps == 8 and again.pace is not None and again(5) is None


def test_the_demo_says_what_it_planned_again(monkeypatch, tmp_path):
    """A pace that was measured three times too fast: fewer steps, another forecast, both in the plan."""
    from conftest import command, some_text

    from maquette.workshop import demo, demo_plan

    folder = tmp_path / "documents"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text(some_text(i, 700), encoding="utf-8")
    known = demo_plan.measure_pace

    def quick(recipe, machine, steps=6):
        return 0.01, known(recipe, machine, 1)[1]

    class Slow(Replan):
        def __call__(self, step):
            if step == 30:
                self.pace, self.steps = 0.1, 40
                return 40
            return None

    monkeypatch.setattr(demo_plan, "measure_pace", quick)
    monkeypatch.setattr(demo, "Replan", Slow)
    words = ("demo", folder, "--minutes", "0.05", "--run", tmp_path / "run", "--json")
    said = command(*words)
    assert said.code == 0, said.err
    assert "plan: again: 81,920 tokens in 40 steps in place of 300, at 100 ms a step" in said.err
    assert said.json["tokens"] == 81_920
    page = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    assert page["why"][-1][0] == "again"
    assert page["compared"][1] == {
        "name": "training tokens", "planned": "81,920", "happened": "81,920"
    }  # fmt: skip
    assert "planned again after the first minute" in page["note"]
    assert RunDirectory(tmp_path / "run").recipe().steps == 40
    (tmp_path / "run" / "plan.json").unlink()  # cut off before its report
    again = command("demo", "--resume", "--run", tmp_path / "run", "--json")
    assert again.code == 0, again.err
    assert again.json["bits_per_byte"] == said.json["bits_per_byte"]
    kept = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    assert [r[0] for r in kept["why"]] == [r[0] for r in page["why"]]
    assert kept["compared"][:2] == page["compared"][:2] and kept["note"] == page["note"]
