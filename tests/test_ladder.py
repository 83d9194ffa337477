"""A branch is the run it stands for; a ladder's design fits; its analysis finds what was planted."""

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import same_steps
from safetensors.torch import load_file

from maquette.base.errors import UserError, WrongUse
from maquette.scaling import rungs
from maquette.scaling.extrapolate import Rung, analyse, ladder_from
from maquette.scaling.user_law import read_ladder
from maquette.training.recipe import Checkpoints
from maquette.training.run import RunDirectory
from maquette.training.schedule import decay_start, learning_rate_factor, warm_stable_decay
from maquette.workshop import ladder as workshop
from maquette.workshop.branched_runs import agree, branch
from maquette.workshop.train import train
from maquette.workshop.train_many import done, outcome


@pytest.fixture
def family(recipe):
    """A trunk of 40 steps and a run of 20, as recipes."""
    keep = Checkpoints(every=8, keep_every=8)
    return [
        replace(recipe, steps=n, checkpoints=keep, schedule=warm_stable_decay(n, 5))
        for n in (40, 20)
    ]


def test_a_branch_is_the_run_from_scratch_to_the_last_bit(family, tmp_path):
    trunk, short = family
    train(trunk, tmp_path / "trunk")
    assert branch(tmp_path / "trunk", short, tmp_path / "branch") == 16
    branched = train(short, tmp_path / "branch", resume=True)
    scratch = train(short, tmp_path / "scratch")
    assert branched.finished
    assert branched.heldout_loss == scratch.heldout_loss
    ours, theirs = (
        load_file(tmp_path / name / "model.safetensors") for name in ("branch", "scratch")
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    records = [RunDirectory(tmp_path / name).records() for name in ("branch", "scratch")]
    for record in [*records[0], *records[1]]:
        record.pop("heldout_loss", None)  # a trunk is looked at elsewhere
    same_steps(*records)


def test_a_longer_run_branches_off_a_shorter_one(family, tmp_path):
    trunk, short = family
    train(short, tmp_path / "short")
    assert branch(tmp_path / "short", trunk, tmp_path / "long") == 16
    longer, scratch = train(trunk, tmp_path / "long", resume=True), train(trunk, tmp_path / "new")
    assert longer.heldout_loss == scratch.heldout_loss


def test_a_branch_cut_off_or_begun_is_left_right(family, tmp_path):
    trunk, short = family
    train(replace(trunk, stop=16), tmp_path / "trunk")
    (tmp_path / ".branch.tmp").mkdir()
    (tmp_path / ".branch.tmp" / "half").write_text("a process was killed here", encoding="utf-8")
    (tmp_path / "branch").mkdir()
    (tmp_path / "branch" / ".lock").touch()
    assert branch(tmp_path / "trunk", short, tmp_path / "branch") == 16
    assert not (tmp_path / "branch" / "half").exists()
    train(replace(short, stop=18), tmp_path / "branch", resume=True)
    assert branch(tmp_path / "trunk", short, tmp_path / "branch") == 0  # it goes on by itself
    assert len(RunDirectory(tmp_path / "branch").records()) == 18


def test_a_damaged_checkpoint_of_the_trunk_is_passed_over(family, tmp_path):
    trunk, short = family
    train(replace(trunk, stop=16), tmp_path / "trunk")
    (tmp_path / "trunk" / "checkpoints" / "step-00000016" / "state.json").write_text(
        "{", encoding="utf-8"
    )
    assert branch(tmp_path / "trunk", short, tmp_path / "branch") == 8


def test_what_is_no_branch_is_refused(family, tmp_path):
    trunk, short = family
    train(replace(trunk, stop=16), tmp_path / "trunk")
    with pytest.raises(WrongUse, match="differs from it in seed"):
        branch(tmp_path / "trunk", replace(short, seed=1), tmp_path / "branch")
    cosine = replace(short, schedule=replace(short.schedule, kind="cosine"))
    assert agree(trunk, cosine) == 5
    with pytest.raises(UserError, match=r"no checkpoint of its first 5 steps.*keep-every"):
        branch(tmp_path / "trunk", cosine, tmp_path / "branch")
    assert not (tmp_path / "branch").exists()


def test_two_that_branch_to_one_place_leave_the_first(family, tmp_path):
    trunk, short = family
    train(replace(trunk, stop=16), tmp_path / "trunk")
    with ThreadPoolExecutor(4) as pool:
        steps = list(
            pool.map(lambda _: branch(tmp_path / "trunk", short, tmp_path / "b"), range(4))
        )
    assert sorted(steps) == [0, 0, 0, 16]
    assert RunDirectory(tmp_path / "b").recipe() == short


@pytest.mark.parametrize("steps", [50, 51, 113, 999, 7777, 28_801, 1_000_003])
def test_the_warm_up_has_its_steps_at_every_length(steps):
    long, short = (warm_stable_decay(n, 40) for n in (4 * steps, steps))
    start = decay_start(short, steps)
    rates = [learning_rate_factor(short, step, steps) for step in range(min(start, 2000))]
    assert rates == [learning_rate_factor(long, s, 4 * steps) for s in range(len(rates))]
    assert rates[38] < 1.0 == rates[39]
    assert learning_rate_factor(short, start, steps) < 1


def slow(width: int) -> float:
    return 0.006


def test_lengths_double_when_budgets_do():
    for parameters in (2460, 14_448, 131_520):
        lengths = [rungs.stable_steps(parameters, 2e10 * 2**k) for k in range(8)]
        for k in range(7):
            if lengths[k] >= 200:
                assert lengths[k + 1] == 2 * lengths[k]
                steps = lengths[k] / (1 - rungs.DECAY)
                assert 6 * parameters * 256 * steps == pytest.approx(2e10 * 2**k, rel=0.011)


def test_a_design_fits_its_time_and_grows_with_it():
    small = rungs.design(240, slow, workers=2)
    large = rungs.design(2400, slow, workers=2)
    assert small.seconds(slow, 2) < 240 and large.seconds(slow, 2) < 2400
    assert len(large.cells) > len(small.cells)
    for widths in large.widths:
        assert len(widths) >= 4
    cells = large.cells
    assert large.trunk(cells[0]) == cells[0]
    trunk, cell = large.trunk(cells[-1]), cells[-1]
    saved = large.recipe(trunk).checkpoints.keep_every
    recipe = large.recipe(cell)
    assert decay_start(recipe.schedule, recipe.steps) % saved == 0
    whole = sum(c.steps for c in cells)
    assert sum(large.trained_steps().values()) < 0.7 * whole


def test_a_design_that_cannot_be_is_refused():
    with pytest.raises(WrongUse, match=r"0.5 minutes are too few.*give at least \d"):
        rungs.design(30, slow)
    with pytest.raises(WrongUse, match="24,000 tokens are too few"):
        rungs.design(600, slow, text=24_000)


def planted(noise: float, seed: int = 0, floor: float = 0.0, sizes: int = 5) -> list[Rung]:
    """Budgets whose least loss is 60 C^-0.13 at N* = 0.02 C^0.5, on parabolas over log N."""
    random, found = np.random.default_rng(seed), []
    for k in range(6):
        c = 2e10 * 2**k
        best = 0.02 * c**0.53
        for i in range(sizes):
            n = best * 1.6 ** (i - sizes // 2 + 0.3)
            loss = (floor + 60 * c**-0.13) * (1 + 0.05 * math.log(n / best) ** 2)
            for s in range(2):
                drawn = loss * (1 + noise * random.normal())
                found.append(Rung(c, round(n), round(c / 6 / n), drawn, s))
    return found


def test_a_planted_ladder_is_found_again():
    ladder = analyse(planted(0.0))
    assert ladder.split[0] == pytest.approx(0.53, abs=1e-3)
    assert ladder.frontier.slope == pytest.approx(-0.13, abs=1e-4)
    assert ladder.curvature == pytest.approx(0.05, rel=1e-3)
    n, d = ladder.best(1e13)
    assert n == pytest.approx(0.02 * 1e13**0.53, rel=0.02)
    assert 6 * n * d == pytest.approx(1e13)
    assert ladder.predict(1e13).loss == pytest.approx(60 * 1e13**-0.13, rel=1e-3)
    off = ladder.predict(split=(2 * n, d / 2)).loss
    assert off == pytest.approx(60 * 1e13**-0.13 * (1 + 0.05 * math.log(2) ** 2), rel=2e-3)
    assert off == pytest.approx(ladder.loss(2 * n, d / 2))
    again = ladder_from(json.loads(json.dumps(ladder.to_dict())))
    assert again.predict(1e13) == ladder.predict(1e13)
    assert ladder.bits_per_byte(math.log(2)) == pytest.approx(1)


def test_an_irreducible_term_is_used_where_it_predicts_better():
    ladder = analyse(planted(0.0, floor=1.0))
    assert ladder.frontier.floor == pytest.approx(1.0, abs=0.02)
    assert ladder.predict(1e13).loss == pytest.approx(1 + 60 * 1e13**-0.13, rel=2e-3)
    assert analyse(planted(0.0)).frontier.floor == 0


def test_the_intervals_hold_what_was_planted():
    """Of 40 noisy ladders, about 38 intervals should; fewer than 34 would be one in a thousand."""
    inside, exponent = 0, 0
    for seed in range(40):
        ladder = analyse(planted(0.004, seed))
        p = ladder.predict(3e12)
        assert p.low < p.loss < p.high
        inside += p.low <= 60 * 3e12**-0.13 <= p.high
        low, high = ladder.exponents(draws=60)["a"]
        exponent += low <= 0.53 <= high
    assert inside >= 34
    assert exponent >= 30


def test_minima_on_an_edge_are_named_and_predict_nothing():
    steep = [replace(p, loss=p.loss * p.parameters**0.2) for p in planted(0.0)]
    ladder = analyse(steep)
    assert {m.edge for m in ladder.minima} == {"smallest"}
    for ask in (lambda: ladder.predict(1e12), lambda: ladder.best(1e12)):
        with pytest.raises(UserError, match=r"on the edge at 2e\+10 \(smallest size\).*add sizes"):
            ask()
    design = rungs.Design(257, "bytes", (2e10, 4e10), ((16, 24, 32),) * 2, 1)
    wider = design.widened([replace(ladder.minima[0], flops=2e10)] * 2)
    assert wider.widths == ((8, 16, 24, 32),) * 2
    assert design.widened([replace(ladder.minima[0], edge="")] * 2) == design


@pytest.fixture
def toy(monkeypatch, corpus):
    """A ladder of seconds: budgets of a few steps each, one seed."""
    monkeypatch.setattr(rungs, "PLANS", ((3, 1),))
    monkeypatch.setattr(rungs, "LEAST", 4)
    monkeypatch.setattr(rungs, "WARMUP", 4)
    monkeypatch.setattr(rungs, "LARGER", 2.0)
    monkeypatch.setattr(rungs, "tokens_a_parameter", lambda vocabulary: 0.3)

    def here(jobs, workers=None, say=lambda text: None):
        """As `train_many`, without the seconds that starting processes takes."""
        for recipe, path in jobs:
            if not done(path):
                say(f"  training {path.name}: {recipe.last_step:,} steps")
                train(recipe, path, resume=True)
        return [outcome(path) for _, path in jobs]

    monkeypatch.setattr(workshop, "train_many", here)
    return corpus


def test_a_ladder_is_trained_goes_on_and_is_read_back(toy, tmp_path):
    out, lines = tmp_path / "ladder", []
    result = workshop.run_ladder(5, str(toy.path), out, workers=1, say=lines.append)
    assert len(result["budgets"]) == 3
    assert (out / "ladder.png").read_bytes().startswith(b"\x89PNG")
    ladder, _ = read_ladder(out)
    assert len(ladder.points) == result["runs"]
    assert all(math.isfinite(p.loss) for p in ladder.points)
    assert ladder.minima[0].loss == result["budgets"][0]["loss"]
    assert ("prediction" in result) or result["warnings"]

    some = sorted(p for p in (out / "runs").iterdir() if done(p))[0]
    shutil.rmtree(some)  # as when it was killed before it came to this one
    lines.clear()
    again = workshop.run_ladder(5, str(toy.path), out, workers=1, say=lines.append)
    assert [line.split()[1] for line in lines if "training" in line] == [f"{some.name}:"]
    assert again["budgets"] == result["budgets"]

    with pytest.raises(WrongUse, match="holds a ladder of 5 minutes"):
        workshop.run_ladder(6, str(toy.path), out, workers=1)
    with pytest.raises(WrongUse, match="it trains 1 runs at a time, not 3"):
        workshop.run_ladder(5, str(toy.path), out, workers=3)
    with pytest.raises(UserError, match="does not exist: make one with maquette plan ladder"):
        read_ladder(tmp_path / "none")


def test_a_ladder_without_text_or_time_says_so(corpus, tmp_path):
    with pytest.raises(WrongUse, match="tokens are too few for a ladder"):
        workshop.run_ladder(5, str(corpus.path), tmp_path / "a", workers=1)
    with pytest.raises(WrongUse, match="--budget is 0 minutes"):
        workshop.run_ladder(0, str(corpus.path), tmp_path / "b", workers=1)
