"""Training: it learns, it resumes bit for bit, it stops when asked, and bad losses do not break it."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Poison, amid_imports, command, in_ranks, process, refused, same_steps

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.text.store import Corpus
from maquette.parallel.group import Group
from maquette.training import loop
from maquette.training.datasets.text import TextDataset, heldout_batches
from maquette.training.datasets.text_config import TextWatch
from maquette.training.guard import SpikeGuard, Verdict
from maquette.training.recipe import Checkpoints, Guard, Schedule
from maquette.training.run import RunDirectory
from maquette.training.schedule import learning_rate_factor
from maquette.workshop.train import train


def records(path: Path) -> list[dict]:
    return RunDirectory(path).records()


def test_a_run_learns_and_leaves_what_it_promises(recipe, tmp_path):
    outcome = train(replace(recipe, steps=60), tmp_path / "run")
    steps = records(tmp_path / "run")
    assert [r["step"] for r in steps] == list(range(1, 61))
    assert steps[0]["loss"] == pytest.approx(math.log(257), abs=1.0)
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    for r in steps:
        assert {"step", "tokens", "loss", "gradient_norm", "learning_rate"} <= r.keys()
        assert r["learning_rate"] > 0  # from the first step on
        assert r["tokens"] == r["step"] * recipe.units_per_step
    assert [r["step"] for r in steps if "heldout_loss" in r] == list(range(6, 61, 6))
    assert outcome.finished
    assert outcome.heldout_loss == steps[-1]["heldout_loss"]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"recipe.yaml", "decisions.json", "config.json", "tokenizer.json", "metrics.jsonl",
            "model.safetensors", "checkpoints", "samples", "corpus.json"} <= names  # fmt: skip
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 10


def test_the_same_recipe_gives_the_same_run_and_another_seed_another(recipe, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(recipe, seed=seed), tmp_path / name)
    same_steps(records(tmp_path / "a"), records(tmp_path / "b"))
    assert records(tmp_path / "a")[-1]["loss"] != records(tmp_path / "c")[-1]["loss"]


def test_accumulated_micro_batches_are_the_whole_batch(recipe, tmp_path):
    train(recipe, tmp_path / "whole")
    train(replace(recipe, micro_batch=1), tmp_path / "parts")
    for a, b in zip(records(tmp_path / "whole"), records(tmp_path / "parts"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("change", [{}, {"document": True}, {"dropout": 0.2}, {"micro_batch": 2}])
def test_resumed_at_any_step_is_the_uninterrupted_run(change, recipe, tmp_path):
    """Across an epoch boundary too: the corpus holds about 190 samples, the run reads 240."""
    data, model = recipe.data, recipe.model
    recipe = replace(
        recipe,
        steps=60,
        data=replace(data, document_mask=bool(change.get("document"))),
        model=replace(model, dropout=change.get("dropout", 0.0)),
        micro_batch=change.get("micro_batch"),
    )
    train(recipe, tmp_path / "whole")
    for stop in (3, 17, 44, 60):
        train(replace(recipe, stop=stop), tmp_path / "parts", resume=True)
    parts = records(tmp_path / "parts")
    for r in parts:
        if r["step"] in (3, 17, 44):
            assert r.pop("heldout_loss") > 0  # looked at because the call ended there
    same_steps(records(tmp_path / "whole"), parts)
    a, b = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("whole", "parts"))
    assert a == b


KILL = """
import os, signal, sys, torch._dynamo
from pathlib import Path
from maquette.training import checkpoint, loop, optimiser, single, tracking
from maquette.training.recipe import load_recipe
from maquette.workshop.train import train

def dying(owner, name, number, before=lambda *a: None):
    calls, original = [], getattr(owner, name)
    def call(*a, **k):
        calls.append(1)
        if len(calls) == number:
            before(*a)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*a, **k)
    setattr(owner, name, call)

