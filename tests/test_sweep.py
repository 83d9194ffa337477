"""Sweeps: the grid and its edges, halving, divergence, resumption, and what the large model gets."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import command, refused

from maquette.base.errors import WrongUse
from maquette.training.recipe import LanguageRecipe, Schedule, load_recipe
from maquette.training.schedule import learning_rate_factor
from maquette.workshop import sweep_plan
from maquette.workshop import train_many as side_by_side
from maquette.workshop.optimum import find_optimum
from maquette.workshop.resized_recipe import resized
from maquette.workshop.sweep import Found, Trial, _beyond, _found, _name, sweep, transferred
from maquette.workshop.sweep_plan import RATE, Plan, make_plan, points, rounds, with_values
from maquette.workshop.train import train


@pytest.fixture
def wide(recipe) -> LanguageRecipe:
    """The recipe of the tests twice as wide; rules of width 32."""
    return replace(resized(recipe, 64), steps=40)


@pytest.fixture
def here(monkeypatch) -> None:
    """Trials in this process, one after the other: no processes are started for them."""

    def train_many(jobs, *, workers=None, say=print):
        for recipe, path in jobs:
            if not side_by_side.done(path):
                say(f"  training {path.name}: {recipe.steps} steps")
                train(recipe, path, resume=True)
        return [side_by_side.outcome(path) for _, path in jobs]

    monkeypatch.setattr(side_by_side, "train_many", train_many)


def quiet(text: str) -> None:
    pass


def test_a_parabola_finds_the_optimum_between_the_points():
    values = [2.0**k for k in range(-9, -2)]
    found = find_optimum(values, [3 + 0.1 * (math.log2(v) + 5.7) ** 2 for v in values])
    assert math.log2(found.value) == pytest.approx(-5.7)
    assert (found.edge, found.index) == (0, 3)
    least = 3 + 0.1 * 0.3**2
    assert found.loss == pytest.approx(least)
    assert found.off == pytest.approx((3 + 0.1 * 1.3**2 - least, 3 + 0.1 * 0.7**2 - least))
    assert 2**-7 < found.good[0] < found.value < found.good[1] < 2**-4
    assert found.open == (False, False)


@pytest.mark.parametrize(
    ("losses", "edge", "index"),
    [
        ([1.0, 2.0, 3.0], -1, 0),
        ([3.0, 2.0, 1.0], 1, 2),
        ([3.0, 1.0, math.inf], 0, 1),
        ([3.0, 1.0, math.nan], 0, 1),
        ([1.0, 1.0, 1.0], -1, 0),
    ],
)
def test_edges_and_divergence(losses, edge, index):
    found = find_optimum([1.0, 2.0, 4.0], losses)
    assert (found.edge, found.index) == (edge, index)
    assert found.value == [1.0, 2.0, 4.0][index]  # no parabola has three finite points to stand on
    assert found.open[0] is (edge == -1)


def test_the_order_of_the_values_does_not_matter():
    assert find_optimum([4.0, 1.0, 2.0], [5.0, 3.0, 1.0]) == find_optimum(
        [1.0, 2.0, 4.0], [3.0, 1.0, 5.0]
    )


def test_the_proxy_differs_from_the_large_model_in_width_alone(wide, tmp_path):
    """What is tuned means the same: rules, head size, schedule fractions and batch are shared."""
    plan = make_plan(wide, 32, steps=8)
    found = Found((), {RATE: 0.02}, None, ())
    large, proxy = transferred(plan, found), plan.proxy({RATE: 0.02})
    assert large == replace(wide, optimiser=replace(wide.optimiser, learning_rate=0.02))
    assert proxy.model.parametrisation == large.model.parametrisation
    assert (proxy.optimiser, proxy.schedule, proxy.batch, proxy.data) == (
        large.optimiser, large.schedule, large.batch, large.data,
    )  # fmt: skip
    changed = {
        f.name
        for f in dataclasses.fields(large.model)
        if getattr(large.model, f.name) != getattr(proxy.model, f.name)
    }
    assert changed == {"width", "heads"}
    assert proxy.model.head == large.model.head
    large.save(tmp_path / "large.yaml")
    assert load_recipe(tmp_path / "large.yaml") == large


def test_halving_keeps_the_fraction_of_the_schedule():
    assert rounds(5, 90, 3) == [(5, 90)]
    assert rounds(27, 900, 3) == [(27, 100), (9, 300), (3, 900)]
    assert rounds(16, 80, 2) == [(16, 20), (8, 40), (4, 80)]
    assert rounds(100, 30, 3) == [(100, 30)]  # too short to cut
    schedule = Schedule(kind="linear", warmup=0.1, floor=0.0)
    for part in (0.05, 0.3, 0.8):
        each = [learning_rate_factor(schedule, int(part * n) - 1, n) for n in (200, 600)]
        assert each[0] == pytest.approx(each[1], abs=0.01)


def test_points_are_the_product_of_lists_or_draws_from_ranges(wide):
    over = ["optimiser.learning_rate=0.01,0.02", "optimiser.beta2=0.9,0.99"]
    listed = points(make_plan(wide, 32, over))
    assert len(listed) == 4
    assert {RATE: 0.02, "optimiser.beta2": 0.9} in listed
    plan = make_plan(wide, 32, ["optimiser.learning_rate=1e-4..1e-1", over[1]], trials=200)
    drawn = points(plan)
    assert drawn == points(plan)  # of the recipe's seed
    rates = [math.log10(point[RATE]) for point in drawn]
    assert len(drawn) == 200
    assert -4 <= min(rates) < -3.7 < -1.3 < max(rates) <= -1
    assert sum(rate < -2.5 for rate in rates) == pytest.approx(100, abs=35)  # by the logarithm


def test_a_sweep_finds_goes_on_and_answers_at_once(wide, tmp_path, here):
    """The best rate of three; a deleted trial is trained again alone; a finished sweep trains none."""
    plan = make_plan(wide, 32, ["optimiser.learning_rate=0.003,0.012,0.05,2"], steps=8)
    said: list[str] = []
    first = sweep(plan, tmp_path / "s", said.append)
    trained = sorted((tmp_path / "s" / "trials" / "8").iterdir())
    assert len(trained) == 4 == len(said)
    assert first.best.loss == min(trial.loss for trial in first.trials)
    assert [trial.loss for trial in first.trials] == sorted(trial.loss for trial in first.trials)
    assert first.optimum is not None
    kept = json.loads((tmp_path / "s" / "sweep.json").read_text(encoding="utf-8"))
    said.clear()
    assert sweep(plan, tmp_path / "s", said.append) == first
    assert not said
    (tmp_path / "s" / "sweep.json").write_text(
        json.dumps(kept | {"found": None}), encoding="utf-8"
    )  # cut off
    (trained[0] / "model.safetensors").unlink()
    assert sweep(plan, tmp_path / "s", said.append) == first
    assert [line for line in said if trained[0].name in line] == said
    other = replace(plan, seeds=2)
    with pytest.raises(WrongUse, match="holds another sweep"):
        sweep(other, tmp_path / "s", quiet)


def test_a_best_rate_on_the_edge_extends_the_grid(wide, tmp_path, here):
    plan = make_plan(wide, 32, ["optimiser.learning_rate=0.0001,0.0002,0.0004"], steps=6)
    said: list[str] = []
    found = sweep(plan, tmp_path / "s", said.append)
    assert any("the best is on the edge of the grid: trying 0.0008, 0.0016, too" in s for s in said)
    tried = sorted(trial.point[RATE] for trial in found.trials)
    assert tried == pytest.approx([0.0001 * 2**i for i in range(len(tried))])
    assert 5 <= len(tried) <= 9  # bounded


def test_a_trial_that_diverges_is_no_crash(wide, tmp_path, here):
    plan = make_plan(wide, 32, ["optimiser.learning_rate=0.004,0.01,1e38"], steps=6)
    found = sweep(plan, tmp_path / "s", quiet)
    assert found.trials[-1].point[RATE] == 1e38
    assert found.trials[-1].loss == math.inf
    assert math.isfinite(found.best.loss)
    assert sweep(plan, tmp_path / "s", quiet) == found  # infinity comes back from the file


def test_many_points_are_halved(wide, tmp_path, here, monkeypatch):
    """13 draws from a range of two fields: the better six go on, the best three to the end."""
    monkeypatch.setattr(sweep_plan, "SHORTEST", 2)
    over = ["optimiser.learning_rate=1e-5..0.1", "schedule.kind=cosine,linear"]
    plan = make_plan(wide, 32, over, trials=13, steps=8, eta=2)
    found = sweep(plan, tmp_path / "s", quiet)
    by_steps = {n: [t for t in found.trials if t.steps == n] for n in (2, 4, 8)}
    assert [len(trials) for trials in by_steps.values()] == [13, 6, 3]
    for short, longer in ((2, 4), (4, 8)):
        kept = [trial.point for trial in by_steps[short][: len(by_steps[longer])]]
        assert all(trial.point in kept for trial in by_steps[longer])
    assert found.best.steps == 8
    assert found.values == found.best.point
    assert found.optimum is None
    large = transferred(plan, found)
    assert large.schedule.kind == found.best.point["schedule.kind"]
    assert large.optimiser.learning_rate == found.best.point[RATE]


def test_fields_are_checked_as_a_recipes_are(wide):
    assert with_values(wide, {"optimiser.beta2": 0.9}).optimiser.beta2 == 0.9
    with pytest.raises(WrongUse, match="beta2 is 2"):
        with_values(wide, {"optimiser.beta2": 2.0})


def plans_warnings(plan: Plan, tmp_path: Path) -> str:
    return " ".join(sweep(plan, tmp_path / "s", quiet).warnings)


def test_what_does_not_transfer_is_said(wide, tmp_path, here):
    rules = replace(wide.model.parametrisation, kind="standard")
    standard = replace(wide, model=replace(wide.model, parametrisation=rules))
    plan = make_plan(standard, 16, ["optimiser.weight_decay=0.1"], steps=2)
    said = plans_warnings(plan, tmp_path)
    assert "standard parametrisation" in said
    assert "below width 32" in said
    assert "takes 2 steps and the recipe 40" in said


def test_the_command(wide, tmp_path):
    wide.save(tmp_path / "wide.yaml")
    words = [
        "sweep",
        tmp_path / "wide.yaml",
        "--width",
        32,
        "--steps",
        8,
        "--run",
        tmp_path / "run",
    ]
    said = command(*words, "--out", tmp_path / "tuned.yaml", "--optimiser.beta2", "0.98", "--json")
    assert said.code == 0, said.err
    result = said.json
    assert {"best", "transferred", "recipe", "picture", "warnings", "trials"} <= result.keys()
    rates = sorted(trial["values"][RATE] for trial in result["trials"])
    assert rates[:5] == pytest.approx([0.0025 * 2**i for i in range(5)])  # around the recipe's 0.01
    large = load_recipe(tmp_path / "tuned.yaml")
    assert large.optimiser.learning_rate == result["transferred"][RATE]
    assert large.optimiser.beta2 == 0.98
    assert (large.model, large.steps) == (wide.model, wide.steps)
    assert (tmp_path / "run" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    again = command(*words, "--out", tmp_path / "tuned.yaml", "--optimiser.beta2", "0.98")
    assert again.code == 0
    assert "training" not in again.out
    assert "within 1 % of the best loss" in again.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["say how wide the proxy is"]),
        (["--width", "24"], ["width 24 is not divisible by the head size 32", "use 32"]),
        (["--width", "64"], ["width 64 is not below the recipe's 64", "a proxy is narrower"]),
        (["--width", "32", "--over", "optimiser.learning_rat=1,2"],
         ["unknown field optimiser.learning_rat", "did you mean 'optimiser.learning_rate'?"]),
        (["--width", "32", "--over", "optimiser.beta2=2"], ["beta2 is 2"]),
        (["--width", "32", "--over", "optimiser.learning_rate=lots"], ["optimiser.learning_rate"]),
        (["--width", "32", "--over", "optimiser.learning_rate=0.01,lots"], ["is 'lots'"]),
        (["--width", "32", "--over", "optimiser.learning_rate=0.01,none"], ["is None"]),
        (["--width", "32", "--over", "optimiser.learning_rate=0.01,inf"], ["use finite numbers"]),
        (["--width", "32", "--over", "optimiser.learning_rate=1..0"], ["a range goes from"]),
        (["--width", "32", "--over", "optimiser.learning_rate"], ["write FIELD=value"]),
        (["--width", "32", "--over", "model.width=64,128"], ["model.width is not tuned"]),
        (["--width", "32", "--seeds", "0"], ["seeds is 0"]),
        (["--width", "32", "--steps", "0"], ["steps is 0"]),
        (["--width", "32", "--halving", "7"], ["halving is 7: use 2 or 3"]),
        (["--width", "32", "--model.widht", "3"], ["did you mean 'model.width'?"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(command("sweep", "tiny", *words), *parts, code=2)
    assert not (tmp_path / "runs").exists()


def trials_of(plan: Plan, losses: dict[float, float]) -> list[Trial]:
    """Finished trials of a plan over one field, from the best down."""
    name = plan.axes[0].name
    made = [Trial({name: v}, plan.length, loss, (loss,)) for v, loss in losses.items()]
    return sorted(made, key=lambda trial: trial.loss)


def test_what_the_recipe_refuses_is_not_tried_beyond_the_edge(wide):
    plan = make_plan(wide, 32, ["optimiser.beta2=0.9,0.95,0.99"], steps=8)
    full = trials_of(plan, {0.9: 3.0, 0.95: 2.0, 0.99: 1.0})
    more, refused = _beyond(plan, full)
    assert more == []
    assert "beta2 is 1.03" in refused
    assert any(
        "the recipe refuses what follows (sweep: beta2" in w for w in _found(plan, full).warnings
    )
    low = trials_of(plan, {0.9: 1.0, 0.95: 2.0, 0.99: 3.0})
    assert _beyond(plan, low) == (pytest.approx([0.9 * (0.9 / 0.95) ** i for i in (1, 2)]), "")


def test_the_edge_is_that_of_the_whole_grid(wide):
    """The best of those that a halving left may be their last, and inside of the grid."""
    grid = [round(0.001 * 1.3**i, 6) for i in range(14)]
    plan = make_plan(wide, 32, [f"{RATE}={','.join(map(str, grid))}"], steps=8)
    inner = trials_of(plan, dict(zip(grid[5:8], (3.0, 2.0, 1.0), strict=True)))
    assert _beyond(plan, inner) == ([], "")
    found = _found(plan, inner)
    assert found.optimum is not None and found.optimum.edge == 0
    assert not any("largest that was tried" in w for w in found.warnings)
    assert any("cut short by the halving" in w for w in found.warnings)
    outer = trials_of(plan, dict(zip(grid[-3:], (3.0, 2.0, 1.0), strict=True)))
    assert len(_beyond(plan, outer)[0]) == 2


def test_whole_numbers_are_drawn_whole_and_a_refused_point_writes_nothing(wide, tmp_path, here):
    drawn = [point["batch"] for point in points(make_plan(wide, 32, ["batch=1..8"], steps=8))]
    assert all(type(value) is int for value in drawn)
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(1, 9))
    halves = replace(wide, batch=8, micro_batch=2)
    plan = make_plan(halves, 32, ["batch=2..8"], steps=8)
    with pytest.raises(WrongUse, match="micro_batch"):
        sweep(plan, tmp_path / "s", quiet)
    assert not (tmp_path / "s").exists()


def test_trials_have_folders_of_their_own():
    names = [_name({"data.corpus": value}, 0) for value in ("/x/a", "_x_a", "y" * 400, "y" * 401)]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 200


def test_every_grid_reaches_the_rate_that_is_transferred():
    """The narrow model's best lies outside of the grid that the wide one would grow by itself."""
    from maquette.experiments.rate_curves import Curve, _grown

    narrow = Curve((-2, -1), np.array([[2.0, 1.0]]))
    wide = Curve((-9, -8, -7, -6), np.array([[3.0, 2.0, 1.0, 2.0]]))
    curves = {("mup", 32, 2): narrow, ("mup", 64, 2): wide}
    grown = _grown(curves)
    assert grown[("mup", 32, 2)] == (-3, -2, -1)
    assert grown[("mup", 64, 2)] == tuple(range(-9, 0))
    assert narrow.grid_best in grown[("mup", 64, 2)]
