"""What --resume does with another --steps or --stop, and that the rate is a function of the records."""

import json
import math
import shutil
from dataclasses import asdict, replace

import pytest
from conftest import Poison, command, refused
from hypothesis import given
from hypothesis import strategies as st

from maquette.base.errors import UserError
from maquette.training.checkpoint import saved_steps
from maquette.training.length import LengthChange, Lengths, lengths_of
from maquette.training.recipe import Checkpoints, LanguageRecipe, Schedule
from maquette.training.run import OUTCOME, RunDirectory
from maquette.training.schedule import learning_rate_factor
from maquette.workshop.train import train


@pytest.fixture
def recipe(recipe):
    """Without a report, which most of the time goes into."""
    return replace(recipe, watch=replace(recipe.watch, report=False, sample_tokens=0))


def rates(path):
    return [record["learning_rate"] for record in RunDirectory(path).records()]


def same_steps(a, b):
    for one, other in zip(*(RunDirectory(p).records() for p in (a, b)), strict=True):
        for name in ("step", "loss", "gradient_norm", "learning_rate"):
            assert one[name] == other[name]


@pytest.mark.parametrize(
    ("kind", "moves"),
    [
        ("cosine", "rises from"),
        ("linear", "rises from"),
        ("wsd", "rises from"),
        ("constant", "goes on at"),
    ],
)
def test_a_longer_run_says_what_its_rate_does(kind, moves, recipe, tmp_path):
    recipe.save(tmp_path / "r.yaml")
    words = ("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    assert command(*words, "--schedule.kind", kind).code == 0
    before = rates(tmp_path / "run")[-1]
    said = command("train", "--run", tmp_path / "run", "--resume", "--steps", "18", "--json")
    assert said.code == 0, said.err
    after = rates(tmp_path / "run")[12]
    line = next(
        line for line in said.err.splitlines() if line.startswith("18 steps in place of 12")
    )
    assert f"learning rate {moves}" in line
    assert f"{after:.2g}" in line
    (change,) = said.json["length_changes"]
    assert (change["step"], change["before"], change["after"]) == (12, 12, 18)
    assert (change["rate_before"], change["rate_after"]) == (before, after)
    assert change["rate_last"] == rates(tmp_path / "run")[-1]
    assert said.json["length_changes"] == json.loads(
        (tmp_path / "run" / "lengths.json").read_text(encoding="utf-8")
    )
    if kind != "constant":
        assert after > 1.5 * before
    again = command("train", "--run", tmp_path / "run", "--resume", "--json")
    assert "it has taken its 18 steps: nothing is left to do" in again.err
    assert again.json["length_changes"] == said.json["length_changes"]


def test_a_shorter_run_falls_and_a_new_recipe_keeps_its_old_steps(recipe, tmp_path):
    train(replace(recipe, steps=40, stop=8), tmp_path / "run")
    said = []

    class Told:
        def start(self, step, steps): ...
        def step(self, record): ...
        def sample(self, step, model): ...
        def say(self, message):
            said.append(message)

    train(replace(recipe, steps=12), tmp_path / "run", resume=True, observer=Told())
    assert "falls from" in said[0]
    got = rates(tmp_path / "run")
    schedule, peak = recipe.schedule, recipe.optimiser.learning_rate
    assert got[:8] == [peak * learning_rate_factor(schedule, s, 40) for s in range(8)]
    assert got[8:] == [peak * learning_rate_factor(schedule, s, 12) for s in range(8, 12)]


def test_killed_after_a_change_and_resumed_before_it_is_the_uninterrupted_run(recipe, tmp_path):
    """The newest checkpoint is damaged, so steps before the change are taken again, at their old rate."""
    for name in ("whole", "parts"):
        train(replace(recipe, steps=20, stop=6), tmp_path / name)
        train(replace(recipe, steps=14, stop=7), tmp_path / name, resume=True)
    train(replace(recipe, steps=14), tmp_path / "whole", resume=True)
    parts = RunDirectory(tmp_path / "parts").checkpoints
    assert saved_steps(parts) == [4, 7]  # the change was at 6
    (parts / "step-00000007" / "model.safetensors").write_bytes(b"damaged")
    train(replace(recipe, steps=14), tmp_path / "parts", resume=True)
    same_steps(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--stop", "5"), "is at step 8, and --stop 5 would end it before"),
        (("--steps", "7"), "is at step 8, and --steps 7 would end it before"),
        (("--steps", "7", "--stop", "6"), "is at step 8, and --stop 6 would end it before"),
        (("--stop", "0"), "stop 0 is outside the 12 steps"),
        (("--stop", "-1"), "stop -1 is outside the 12 steps"),
        (("--stop", "13"), "stop 13 is outside the 12 steps"),
        (("--steps", "0"), "steps is 0: use at least 1"),
    ],
)
def test_an_end_before_the_step_that_is_reached_is_one_line(flags, message, recipe, tmp_path):
    """With and without an outcome.json, which a run that was killed has not."""
    train(replace(recipe, stop=8), tmp_path / "run")
    recipe.save(tmp_path / "run" / "recipe.yaml")
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    for kept in (True, False):
        if not kept:
            (tmp_path / "run" / OUTCOME).unlink()
            (tmp_path / "run" / "model.safetensors").unlink()
        said = command("train", "--run", tmp_path / "run", "--resume", *flags)
        refused(said, message, code=2)
        assert "going on" not in said.out
        assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before


