"""Many runs side by side: trained once, kept when one fails, the same as alone."""

import threading
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest

from maquette.base.errors import UserError, WrongUse
from maquette.base.processes import no_script
from maquette.models.store import WEIGHTS, load_tensors
from maquette.systems.tiny import tiny
from maquette.workshop import train_many as module
from maquette.workshop.train import train
from maquette.workshop.train_many import done, train_many


def test_many_runs_are_the_runs_that_each_would_be(tmp_path):
    base = replace(tiny(), steps=4)
    jobs = [(replace(base, seed=seed), tmp_path / f"seed-{seed}") for seed in (0, 1)]
    said = []
    outcomes = train_many([*jobs, jobs[0]], say=said.append)
    assert [o.step for o in outcomes] == [4, 4, 4]
    assert outcomes[0] == outcomes[2]
    assert len(said) == 2
    assert train_many(jobs, say=said.append) == outcomes[:2]  # done: nothing is trained again
    assert len(said) == 2
    alone = train(jobs[1][0], tmp_path / "alone")
    assert alone.loss == pytest.approx(outcomes[1].loss, rel=1e-5)  # another number of threads
    one, other = load_tensors(jobs[0][1] / WEIGHTS), load_tensors(jobs[1][1] / WEIGHTS)
    assert any((one[name] != other[name]).any() for name in one)


def test_a_run_that_fails_is_named_and_the_others_are_kept(tmp_path):
    good = replace(tiny(), steps=4)
    bad = replace(good, model=replace(good.model, vocabulary=77))
    with pytest.raises(UserError, match=r"bad failed: model.vocabulary is 77"):
        train_many([(good, tmp_path / "good"), (bad, tmp_path / "bad")], workers=1)
    assert done(tmp_path / "good")
    assert not done(tmp_path / "bad")


def test_one_directory_holds_one_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = replace(tiny(), steps=2)
    other = replace(one, seed=1)
    with pytest.raises(WrongUse, match="run is asked for with two recipes"):
        train_many([(one, tmp_path / "run"), (other, Path("run"))])
    train(one, tmp_path / "run")
    assert train_many([(replace(one, name="other"), Path("run"))])[0].step == 2
    for asked, what in (
        (other, "seed"),
        (replace(one, steps=3), "steps"),
        (replace(one, stop=1), "stop"),
    ):
        with pytest.raises(WrongUse, match=rf"run holds a finished run of another recipe \({what}"):
            train_many([(asked, tmp_path / "run")])
    with pytest.raises(WrongUse, match="workers is 0: use at least 1"):
        train_many([(one, tmp_path / "run")], workers=0)


@pytest.mark.parametrize(
    ("at", "error", "said"),
    [
        ("submit", BrokenProcessPool("gone"), "run was killed"),
        ("result", BrokenProcessPool("gone"), "run was killed"),
        ("result", RuntimeError("no memory\nand more"), "run failed: RuntimeError: no memory$"),
    ],
)
def test_a_worker_that_dies_or_fails_names_its_run(at, error, said, tmp_path, monkeypatch):
    class Pool:
        def submit(self, *words):
            if at == "submit":
                raise error
            future = module.Future()
            future.set_exception(error)
            return future

    monkeypatch.setattr(module, "start_workers", lambda workers: Pool())
    monkeypatch.setattr(module, "kill_workers", lambda pool: None)
    with pytest.raises(UserError, match=said):
        train_many([(tiny(), tmp_path / "run")])


def test_threads_that_hide_the_script_give_it_back():
    import sys

    main, entered, go = sys.modules["__main__"], threading.Event(), threading.Event()

    def first():
        with no_script():
            entered.set()
            go.wait(5)

    def second():
        with no_script():
            go.wait(0)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert entered.wait(5)
    threads[1].start()
    threads[1].join(0.05)
    assert threads[1].is_alive()  # it waits for the first
    go.set()
    for thread in threads:
        thread.join()
    assert sys.modules["__main__"] is main
