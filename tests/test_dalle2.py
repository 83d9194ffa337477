"""DALL-E 2 as a system: its recipes train, its runs work together, its claims run at toy size."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from maquette.base.errors import UserError
from maquette.experiments.bases.clip import clip_recipe
from maquette.experiments.bases.text_to_picture import text_recipe
from maquette.experiments.catalogue import recipe_named, select
from maquette.experiments.lab import Lab
from maquette.experiments.results import measure
from maquette.experiments.unclip_arms import ratio, spreads
from maquette.models.base import PictureBatch
from maquette.models.prior_autoregressive import AutoregressivePrior
from maquette.systems.dalle2 import decoder_recipe, prior_recipe
from maquette.training.run import RunDirectory
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.train import train
from maquette.worlds.draw import scenes
from maquette.worlds.shapes import Shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dalle2")


@pytest.fixture(scope="module")
def encoder(folder):
    """A CLIP of four steps."""
    train(clip_recipe(quick=True), folder / "clip")
    return folder / "clip"


def resumed(recipe, folder):
    """The losses of a run that was cut off and went on, and of one that was not."""
    train(recipe, folder / "whole")
    train(replace(recipe, stop=2), folder / "parts")
    train(replace(recipe, stop=None), folder / "parts", resume=True)
    return [[r["loss"] for r in RunDirectory(folder / n).records()] for n in ("whole", "parts")]


@pytest.mark.parametrize("variant", ["diffusion", "autoregressive"])
def test_a_prior_trains_and_resumes_bit_for_bit(variant, encoder, tmp_path):
    recipe = prior_recipe(encoder, quick=True, variant=variant)
    whole, parts = resumed(recipe, tmp_path)
    assert whole == parts and all(np.isfinite(whole))
    model = load_pictures(tmp_path / "parts").model
    if isinstance(model, AutoregressivePrior):  # the average of the weights has them, too
        basis = model.components.basis
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), rtol=0, atol=0.1)


def test_too_few_pictures_for_the_components_are_refused_before_the_start(encoder, tmp_path):
    recipe = prior_recipe(encoder, quick=True, variant="autoregressive")
    few = replace(recipe, micro_batch=8)
    with pytest.raises(UserError, match=r"8 components .* to 8 pictures at a time: .*-batch of 9"):
        train(few, tmp_path / "few")
    assert not (tmp_path / "few" / "recipe.yaml").exists()


def test_a_decoder_begins_with_the_text_model(encoder, tmp_path):
    base = text_recipe(quick=True)
    train(base, tmp_path / "text")
    recipe = decoder_recipe(encoder, tmp_path / "text", quick=True)
    assert recipe.steps <= base.steps
    train(replace(recipe, steps=1, optimiser=replace(recipe.optimiser, learning_rate=0.0)),
          tmp_path / "decoder")  # fmt: skip
    text, decoder = (load_pictures(tmp_path / name).model for name in ("text", "decoder"))
    assert torch.equal(text.backbone.input.weight, decoder.backbone.input.weight)
    assert list(text.conditioners) == ["text"] and list(decoder.conditioners) == ["embedding"]


def test_the_recipes_say_what_they_need():
    for name in ("dalle2-prior", "dalle2-prior-autoregressive", "dalle2-decoder"):
        recipe = recipe_named(name)
        assert recipe.data.encoder == "" and recipe.model.embedding == 64
        assert recipe.data.caption_length == clip_recipe().model.caption_length
    with pytest.raises(UserError, match="set data.encoder to a CLIP run"):
        model = recipe_named("dalle2-prior").model.build().initialise(0)
        model.loss(PictureBatch(torch.zeros(2, 3, 32, 32), torch.ones(2, 16, dtype=torch.int64)))


def test_a_spread_is_that_of_the_good_pictures_of_each_caption():
    world = Shapes()
    labels = np.repeat([[0, 0, 1, 1, 0], [2, 3, 4, 1, 1]], 40, axis=0)
    drawn = scenes(world, 0, np.arange(80), labels=labels)
    of = np.repeat([0, 1], 40)
    every = np.ones(80, bool)
    one = ("one", 1.0)
    assert spreads({one: drawn}, of, {one: every})[one] == pytest.approx([1.0, 1.0], abs=0.2)
    still = drawn[np.r_[np.zeros(40, int), np.arange(40, 80)]]  # the first caption's are all one
    found = spreads({one: still}, of, {one: every})[one]
    assert found[0] < 0.01 and found[1] > 0.8
    assert np.isnan(spreads({one: drawn}, of, {one: of == 1})[one][0])


def test_as_many_pictures_tell_each_systems_spread():
    """Few right pictures would have a smaller deviation than many of the same spread."""
    drawn = scenes(Shapes(), 0, np.arange(240), labels=np.repeat([[0, 0, 1, 1, 0]], 240, axis=0))
    of = np.repeat(np.arange(6), 40)
    few = np.arange(240) % 40 < 3
    keys = ("few", 1.0), ("many", 1.0)
    found = spreads(dict.fromkeys(keys, drawn), of, {keys[0]: few, keys[1]: np.ones(240, bool)})
    few_spread, many_spread = (float(found[key].mean()) for key in keys)
    assert few_spread == pytest.approx(many_spread, rel=0.2)
    alone = spreads({keys[1]: drawn}, of, {keys[1]: np.ones(240, bool)})[keys[1]].mean()
    assert alone > 1.2 * few_spread


def test_a_ratio_of_ratios_and_its_interval():
    draw = np.random.default_rng(0)
    plain = 1 + 0.05 * draw.standard_normal(40)
    mean, low, high = ratio(plain, 0.9 * plain, plain, 0.6 * plain)
    assert mean == pytest.approx(1.5) and low == pytest.approx(1.5) and high == pytest.approx(1.5)
    noisy = 0.6 * plain * (1 + 0.2 * draw.standard_normal(40))
    mean, low, high = ratio(plain, 0.9 * plain, plain, noisy)
    assert low < mean < high and high - low < 0.4
    lacking = noisy.copy()
    lacking[:39] = np.nan
    assert ratio(plain, 0.9 * plain, plain, lacking)[0] == pytest.approx(
        0.9 / (noisy[39] / plain[39])
    )
    assert ratio(plain, plain, plain, np.full(40, np.nan)) == (0.0, 0.0, 0.0)


@pytest.mark.slow
def test_the_claims_at_toy_size(folder, monkeypatch):
    def here(self, recipes, workers=None):
        """In this process: others would start longer than they train."""
        paths = []
        for recipe in recipes:
            text = json.dumps(recipe.to_dict(), sort_keys=True)
            path = folder / f"run-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
            train(recipe, path, resume=True)
            paths.append(path)
        return paths

    monkeypatch.setattr(Lab, "train_all", here)
    chosen = select(["dalle2"])
    assert {c.name for c in chosen} == {"prior", "autoregressive", "diversity"}
    results = {c.name: measure(c, Lab(1, quick=True), folder) for c in chosen}
    for name in ("prior", "autoregressive"):
        shares = results[name].details["all right"]
        assert all(0 <= share <= 1 for share in shares.values())
        assert results[name].details["pictures"] == 4
    assert set(results["prior"].details["all right"]) == {
        "prior", "text embedding", "other captions", "true picture's embedding",
    }  # fmt: skip
    arms = results["diversity"].details["arms"]
    assert {(arm["system"], arm["w"]) for arm in arms} == {
        ("unCLIP", 1.0), ("unCLIP", 4.0), ("GLIDE", 1.0), ("GLIDE", 4.0),
    }  # fmt: skip
    assert all(arm["diversity"] > 0 for arm in arms)
    for name in results:
        assert (folder / f"dalle2.{name}.png").stat().st_size > 1000
