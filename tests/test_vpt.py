"""The claims about prompts: what their numbers are made of, and that they run at toy size."""

import dataclasses
import math

import pytest
import torch

from maquette.base.statistics import Share, difference
from maquette.experiments.lab import Lab
from maquette.experiments.results import measure
from maquette.models.store import WEIGHTS, load_tensors
from maquette.systems import vpt
from maquette.training.initial_model import make_model
from maquette.workshop.adapt import columns
from maquette.workshop.load_pictures import load_pictures


@pytest.mark.slow
def test_the_first_claim_runs_at_toy_size(tmp_path):
    one = dataclasses.replace(vpt.deep_beats_linear, system="x")
    result = measure(one, Lab(seeds=1, quick=True), tmp_path)
    assert result.quick and result.interval[0] == result.measured
    assert (tmp_path / f"x.{one.name}.png").read_bytes()[:4] == b"\x89PNG"
    assert set(result.details["mean"]) == {*vpt.ARMS, vpt.RANDOM}


@pytest.mark.slow
def test_the_second_claim_about_prompts_trains_nothing_anew(tmp_path):
    """It reads the runs of the first, and its table is the same."""
    lab = Lab(seeds=1, quick=True)
    first = vpt.everything(lab)
    result = vpt.deep_beats_full.function(lab)
    assert result.details["tasks"] == vpt.plain(first)["tasks"]
    assert result.value in (0.0, 1.0)
    assert result.value == vpt.wins(first, "vpt-deep")


def test_a_mean_over_tasks_and_the_tasks_won():
    """One task alone has its own interval; halves of a difference over two tasks add as squares."""
    a, b = Share(90, 100), Share(70, 100)
    one = {"x": {"t": [a]}, "y": {"t": [b]}, "full": {"t": [b]}}
    assert vpt.mean_gap(one, "x", "y") == pytest.approx(difference(a, b))
    two = {name: {"t": tasks["t"], "u": tasks["t"]} for name, tasks in one.items()}
    value, low, high = vpt.mean_gap(two, "x", "y")
    middle, below, above = difference(a, b)
    assert value == pytest.approx(middle)
    assert value - low == pytest.approx((middle - below) / math.sqrt(2))
    assert high - value == pytest.approx((above - middle) / math.sqrt(2))
    assert vpt.wins(two, "x") == 1.0 and vpt.wins(two, "y") == 0.0  # as good is not better


def test_arms_are_what_the_paper_says(tmp_path):
    """Ten prompts before each of six blocks are 0.65 % of the backbone; the control has no start."""
    counted = vpt.counts()
    assert counted["linear"]["parameters"] == 0
    assert counted["vpt-deep"]["parameters"] == 6 * 10 * 128
    assert counted["vpt-shallow"]["parameters"] == 10 * 128
    assert counted["full"]["share"] == 1.0
    assert counted["vpt-deep"]["share"] <= vpt.MOST
    for name, (_, label, world) in vpt.TASKS.items():
        recipe = vpt.arm_of("vpt-deep", name, tmp_path)
        corpus = recipe.data.open_corpus()
        assert recipe.model.read == columns(corpus, (label,))
        assert recipe.data.count == 300 and recipe.data.world == world
        assert recipe.model.head_names()[0].startswith(name.replace(" ", "-"))


def test_the_control_is_a_frozen_backbone_that_was_never_trained():
    lab = Lab(seeds=1, quick=True)
    start = lab.train(vpt.backbone(True))
    random = dataclasses.replace(vpt.arm_of("vpt-deep", "size", start, 0, True), start="")
    path = lab.train(random)
    after, first = dict(load_pictures(path).model.named_parameters()), make_model(random)
    for name, p in first.named_parameters():
        assert torch.equal(p, after[name]) is not p.requires_grad, name
    base = load_tensors(start / WEIGHTS)
    assert not torch.equal(
        after["blocks.0.attention.qkv.weight"], base["blocks.0.attention.qkv.weight"]
    )
