"""Learners: the loop trains what it knows nothing of, two networks by turn, a student, a codebook."""

import json
import math
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, in_ranks, same_steps
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from toy_learners import Codebook, Generator, registered, rows_of, toy

from maquette.base.errors import WrongUse
from maquette.corpus.text.store import Corpus
from maquette.models.base import Loss
from maquette.models.config import DecoderConfig
from maquette.models.store import WEIGHTS, load_tensors, save_tensors
from maquette.parallel.group import Group
from maquette.training import loop
from maquette.training.checkpoint import AVERAGE, MODEL, OPTIMISER, STATE
from maquette.training.datasets.text import TextDataset
from maquette.training.decide import load_decisions
from maquette.training.initial_model import make_model, weights_file
from maquette.training.learner import LEARNERS, make_learner
from maquette.training.prefetch import Ahead
from maquette.training.recipe import Checkpoints, Guard
from maquette.training.run import DECISIONS, OUTCOME, RunDirectory
from maquette.training.single import Single
from maquette.workshop.train import run_rank, train

KINDS = [("adversarial", 0.0), ("distilled", 0.9), ("codebook", 0.5)]
"""kinds of toys, and the decay of their average"""


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def saved(run: Path, step: int) -> dict[str, bytes]:
    """The tensors' files of a checkpoint."""
    return {p.name: p.read_bytes() for p in folder(run, step).glob("*.safetensors")}


def records(run: Path) -> list[dict[str, Any]]:
    return RunDirectory(run).records()


def poison(monkeypatch: pytest.MonkeyPatch, owner: Any, bad: set[int]) -> None:
    """What a model answers in training is not a number at those calls, from 1."""
    original, calls = owner.forward, []

    def forward(model: Any, rows: Tensor) -> Tensor:
        out = original(model, rows)
        if not model.training:
            return out
        calls.append(1)
        return out * float("nan") if len(calls) in bad else out

    monkeypatch.setattr(owner, "forward", forward)


# Any learner