moments = {
    "start": lambda: dying(single, "make_model", 1),
    "step": lambda: dying(optimiser, "set_learning_rate", 10),
    "line": lambda: dying(tracking.MetricsFile, "write", 10,
                          lambda file, entry: file._file.write(b'{"step": 1')),
    "checkpoint": lambda: dying(checkpoint, "write_json", 2),
    "end": lambda: dying(loop, "save_tensors", 1),
}
recipe, folder = map(Path, sys.argv[1:])
for moment, prepare in moments.items():
    child = os.fork()  # before torch has any thread
    if not child:
        prepare()
        train(load_recipe(recipe), folder / moment)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, moment
print(*moments)
"""


def test_killed_at_any_moment_and_resumed_is_the_uninterrupted_run(recipe, tmp_path):
    """kill -9 before the first step, between two, amid a line, amid a checkpoint, before the end."""
    train(recipe, tmp_path / "whole")
    recipe.save(tmp_path / "r.yaml")
    words = [sys.executable, "-c", KILL, str(tmp_path / "r.yaml"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    moments = done.stdout.split()
    assert len(moments) == 5
    for moment in moments:
        path = tmp_path / moment
        assert not RunDirectory(path).finished
        train(recipe, path, resume=True)
        same_steps(records(tmp_path / "whole"), records(path))
        for name in ("model.safetensors", "checkpoints/step-00000012/optimiser.safetensors"):
            assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), moment
    left = {p.name for p in (tmp_path / "checkpoint" / "checkpoints").iterdir()}
    assert left == {p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()}


def _lines(path: Path) -> int:
    metrics = path / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(number, recipe, tmp_path):
    replace(recipe, steps=4000).save(tmp_path / "r.yaml")
    child = process("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    while _lines(tmp_path / "run") < 5 and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(number)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("maquette:")]
    assert "saved: go on with" in line
    assert "--resume" in line
    last = records(tmp_path / "run")[-1]["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step-{last:08d}" / "state.json").exists()


def test_a_signal_before_the_first_step_leaves_a_run_that_can_go_on(recipe, tmp_path):
    recipe.save(tmp_path / "r.yaml")
    child = process("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    amid_imports(child)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=300)
    assert child.returncode in (1, -signal.SIGINT)
    assert "Traceback (most recent call last)" not in err or child.returncode < 0
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run", "--resume", "--json")
    assert said.code == 0
    assert said.json["step"] == 12


def train_as_rank(group: Group, path: str) -> None:
    """One rank's part of the test below (at module level, to be sent to it)."""
    from maquette.workshop.train import run_rank

    run_rank(RunDirectory(path), group)


