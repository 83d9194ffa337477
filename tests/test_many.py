"""Many runs side by side: trained once, kept when one fails, the same as alone."""

from dataclasses import replace

import pytest

from maquette.base.errors import UserError
from maquette.models.store import WEIGHTS, load_tensors
from maquette.systems.tiny import tiny
from maquette.workshop.many import done, train_many
from maquette.workshop.train import train


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
