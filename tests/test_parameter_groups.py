"""Groups of parameters: their rates, what is frozen until when, and that a run resumes amid them."""

from dataclasses import replace

import pytest
import torch
from conftest import command, refused, same_steps

from maquette.base.errors import WrongUse
from maquette.models.store import WEIGHTS, load_tensors
from maquette.training.initial_model import make_model
from maquette.training.optimiser import ModelOptimiser
from maquette.training.parameter_groups import freeze, group_of, only
from maquette.training.recipe import Optimiser, recipe_from
from maquette.training.run import RunDirectory
from maquette.workshop.train import train

GROUPS = (("blocks.1.*", 1.0, 0), ("blocks.0.*", 0.25, 5), ("output.*", 0.0, 0), ("norm.*", 1.0, 8))


def grouped(recipe, *groups, **changes):
    return replace(recipe, optimiser=replace(recipe.optimiser, groups=groups, **changes))


def test_the_first_pattern_that_matches_counts():
    assert group_of("blocks.0.up.weight", GROUPS) == GROUPS[1]
    assert group_of("embedding.weight", GROUPS) == ("*", 1.0, 0)
    assert group_of("heads.0.bias", only("heads.*"))[1] == 1.0
    assert group_of("blocks.0.bias", only("heads.*"))[1] == 0.0


def test_a_rate_factor_multiplies_what_the_role_gives(recipe):
    """After one step from the same gradients a parameter has moved by its factor of the plain step."""
    plain, scaled = (make_model(one) for one in (recipe, grouped(recipe, ("blocks.*", 0.25, 0))))
    before = {n: p.detach().clone() for n, p in plain.named_parameters()}
    for model, one in ((plain, recipe), (scaled, grouped(recipe, ("blocks.*", 0.25, 0)))):
        optimiser = ModelOptimiser(model, replace(one.optimiser, weight_decay=0.0))
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimiser.update(0.01)
    after = dict(scaled.named_parameters())
    for name, p in plain.named_parameters():
        factor = 0.25 if name.startswith("blocks.") else 1.0
        moved, full = after[name] - before[name], p - before[name]
        assert bool(full.any())
        assert torch.allclose(moved, factor * full, rtol=1e-3, atol=1e-7), name


def test_what_is_frozen_stays_until_its_step(recipe, tmp_path):
    """Bit for bit; and what has no gradient has no part in the norm."""
    start = dict(make_model(recipe).named_parameters())
    for stop, still in ((5, ("blocks.0.", "output.", "norm.")), (8, ("output.", "norm.")),
                        (12, ("output.",))):  # fmt: skip
        train(replace(grouped(recipe, *GROUPS), stop=stop), tmp_path / str(stop))
        for name, tensor in load_tensors(tmp_path / str(stop) / WEIGHTS).items():
            frozen = name.startswith(still)
            assert torch.equal(tensor, start[name]) is frozen, (stop, name)
    model = make_model(grouped(recipe, *GROUPS))
    optimiser = ModelOptimiser(model, grouped(recipe, *GROUPS).optimiser)
    counts = []
    for step in (1, 5, 6, 8, 9):
        optimiser.begin(step)
        counts.append(len(optimiser.trained))
    assert counts[0] == counts[1] < counts[2] == counts[3] < counts[4]


def test_resumed_amid_the_frozen_steps_is_the_uninterrupted_run(recipe, tmp_path):
    whole = grouped(recipe, *GROUPS, average=0.9)
    train(whole, tmp_path / "whole")
    for stop in (4, 6, 9, None):
        train(replace(whole, stop=stop), tmp_path / "parts", resume=stop != 4)
    runs = [RunDirectory(tmp_path / name).records() for name in ("whole", "parts")]
    for record in (*runs[0], *runs[1]):
        record.pop("heldout_loss", None)  # a run that stops is scored there
    same_steps(*runs)
    a, b = (load_tensors(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_groups_are_read_from_yaml_and_flags(recipe, tmp_path):
    wanted = grouped(recipe, *GROUPS)
    assert recipe_from(wanted.to_dict(), "here").optimiser.groups == GROUPS
    wanted.save(tmp_path / "r.yaml")
    said = command(
        "train", tmp_path / "r.yaml", "--run", tmp_path / "run", "--steps", 1,
        "--optimiser.groups", "output.*", 1, 0, "*", 0, 0, "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert RunDirectory(tmp_path / "run").recipe().optimiser.groups == only("output.*")


def test_groups_that_cannot_be_are_refused_in_one_line(recipe, tmp_path):
    recipe.save(tmp_path / "r.yaml")

    def flags(*groups):
        return command(
            "train", tmp_path / "r.yaml", "--run", tmp_path / "x", "--optimiser.groups", *groups
        )

    refused(flags("haeds.*", 1, 0), "no parameter is called haeds.*", code=2)
    refused(flags("*", 1, 3), "no parameter is trained at step 1", code=2)
    with pytest.raises(WrongUse, match="rate factor -1"):
        Optimiser(groups=(("*", -1.0, 0),))
    with pytest.raises(WrongUse, match="no parameter is trained at step 1"):
        freeze(make_model(recipe), (("*", 0.0, 0),))
    assert not (tmp_path / "x" / "recipe.yaml").exists()