def test_four_ranks_go_on_with_what_one_began(recipe, tmp_path):
    """The same losses and gradient norms as one rank's; of two from the start: test_ranks.py."""
    train(recipe, tmp_path / "one")
    path = tmp_path / "many"
    train(replace(recipe, stop=1), path)  # prepares the run, and takes its first step alone
    replace(RunDirectory(path).recipe(), stop=None).save(path / "recipe.yaml")
    (path / "model.safetensors").unlink()
    in_ranks(train_as_rank, 4, str(path))
    for a, b in zip(records(tmp_path / "one"), records(path), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
        if "heldout_loss" in a:
            assert a["heldout_loss"] == pytest.approx(b["heldout_loss"], rel=1e-5)


def test_ranks_are_launched_for_the_user(recipe, tmp_path):
    recipe.save(tmp_path / "r.yaml")
    out = subprocess.run(
        [sys.executable, "-m", "maquette", "train", tmp_path / "r.yaml", "--run", tmp_path / "two",
         "--ranks", "2", "--layout", "ddp", "--json"],
        env=os.environ, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    said = json.loads(out.stdout.strip().splitlines()[-1])
    assert said["step"] == 12
    train(recipe, tmp_path / "one")
    assert records(tmp_path / "two")[-1]["loss"] == pytest.approx(
        records(tmp_path / "one")[-1]["loss"], rel=1e-4
    )


def test_a_rank_that_dies_takes_the_others_with_it(recipe, tmp_path):
    replace(recipe, steps=100_000).save(tmp_path / "r.yaml")
    child = process("train", tmp_path / "r.yaml", "--run", tmp_path / "run", "--ranks", "2")
    while _lines(tmp_path / "run") < 5 and child.poll() is None:
        time.sleep(0.05)
    ranks = subprocess.run(
        ["pgrep", "-f", f"maquette rank {tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    ).stdout.split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 1
    assert "was killed (SIGKILL): continue with --resume" in err
    assert not subprocess.run(["pgrep", "-f", f"maquette rank {tmp_path / 'run'}"], check=False,
                              capture_output=True).stdout  # fmt: skip


class Heard(loop.Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_loss_that_is_not_finite_skips_its_batch(recipe, tmp_path, monkeypatch):
    Poison(monkeypatch, {7: math.nan})
    heard = Heard()
    train(recipe, tmp_path / "run", observer=heard)
    skipped = [r for r in records(tmp_path / "run") if r.get("skipped")]
    assert [r["step"] for r in skipped] == [7]
    assert skipped[0]["loss"] is None  # JSON has no NaN
    assert any("step 7: loss nan, batch skipped" in line for line in heard.lines)
    assert all(torch.isfinite(p).all() for p in _weights(tmp_path / "run").values())


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def test_several_in_a_row_go_back_to_the_checkpoint_and_skip_ahead(recipe, tmp_path, monkeypatch):
    poison = Poison(monkeypatch, dict.fromkeys((10, 11, 12, 13), math.inf))
    heard = Heard()
    train(replace(recipe, steps=16), tmp_path / "run", observer=heard)
    events = RunDirectory(tmp_path / "run").events()
    assert [(e["event"], e["step"]) for e in events] == [("rewind", 8)]  # saved every 4 steps
    assert events[0]["sample"] == 13 * recipe.batch  # the data go on after the bad batches
    assert any("back to step 8, on with the data after them" in line for line in heard.lines)
    steps = records(tmp_path / "run")
    assert [r["step"] for r in steps] == list(range(1, 17))
    assert not any(r.get("skipped") for r in steps)  # the later take of each step counts
    assert poison.calls == 13 + 8


@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_run_with_frequent_checkpoints_goes_back_before_the_bad_batches(
    every, recipe, tmp_path, monkeypatch
):
    Poison(monkeypatch, dict.fromkeys((10, 11, 12, 13), math.inf))
    often = replace(recipe, steps=16, checkpoints=Checkpoints(every=every))
    train(often, tmp_path / "run")
    (event,) = RunDirectory(tmp_path / "run").events()
    assert event["step"] == 9 // every * every


@pytest.mark.parametrize("stop", [9, 11, 12])
def test_interrupted_before_a_rewind_is_the_uninterrupted_run(stop, recipe, tmp_path, monkeypatch):
    """A save that a signal made is no place to go back to: the other run has none there.

    At 11 and 12 the bad batches have begun: how many were bad is kept with the save.
    """
    bad = dict.fromkeys((10, 11, 12, 13), math.inf)
    Poison(monkeypatch, bad)
    train(replace(recipe, steps=16), tmp_path / "whole")
    monkeypatch.undo()
    Poison(monkeypatch, bad)
    train(replace(recipe, steps=16, stop=stop), tmp_path / "parts")  # between two saves, or at one
    train(replace(recipe, steps=16), tmp_path / "parts", resume=True)
    assert RunDirectory(tmp_path / "parts").events() == RunDirectory(tmp_path / "whole").events()
    whole, parts = records(tmp_path / "whole"), records(tmp_path / "parts")
    same_steps(whole, parts)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_run_that_goes_back_to_its_start_begins_anew(average, recipe, tmp_path, monkeypatch):
    """Before the first save: weights, moments and average are those of a fresh run, on later data."""
    averaged = replace(
        recipe,
        optimiser=replace(recipe.optimiser, average=average),
        checkpoints=Checkpoints(every=12),
    )
    Poison(monkeypatch, dict.fromkeys((3, 4, 5, 6), math.inf))
    train(averaged, tmp_path / "back")
    monkeypatch.undo()
    (event,) = RunDirectory(tmp_path / "back").events()
    assert (event["step"], event["sample"]) == (0, 6 * recipe.batch)
    step = TextDataset.step
    monkeypatch.setattr(
        TextDataset, "step", lambda self, n, *ranks: step(self, n + 6 * recipe.batch, *ranks)
    )
    train(averaged, tmp_path / "fresh")
    same_steps(records(tmp_path / "back"), records(tmp_path / "fresh"))
    for name in ("model.safetensors", "checkpoints/step-00000012/optimiser.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_a_last_batch_that_is_skipped_is_no_end(recipe, tmp_path, monkeypatch):
    recipe.save(tmp_path / "r.yaml")
    Poison(monkeypatch, {1: math.nan, 12: math.nan})
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    assert said.json["finished"]
    assert said.json["loss"] == records(tmp_path / "run")[10]["loss"]
    again = command(
        "train", "--resume", "--run", tmp_path / "run", "--json"
    )  # nothing is left to do
    assert again.code == 0, again.err
    assert again.json["loss"] == said.json["loss"]


def test_a_continued_run_has_no_final_weights_until_its_end(recipe, tmp_path):
    run = RunDirectory(tmp_path / "run")
    train(replace(recipe, stop=6), run.path)
    assert run.finished
    seen = []

    class Look(loop.Quiet):
        def step(self, record):
            seen.append(run.finished)

    train(recipe, run.path, resume=True, observer=Look())
    assert seen == [False] * 6
    assert run.finished


def test_a_write_that_was_cut_off_is_no_obstacle(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.yaml.x7y8.tmp").write_text("name: hal", encoding="utf-8")
    train(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_a_prompt_that_leaves_no_room_is_refused_before_the_start(recipe, tmp_path):
    long = replace(recipe, watch=TextWatch(prompt="word " * 20))
    with pytest.raises(WrongUse, match=r"watch.prompt has 100 tokens, model.context is 32"):
        train(long, tmp_path / "run")


def test_a_run_that_keeps_diverging_gives_up_with_the_mend(recipe, tmp_path, monkeypatch):
    Poison(monkeypatch, dict.fromkeys(range(5, 500), math.nan))
    with pytest.raises(UserError, match="diverged 6 times: lower --optimiser.learning-rate"):
        train(replace(recipe, steps=16), tmp_path / "run")


def test_a_spike_is_a_jump_over_the_recent_mean():
    guard = SpikeGuard(Guard(spike=8.0, window=8, patience=2))
    losses = [3.0, 3.1, 2.9, 3.0, 3.1, 2.9, 3.0, 3.0]
    assert [guard.judge(x, 1.0) for x in losses] == [Verdict.TAKE] * 8
    assert guard.judge(3.3, 1.0) is Verdict.TAKE
    assert guard.judge(9.0, 1.0) is Verdict.SKIP
    assert guard.judge(3.0, math.nan) is Verdict.SKIP
    assert guard.judge(math.nan, 1.0) is Verdict.REWIND
    assert guard.judge(3.0, 1.0) is Verdict.TAKE
    assert guard.bad == 0
    off = SpikeGuard(Guard(spike=0.0, window=1))
    assert [off.judge(x, 1.0) for x in (1.0, 99.0)] == [Verdict.TAKE] * 2


def test_the_recent_mean_forgets_what_is_older_than_its_window():
    guard = SpikeGuard(Guard(spike=8.0, window=4, patience=2))
    for loss in (9.0, 8.0, 9.0, 8.0, 3.0, 3.1, 3.0, 3.1):
        assert guard.judge(loss, 1.0) is Verdict.TAKE
    assert guard.recent == [3.0, 3.1, 3.0, 3.1]
    assert guard.judge(5.0, 1.0) is Verdict.SKIP  # nothing beside 9, a jump from 3
    assert guard.recent == [3.0, 3.1, 3.0, 3.1]  # what is skipped is not remembered


BY_HEART = """
7.8471 6.7391 5.3998 4.1970 2.7468 1.4497 .9427 .5011 .2385 .0741 .0320 .0165 .0088 .0048 .0027
.0016 .0010 .0007 .0005 .0004 .5991 .0003 .0003 .0004 .0006 .0009 .0014 .0020 .0023 .0021 .0017
.0013 .0009 .0007 .0006 .0005 .0004 .0003 .0003 .0003 .0002 .0002 .0002 .0002 .0002 .0002 .0002
.0001 .0001 .0001 .0001 .0001 .3181 .0002 .0004 .0010 .0023 .0036 .0037 .0029 .0019 .0013 .0010
.0007 .0006 .0005 .0004 .0004 .0004 .0004 .0003 .0003 .0003 .0003 .0003 .0003 .0003 .2466 .0004
.0005 .0008 .0012 .0016 .0021 .0026 .0029 .0030 .0029 .0026 .0023 .0019 .0016 .0012 .0010 .0008
.0007 .0005 .0004 .0004 .0003 .0003 .0002 .0002 .0002 .0002 .0002 .0001 .0001 .0001 .0001 .0001
.0001 .0001 .0001 .0001 .0001 .0001 .2850 .0001 .0001 .0002 .0002 .0003 .0003 .0004 .0005 .0006
.0006 .0007 .0008 .0008 .0009 .0009 .0009 .0010 .0009 .0009 .0009 .0008 .0008 .0007 .0007 .0006
.0006 .0005 .0005 .0004 .0004 .0004 .0003 .0003 .0003 .0003 .0003 .0002 .0002 .2286 .0003 .0003
.0004
"""
"""losses of a decoder that learns 390 questions with one answer by heart, and one with another"""


def test_near_zero_a_new_example_is_no_spike_and_what_forgets_all_is():
    guard = SpikeGuard(Guard())
    for loss in map(float, BY_HEART.split()):
        assert guard.judge(loss, 1.0) is Verdict.TAKE
    assert guard.recent[-1] < 1e-3
    for loss in (7.8, 0.9, 7.8):
        assert guard.judge(loss, 1.0) is Verdict.SKIP
    assert guard.judge(7.8, 1.0) is Verdict.REWIND


def test_back_at_the_start_its_losses_are_no_spikes(recipe, tmp_path, monkeypatch):
    """Those of later weights are forgotten with them; from a checkpoint its own are remembered."""
    again = replace(
        recipe,
        guard=Guard(window=2, patience=1),
        checkpoints=Checkpoints(every=12),
        optimiser=replace(recipe.optimiser, learning_rate=0.03),
    )
    Poison(monkeypatch, dict.fromkeys((8, 9), math.inf))
    train(again, tmp_path / "run")
    (event,) = RunDirectory(tmp_path / "run").events()
    assert event["step"] == 0
    guard = SpikeGuard(Guard(window=2), recent=[0.6, 0.6], rewinds=1)
    assert guard.judge(3.0, 1.0) is Verdict.SKIP
    guard.go_back({"recent": [3.1, 3.0], "bad": 0, "rewinds": 0})
    assert guard.judge(3.0, 1.0) is Verdict.TAKE and guard.rewinds == 1


def test_two_trainings_in_one_directory(recipe, tmp_path):
    with (
        RunDirectory(tmp_path / "run").locked(),
        pytest.raises(WrongUse, match="is being trained by another process"),
    ):
        train(recipe, tmp_path / "run")


def test_a_run_directory_that_exists_is_left_alone(trained, recipe):
    before = (trained / "metrics.jsonl").read_bytes()
    with pytest.raises(
        WrongUse, match="exists: choose another --run, or continue it with --resume"
    ):
        train(recipe, trained)
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_a_start_that_was_cut_off_is_no_obstacle(trained, recipe, tmp_path):
    for name in ("config.json", "tokenizer.json", "corpus.json"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes((trained / name).read_bytes()[:20])
    assert train(recipe, tmp_path / "run").finished


def test_a_run_of_another_version_is_refused(trained):
    path = trained / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            yaml.safe_load(path.read_text(encoding="utf-8")) | {"format": 2, "maquette": "9.9"}
        ),
        encoding="utf-8",
    )
    said = command("train", "--run", trained, "--resume")
    refused(said, "was written by Maquette 9.9 in format 2", "start a new run", code=2)


def test_a_resumed_run_keeps_its_recipe(trained, recipe):
    other = replace(recipe, model=replace(recipe.model, width=64))
    with pytest.raises(WrongUse, match=r"model.width was 32, not 64"):
        train(other, trained, resume=True)
    assert train(replace(recipe, steps=14), trained, resume=True).step == 14  # longer is allowed


def test_a_corpus_that_changed_is_refused(recipe, tmp_path):
    from conftest import Texts

    from maquette.corpus.text.build import build
    from maquette.corpus.text.build_options import BuildOptions

    folder = tmp_path / "c"
    build(folder, Texts(), BuildOptions(vocabulary=257))
    own = replace(recipe, data=replace(recipe.data, corpus=str(folder)))
    train(replace(own, stop=4), tmp_path / "run")
    build(folder, Texts(documents=50), BuildOptions(vocabulary=257), replace=True)
    with pytest.raises(UserError, match="has changed since this run"):
        train(own, tmp_path / "run", resume=True)


def test_a_corpus_smaller_than_one_batch_is_refused(recipe, tmp_path):
    with pytest.raises(
        UserError, match="less than one batch of 2000 x 32: add text, or lower batch"
    ):
        train(replace(recipe, batch=2000), tmp_path / "run")


def test_the_wrong_vocabulary_is_refused(recipe, tmp_path):
    wrong = replace(recipe, model=replace(recipe.model, vocabulary=300))
    with pytest.raises(WrongUse, match=r"use --model.vocabulary 257"):
        train(wrong, tmp_path / "run")


def test_layouts_to_come_say_so(recipe, tmp_path):
    for layout, message in (
        ("zero3:2,tensor:2", "is not built yet"),
        ("dpp", "did you mean 'ddp'"),
    ):
        with pytest.raises(WrongUse, match=message):
            train(replace(recipe, layout=layout), tmp_path / "run")


def test_ranks_see_the_batch_that_one_rank_sees(recipe, corpus):
    dataset = TextDataset(recipe, corpus)
    one = dataset.step(8)[0]
    four = [dataset.step(8, rank, 4)[0] for rank in range(4)]
    assert torch.equal(torch.cat([b.tokens for b in four]), one.tokens)
    assert torch.equal(torch.cat([b.targets for b in four]), one.targets)


def test_targets_are_the_next_tokens_of_the_stream(recipe, corpus):
    batch = TextDataset(recipe, corpus).step(0)[0]
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    start = int(TextDataset(recipe, corpus).order.starts(0, 1)[0])
    assert batch.targets[0].tolist() == corpus.train.read(start + 1, 32).tolist()


def test_heldout_windows_are_the_same_every_time_and_spread_out(recipe, corpus: Corpus):
    wanted = replace(recipe, watch=TextWatch(tokens=320))
    a, b = (heldout_batches(wanted, corpus, 4) for _ in range(2))
    rows = torch.cat([x.tokens for x in a])
    assert torch.equal(rows, torch.cat([x.tokens for x in b]))
    assert rows.shape == (10, 32)
    assert len({tuple(row.tolist()) for row in rows}) == 10
    assert rows[0].tolist() == corpus.heldout.read(0, 32).tolist()


@pytest.mark.parametrize("kind", ["cosine", "wsd", "linear", "constant"])
def test_schedules(kind):
    schedule = Schedule(kind=kind, warmup=0.1, decay=0.2, floor=0.1)
    factors = [learning_rate_factor(schedule, step, 100) for step in range(100)]
    assert min(factors) > 0
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(factors) == pytest.approx(1.0, abs=1e-2)
    if kind == "constant":
        assert set(factors[10:]) == {1.0}
    else:
        assert factors[-1] == pytest.approx(0.1, abs=0.05)
        assert factors[10:] == sorted(factors[10:], reverse=True)
    if kind == "wsd":
        assert set(factors[10:80]) == {1.0}


def test_a_shorter_stop_keeps_the_schedule(recipe, tmp_path):
    train(recipe, tmp_path / "whole")
    train(replace(recipe, stop=5), tmp_path / "short")
    same_steps(records(tmp_path / "whole")[:4], records(tmp_path / "short")[:4])
    assert len(records(tmp_path / "short")) == 5