def test_a_run_that_was_killed_may_end_where_it_is(recipe, tmp_path):
    train(replace(recipe, stop=8), tmp_path / "run")
    last = RunDirectory(tmp_path / "run").records()[-1]
    (tmp_path / "run" / OUTCOME).unlink()
    (tmp_path / "run" / "model.safetensors").unlink()
    said = command("train", "--run", tmp_path / "run", "--resume", "--stop", "8", "--json")
    assert said.code == 0, said.err
    assert said.json["finished"] and said.json["step"] == 8
    assert said.json["loss"] == last["loss"]
    assert said.json["heldout_loss"] == pytest.approx(last["heldout_loss"], rel=1e-5)
    again = command("train", "--run", tmp_path / "run", "--resume", "--json")
    assert "is at step 8, where --stop ends it" in again.err
    on = command("train", "--run", tmp_path / "run", "--resume", "--stop", "None", "--json")
    assert on.json["step"] == 12


def test_records_of_lengths_that_are_damaged_are_refused(recipe, tmp_path):
    train(replace(recipe, stop=4), tmp_path / "run")
    (tmp_path / "run" / "lengths.json").write_text('[{"step": 4}]', encoding="utf-8")
    with pytest.raises(UserError, match="lengths.json is damaged"):
        train(recipe, tmp_path / "run", resume=True)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=4),
    st.sampled_from(["cosine", "wsd", "linear", "constant"]),
    st.integers(1, 60),
)
def test_the_rate_of_a_step_is_that_of_the_length_it_was_taken_with(changes, kind, steps):
    """Whatever changed afterwards, and nothing changes without a change."""
    recipe = LanguageRecipe(steps=steps, schedule=Schedule(kind=kind))
    at, kept, lengths = 0, [], [10]
    for more, length in changes:
        at += more
        kept.append(LengthChange(at, lengths[-1], length, 0, 0, 0))
        lengths.append(length)
    one = Lengths(tuple(kept))
    marks = [c.step for c in kept]
    for step in range(0, at + 5):
        wanted = lengths[sum(step >= mark for mark in marks)] if step < at else steps
        assert one.at(step, steps) == wanted
    peak = recipe.optimiser.learning_rate
    assert Lengths().rate(recipe, 0) == peak * learning_rate_factor(recipe.schedule, 0, steps)


def test_a_run_without_changes_has_no_records(trained):
    assert lengths_of(trained) == Lengths()
    assert not (trained / "lengths.json").exists()


def test_after_a_change_a_bad_stretch_still_finds_the_saves_before_it(
    recipe, tmp_path, monkeypatch
):
    """Saves go on at the interval of the first length, which a rewind takes multiples of."""
    recipe = replace(recipe, steps=20, checkpoints=Checkpoints())
    Poison(monkeypatch, dict.fromkeys((8, 9, 10, 11), math.inf))
    train(recipe, tmp_path / "run", replan=lambda step: 33 if step == 6 else None)
    (event,) = RunDirectory(tmp_path / "run").events()
    assert (event["event"], event["step"]) == ("rewind", 6)


def test_a_run_that_begins_anew_forgets_an_earlier_change(recipe, tmp_path):
    """Planned again, killed before its first save, and begun with another length."""
    train(replace(recipe, stop=1), tmp_path / "run")
    change = LengthChange(3, 12, 6, 0.01, 0.01, 0.001)
    (tmp_path / "run" / "lengths.json").write_text(json.dumps([asdict(change)]), encoding="utf-8")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    train(replace(recipe, steps=9), tmp_path / "run", resume=True)
    train(replace(recipe, steps=9), tmp_path / "anew")
    assert rates(tmp_path / "run") == rates(tmp_path / "anew")
    assert lengths_of(tmp_path / "run").changes == ()


def test_a_change_that_no_step_has_seen_and_is_taken_back_is_none(recipe, tmp_path):
    train(replace(recipe, stop=4), tmp_path / "run")
    for steps in (20, 12):
        train(replace(recipe, steps=steps, stop=4), tmp_path / "run", resume=True)
    assert lengths_of(tmp_path / "run").changes == ()
