"""Checkpoints: atomic, checked, kept by policy; a damaged one is named and the one before is used."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import command, refused, same_steps

from maquette.base.errors import UserError
from maquette.models.store import tensors_of
from maquette.training import checkpoint
from maquette.training.checkpoint import MODEL, Saver, State, check, newest, read_files, saved_steps
from maquette.training.observer import Quiet
from maquette.training.recipe import Checkpoints
from maquette.training.run import RunDirectory
from maquette.workshop.train import train


class Heard(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def stopped(recipe, tmp_path) -> Path:
    """A run of twelve steps that stopped after its eighth."""
    train(replace(recipe, stop=8), tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    return tmp_path / "run"


def damage_last(run: Path, how: str) -> Path:
    last = sorted((run / "checkpoints").iterdir())[-1]
    model = last / "model.safetensors"
    if how == "cut short":
        model.write_bytes(model.read_bytes()[:-100])
    elif how == "a bit turned":
        data = bytearray(model.read_bytes())
        data[-50] ^= 1
        model.write_bytes(bytes(data))
    elif how == "a file gone":
        (last / "optimiser.safetensors").unlink()
    elif how == "no state":
        (last / "state.json").unlink()
    elif how == "half a state":
        (last / "state.json").write_text('{"format": 1', encoding="utf-8")
    return last


@pytest.mark.parametrize(
    "how", ["cut short", "a bit turned", "a file gone", "no state", "half a state"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(how, stopped, recipe, tmp_path):
    last = damage_last(stopped, how)
    heard = Heard()
    train(recipe, stopped, resume=True, observer=heard)
    (line,) = [line for line in heard.lines if last.name in line]
    assert line.endswith("going on from step-00000004")
    train(recipe, tmp_path / "whole")
    whole, mended = (RunDirectory(p).records() for p in (tmp_path / "whole", stopped))
    same_steps(whole, mended)


def test_when_none_is_whole_the_run_says_so(stopped, recipe):
    for path in (stopped / "checkpoints").iterdir():
        (path / "state.json").unlink()
    with pytest.raises(UserError, match="no other checkpoint is left: start a new run"):
        train(recipe, stopped, resume=True)


def test_a_foreign_checkpoint_is_refused(stopped, recipe, tmp_path):
    wide = replace(recipe, model=replace(recipe.model, width=64), stop=8)
    train(wide, tmp_path / "wide")
    shutil.rmtree(stopped / "checkpoints")
    shutil.copytree(tmp_path / "wide" / "checkpoints", stopped / "checkpoints")
    with pytest.raises(UserError, match=r"belongs to another model: .* has shape \(.*64"):
        train(recipe, stopped, resume=True)


def test_a_checkpoint_of_another_format_is_refused(stopped):
    last = sorted((stopped / "checkpoints").iterdir())[-1]
    state = json.loads((last / "state.json").read_text(encoding="utf-8"))
    (last / "state.json").write_text(json.dumps(state | {"format": 7}), encoding="utf-8")
    with pytest.raises(UserError, match="has format 7, this Maquette reads 1"):
        check(last)


def test_a_pickle_is_not_read(stopped):
    """What torch.save writes, under the name of a safetensors file."""
    path = stopped / "model.safetensors"
    torch.save({"embedding.weight": torch.zeros(2)}, path)
    refused(
        command("generate", stopped, "x"),
        "is not a safetensors file",
        "convert the weights",
        code=1,
    )


def test_a_truncated_model_is_refused(trained):
    path = trained / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(command("generate", trained, "x"), "is not a safetensors file that can be read", code=1)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Checkpoints(every=1, keep_last=2), [9, 10, 11, 12]),
        (Checkpoints(every=1, keep_last=1, keep_every=5), [5, 9, 10, 11, 12]),
        (Checkpoints(every=5, keep_last=9), [5, 10, 12]),
    ],
)
def test_old_checkpoints_are_kept_by_policy(policy, kept, recipe, tmp_path):
    train(replace(recipe, checkpoints=policy), tmp_path / "run")
    assert saved_steps(tmp_path / "run" / "checkpoints") == kept


def saver_with(tmp_path, recipe):
    model = recipe.model.build().initialise(0)
    return Saver(tmp_path / "checkpoints", Checkpoints(), 1, 3), {MODEL: tensors_of(model)}


def test_what_is_saved_is_the_moment_of_the_call(recipe, tmp_path):
    """Training goes on while the thread writes."""
    saver, files = saver_with(tmp_path, recipe)
    before = {name: t.clone() for name, t in files[MODEL].items()}
    saver.save(files | {"of another kind": {"table": torch.arange(3)}}, State(step=3))
    for t in files[MODEL].values():
        t.zero_()
    saver.wait()
    path, state, damaged = newest(tmp_path / "checkpoints")
    assert (state.step, damaged) == (3, [])
    read = read_files(path)
    assert read.keys() == {MODEL, "of another kind"}
    assert torch.equal(read["of another kind"]["table"], torch.arange(3))
    assert read[MODEL].keys() == before.keys()
    assert all(torch.equal(read[MODEL][name], t) for name, t in before.items())


def test_a_full_disk_is_one_clear_line_and_earlier_checkpoints_stay(recipe, tmp_path, monkeypatch):
    saver, files = saver_with(tmp_path, recipe)
    saver.save(files, State(step=1))
    saver.wait()

    def full(path, tensors):
        path.write_bytes(b"x" * 100)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    saver.save(files, State(step=2))
    with pytest.raises(UserError, match=r"No space left on device\): free space .*--resume"):
        saver.wait()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_full_disk_from_the_command_line(recipe, tmp_path, monkeypatch):
    recipe.save(tmp_path / "r.yaml")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    refused(said, "No space left on device", "--resume", code=1)
    monkeypatch.undo()
    again = command("train", "--run", tmp_path / "run", "--resume", "--json")
    assert again.code == 0, again.err
    assert again.json["step"] == 12


def test_no_permission_is_one_clear_line(recipe, tmp_path, monkeypatch):
    recipe.save(tmp_path / "r.yaml")

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    said = command("train", tmp_path / "r.yaml", "--run", tmp_path / "run")
    refused(said, "Permission denied", str(tmp_path / "run"), code=1)


def test_only_data_formats_are_written(trained):
    kinds = {p.suffix for p in trained.rglob("*") if p.is_file() and p.name != ".lock"}
    assert kinds <= {".safetensors", ".json", ".jsonl", ".yaml", ".txt", ".html", ".png"}