@pytest.mark.parametrize(("kind", "average"), KINDS)
def test_cut_off_and_resumed_is_the_uninterrupted_run(kind, average, recipe, tmp_path):
    """As a kill leaves it: with records after the last checkpoint, and without an end."""
    recipe = toy(recipe, kind, dropout=0.3, average=average)
    whole = tmp_path / "whole"
    torch.manual_seed(1)
    assert train(recipe, whole).finished
    end, wanted = saved(whole, recipe.steps), records(whole)
    assert len({r["loss"] for r in wanted}) == recipe.steps
    for step in (0, 3, 6):
        torch.manual_seed(2 + step)  # nothing depends on what the process drew before
        cut = tmp_path / "cut"
        shutil.copytree(whole, cut)
        for later in range(step + 1, recipe.steps + 1):
            shutil.rmtree(folder(cut, later))
        for name in (WEIGHTS, OUTCOME):
            (cut / name).unlink()
        train(None, cut, resume=True)
        same_steps(wanted, records(cut))
        assert saved(cut, recipe.steps) == end, step
        assert (cut / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
        shutil.rmtree(cut)


def test_stopped_and_resumed_across_an_odd_step_is_the_uninterrupted_run(recipe, tmp_path):
    recipe = toy(recipe, "adversarial", dropout=0.3)
    train(recipe, tmp_path / "whole")
    for stop in (3, 6, recipe.steps):
        assert train(replace(recipe, stop=stop), tmp_path / "parts", resume=True).step == stop
    assert saved(tmp_path / "parts", recipe.steps) == saved(tmp_path / "whole", recipe.steps)
    for r in (parts := records(tmp_path / "parts")):
        if r["step"] in (3, 6):
            r.pop("heldout_loss")  # looked at because the call ended there
    same_steps(records(tmp_path / "whole"), parts)


def test_the_learner_of_the_page_trains(recipe, tmp_path, monkeypatch):
    """Its average is what is scored, and pulls: another run than without."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.setattr(DecoderConfig, "learner", "mean_teacher")
    recipe = replace(recipe, steps=4, optimiser=replace(recipe.optimiser, average=0.9))
    names = {"LEARNERS": LEARNERS, "Loss": Loss, "Single": Single, "torch": torch, "F": F}
    exec(code, names)
    train(recipe, tmp_path / "own")
    LEARNERS["mean_teacher"] = Single
    train(recipe, tmp_path / "plain")
    own, plain = records(tmp_path / "own"), records(tmp_path / "plain")
    assert own[0]["loss"] == plain[0]["loss"]
    assert own[0]["gradient_norm"] == pytest.approx(plain[0]["gradient_norm"], rel=1e-5)  # agreed
    assert all(math.isfinite(r["loss"]) for r in own)
    assert own[-1]["loss"] != plain[-1]["loss"]


def test_a_gradient_is_of_the_mean_over_what_counts(recipe, tmp_path):
    """A row is one target here, and a step has eight times as many tokens."""
    recipe = toy(recipe, "codebook", micro_batch=2, stop=1)
    train(recipe, tmp_path)
    model = make_model(recipe)
    model.codes.copy_(load_tensors(tmp_path / WEIGHTS)["codes"])
    parts = TextDataset(recipe, Corpus(recipe.data.corpus)).step(0)
    loss = sum(model.loss(part).total for part in parts) / recipe.batch
    loss.backward()
    (record,) = records(tmp_path)
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
    norm = float(model.map.weight.grad.norm())
    assert record["gradient_norm"] == pytest.approx(norm, rel=1e-5)


# Two networks by turn


def test_each_turn_changes_one_network_and_leaves_the_other(recipe, tmp_path):
    recipe = toy(recipe, "adversarial")
    train(recipe, tmp_path)
    turns = {
        0: {MODEL, OPTIMISER},
        1: {"discriminator.safetensors", "discriminator_optimiser.safetensors"},
    }
    for step in range(2, recipe.steps + 1):
        before, after = saved(tmp_path, step - 1), saved(tmp_path, step)
        assert before.keys() == after.keys() == turns[0] | turns[1]
        assert {name for name in after if after[name] != before[name]} == turns[step % 2]
    for r in records(tmp_path):
        assert r["loss"] > 0 and r["discriminator_loss"] > 0 and r["gradient_norm"] > 0


def test_a_rewind_takes_both_networks_and_both_optimisers_back(recipe, tmp_path, monkeypatch):
    """Steps 4 and 5 are taken, 6 to 8 skipped, and the ninth batch's sends the run back to step 3."""
    recipe = toy(recipe, "adversarial", dropout=0.3, checkpoints=Checkpoints(every=3))
    reference = tmp_path / "reference"
    train(replace(recipe, stop=3), reference)
    state = json.loads((folder(reference, 3) / STATE).read_text(encoding="utf-8"))
    state["sample"] = 9 * recipe.batch
    (folder(reference, 3) / STATE).write_text(json.dumps(state), encoding="utf-8")
    train(replace(recipe, stop=None), reference, resume=True)

    poison(monkeypatch, Generator, {6, 7, 8, 9})
    train(recipe, tmp_path / "run")
    (event,) = RunDirectory(tmp_path / "run").events()
    assert (event["event"], event["step"], event["sample"]) == ("rewind", 3, 9 * recipe.batch)
    assert saved(tmp_path / "run", recipe.steps) == saved(reference, recipe.steps)
    same_steps(records(tmp_path / "run")[3:], records(reference)[3:])


# A teacher that is a moving average


def test_the_teacher_is_the_average_of_the_students(recipe, tmp_path):
    decay = 0.5
    recipe = toy(recipe, "distilled", dropout=0.3, average=decay)
    train(recipe, tmp_path)
    wanted = {name: p.detach().clone() for name, p in make_model(recipe).named_parameters()}
    for step in range(1, recipe.steps + 1):
        student, teacher = (
            load_tensors(folder(tmp_path, step) / name) for name in (MODEL, AVERAGE)
        )
        now = min(decay, (1 + step) / (10 + step))
        for name, mean in wanted.items():
            wanted[name] = now * mean + (1 - now) * student[name]
            torch.testing.assert_close(teacher[name], wanted[name], rtol=1e-5, atol=1e-7)
        assert torch.equal(teacher["centre"], student["centre"]) and teacher["centre"].any()
        assert not torch.equal(teacher["encoder.weight"], student["encoder.weight"])


def test_the_teachers_centre_is_the_running_mean_of_what_it_says(recipe, tmp_path):
    recipe = toy(recipe, "distilled", average=0.5, micro_batch=2)
    train(recipe, tmp_path)
    batches = TextDataset(recipe, Corpus(recipe.data.corpus))
    encoder, centre = make_model(recipe).encoder.weight.detach(), torch.zeros(3)
    for step in range(1, recipe.steps + 1):
        rows = torch.cat([rows_of(b) for b in batches.step((step - 1) * recipe.batch)])
        centre = 0.9 * centre + 0.1 * (rows @ encoder.T).mean(0)
        teacher = load_tensors(folder(tmp_path, step) / AVERAGE)
        torch.testing.assert_close(teacher["centre"], centre, rtol=1e-4, atol=1e-6)
        encoder = teacher["encoder.weight"]


def test_a_run_keeps_the_teacher(recipe, tmp_path):
    recipe = toy(recipe, "distilled", average=0.9, stop=7)
    train(recipe, tmp_path)
    student, teacher = (folder(tmp_path, 7) / name for name in (MODEL, AVERAGE))
    assert (tmp_path / WEIGHTS).read_bytes() == teacher.read_bytes() != student.read_bytes()
    (tmp_path / WEIGHTS).unlink()
    assert weights_file(tmp_path) == teacher  # what another run begins with, before the end


def test_a_student_without_an_average_is_refused(recipe, tmp_path):
    with pytest.raises(WrongUse, match=r"optimiser.average is 0.*use 0.99"):
        train(toy(recipe, "distilled"), tmp_path / "run")


# What is fitted to the first batch


def fitted_to(recipe: Any, sample: int, codes: Tensor) -> bool:
    """Whether both codes are rows of the step at that sample, other ones."""
    batches = TextDataset(recipe, Corpus(recipe.data.corpus))
    rows = [tuple(row) for row in rows_of(batches.step(sample)[0]).tolist()]
    return len({*map(tuple, codes.tolist())} & {*rows}) == 2


def test_codes_are_fitted_once_and_drawn_from_the_seed(recipe, tmp_path):
    """In both models, though the first batch was skipped and the average has taken nothing in."""
    recipe = toy(recipe, "codebook", average=0.5)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        with pytest.MonkeyPatch.context() as patched:
            poison(patched, Codebook, {1})
            train(recipe, tmp_path / name)
    assert saved(tmp_path / "a", recipe.steps) == saved(tmp_path / "b", recipe.steps)
    assert records(tmp_path / "a")[0]["skipped"]
    codes = load_tensors(folder(tmp_path / "a", 1) / MODEL)["codes"]
    assert fitted_to(recipe, 0, codes)
    for step in (1, recipe.steps):
        for name in (MODEL, AVERAGE):
            assert torch.equal(load_tensors(folder(tmp_path / "a", step) / name)["codes"], codes)


def test_a_run_that_goes_back_to_its_start_is_fitted_to_the_batch_it_begins_with(
    recipe, tmp_path, monkeypatch
):
    """Its optimiser and its average begin anew, too."""
    recipe = toy(recipe, "codebook", average=0.5, checkpoints=Checkpoints(every=9))
    poison(monkeypatch, Codebook, {2, 3, 4, 5})
    train(recipe, tmp_path)
    assert [e["step"] for e in RunDirectory(tmp_path).events()] == [0]
    end = {name: load_tensors(folder(tmp_path, 9) / name) for name in (MODEL, AVERAGE, OPTIMISER)}
    assert fitted_to(recipe, 5 * recipe.batch, end[MODEL]["codes"])
    assert torch.equal(end[AVERAGE]["codes"], end[MODEL]["codes"])
    assert end[OPTIMISER]["map.weight.step"] == 9


# Two ranks


def as_rank(group: Group, path: str) -> None:
    """What one rank does (at module level, to be sent to it)."""
    original = Single.prepare

    def prepare(self: Single, batch: Any, group: Group) -> None:
        original(self, batch, group)
        codes = [dict(model.named_buffers()) for model in (self.model, self.average.model)]
        tensors = {f"{i}.{name}": t for i, own in enumerate(codes) for name, t in own.items()}
        save_tensors(Path(path) / f"prepared-{group.rank}.safetensors", tensors)

    Single.prepare = prepare  # type: ignore[method-assign]
    with registered():
        for kind, _ in KINDS:
            run_rank(RunDirectory(f"{path}/two-{kind}"), group)


def test_two_ranks_are_one_for_every_learner(recipe, tmp_path):
    """Both have the first one's codes, though each has rows of its own."""
    for kind, average in KINDS:
        one = toy(recipe, kind, average=average, micro_batch=2, steps=4)
        train(one, tmp_path / f"one-{kind}")
        two = tmp_path / f"two-{kind}"
        train(replace(one, stop=1), two)  # leaves a run directory, which begins again below
        replace(RunDirectory(two).recipe(), stop=None).save(two / "recipe.yaml")
        shutil.rmtree(two / "checkpoints")
    in_ranks(as_rank, 2, str(tmp_path))
    first, second = (load_tensors(tmp_path / f"prepared-{i}.safetensors") for i in (0, 1))
    assert first["0.codes"].any() and torch.equal(first["0.codes"], first["1.codes"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    for kind, _ in KINDS:
        ones, twos = (records(tmp_path / f"{n}-{kind}") for n in ("one", "two"))
        for a, b in zip(ones, twos, strict=True):
            for name in a.keys() & {"loss", "discriminator_loss", "gradient_norm", "heldout_loss"}:
                assert a[name] == pytest.approx(b[name], rel=1e-4), (kind, name)
        for name in saved(tmp_path / f"one-{kind}", 4):
            a, b = (
                load_tensors(folder(tmp_path / f"{n}-{kind}", 4) / name) for n in ("one", "two")
            )
            for key in a:
                torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-5)


# Batches read ahead

PATIENCE = 30
"""seconds until a thread that never comes fails a test"""


class Read:
    """Batches that say what is read, by which thread, and when; `bad` cannot be read."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad, self.samples, self.threads = bad, [], []
        self.wanted, self.early = 0, []
        self.done = {sample: threading.Event() for sample in range(0, 100, 4)}

    def step(self, sample: int, rank: int, world: int) -> list[str]:
        self.samples.append(sample)
        self.threads.append(threading.current_thread() is threading.main_thread())
        if sample > self.wanted + 4:
            self.early.append(sample)
        self.done[sample].set()
        if sample == self.bad:
            raise OSError(f"{sample} cannot be read")
        return [f"batch {sample}"]


def test_batches_come_in_order_and_the_next_is_read_meanwhile():
    read = Read()
    with Ahead(read) as ahead:
        for sample in range(0, 20, 4):
            read.wanted = sample
            following = sample + 4 if sample < 16 else None
            assert ahead.take(sample, following) == [f"batch {sample}"]
            if following is not None:
                assert read.done[following].wait(PATIENCE)  # without being asked for
    assert read.samples == [0, 4, 8, 12, 16]  # each once, and none after the last
    assert read.threads == [True, False, False, False, False]
    assert not read.early


def test_what_reading_raises_comes_at_the_step_it_belongs_to():
    with Ahead(Read(bad=8)) as ahead:
        assert ahead.take(0, 4) == ["batch 0"]
        assert ahead.take(4, 8) == ["batch 4"]
        with pytest.raises(OSError, match="8 cannot be read"):
            ahead.take(8, 12)
        assert ahead.take(12, None) == ["batch 12"]


def test_a_batch_that_nobody_foresaw_is_read_where_it_is_taken():
    read = Read(bad=4)
    with Ahead(read) as ahead:
        assert ahead.take(0, 4) == ["batch 0"]
        assert ahead.take(20, None) == ["batch 20"]  # what was read instead is no matter
        assert ahead.take(24, 28) == ["batch 24"]
        assert ahead.take(28, None) == ["batch 28"]
    assert sorted(read.samples) == [0, 4, 20, 24, 28]


def test_a_run_reads_each_step_once_and_nothing_beyond_its_last(recipe, tmp_path, monkeypatch):
    """Stopped, lengthened under way, and sent back at its last step, which reads one more."""
    samples: list[int] = []

    class Recorded(Ahead):
        def __init__(self, dataset: Any, rank: int, world: int) -> None:
            read = dataset.step
            dataset.step = lambda sample, *ranks: (samples.append(sample), read(sample, *ranks))[1]
            super().__init__(dataset, rank, world)

    monkeypatch.setattr(loop, "Ahead", Recorded)
    recipe = toy(recipe, "codebook", guard=Guard(patience=0))
    train(replace(recipe, stop=5), tmp_path / "run")
    assert samples == [0, 4, 8, 12, 16]
    samples.clear()
    train(recipe, tmp_path / "run", resume=True, replan=lambda step: 11 if step == 8 else None)
    assert samples == [20, 24, 28, 32, 36, 40]
    samples.clear()
    poison(monkeypatch, Codebook, {4})
    train(replace(recipe, steps=4), tmp_path / "back")
    assert samples == [0, 4, 8, 12, 16]


# Nothing waits for the device

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,  # item, float, int, bool
    aten.nonzero,
    aten.masked_select,
    aten.is_nonzero,
    aten.equal,
    aten.bincount,
    aten._unique2,
    aten.unique_dim,
}


class Waits(TorchDispatchMode):
    """Notes what would wait for a device: numbers read from tensors, and shapes that depend on them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        for name in ("tolist", "numpy", "cpu", "__array__"):
            original = getattr(Tensor, name)

            def noted(tensor: Tensor, *a: Any, name: str = name, original: Any = original) -> Any:
                self.found.append(name)
                return original(tensor, *a)

            monkeypatch.setattr(Tensor, name, noted)

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        packet = function.overloadpacket
        masks = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            i is not None and i.dtype == torch.bool for i in arguments[1]
        )
        if packet in WAITING or masks:
            self.found.append(str(function))
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"positions": "alibi", "norm": "layernorm", "band": 8, "dropout": 0.1},
        {"positions": "learned", "kv_heads": 1, "block": "parallel", "tied": True},
    ],
)
@pytest.mark.parametrize("documents", [False, True])
def test_no_step_of_a_decoder_waits_for_the_device(
    change, documents, recipe, tmp_path, monkeypatch
):
    """All micro-batches are queued before a number is read; that comes with the sum over the ranks."""
    recipe = replace(
        recipe,
        model=replace(recipe.model, **change),
        data=replace(recipe.data, document_mask=documents),
        optimiser=replace(recipe.optimiser, z_loss=1e-3),
        micro_batch=2,
        recompute=True,
        stop=1,
    )
    train(recipe, tmp_path)
    learner = make_learner(recipe, load_decisions(tmp_path / DECISIONS), torch.device("cpu"))
    parts = TextDataset(recipe, Corpus(recipe.data.corpus)).step(0)
    with Waits(monkeypatch) as waits:
        losses = learner.backward(parts, 1)
        assert len(parts) == 2 and not waits.found
        (loss, count) = losses.sums["loss"].item(), losses.count.tolist()
        assert len(waits.found) == 2
    assert loss > 0 and count == recipe.units_per_step
    assert learner.reduce(Group(), count) > 0


def test_what_waits_is_noticed(monkeypatch):
    x = torch.ones(3)
    ways = [
        lambda: sum(x.tolist()), x.nonzero, lambda: float(x[0]), lambda: int(x[0]), lambda: bool(x[0]),
        lambda: x[x > 0], lambda: [0, 1][x[0].long()],
    ]  # fmt: skip
    for way in ways:
        with Waits(monkeypatch) as waits:
            way()
        assert waits.found
