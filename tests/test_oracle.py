"""Oracles count what they read and know their own error; a fit finds the scene of a picture."""

import dataclasses

import numpy as np
import pytest
import torch

from maquette.base.errors import WrongUse
from maquette.base.statistics import wilson
from maquette.evaluation.oracle import Oracle, OracleScore, as_tensor
from maquette.evaluation.residual import acceptable, diversity, fit
from maquette.models.cnn_config import CNNConfig
from maquette.workshop.oracle import oracle_for, oracle_recipe, place_of
from maquette.worlds.draw import scenes
from maquette.worlds.render import render
from maquette.worlds.shapes import Shapes, label_sizes

SMALL = Shapes(objects=1, colours=2, shapes=2)


def untrained(world=SMALL, image_size=16):
    sizes = label_sizes(world)
    learned = tuple(i for i, n in enumerate(sizes) if n > 1)
    config = CNNConfig(
        image_size=image_size, width=8, depth=1, classes=tuple(sizes), labels=learned
    )
    return config.build().initialise(0)


class Knowing(Oracle):
    """Reads the pictures that it was shown, and all zeros from any other."""

    def __init__(self, world=None, image_size=16):
        world = world or Shapes()
        super().__init__(untrained(world, image_size), world, image_size)
        self.known: dict[bytes, list[int]] = {}

    def _clean(self, n, first=0):
        pictures, labels = super()._clean(n, first)
        self.known |= {p.tobytes(): row.tolist() for p, row in zip(pictures, labels, strict=True)}
        return pictures, labels

    def read(self, pictures):
        none = [0] * len(self.sizes)
        return np.array([self.known.get(np.ascontiguousarray(p).tobytes(), none) for p in pictures])


def test_a_score_counts_pictures_with_every_label_right():
    oracle = Knowing()
    pictures, labels = oracle._clean(40)
    wrong = labels.copy()
    wrong[:10, 0] = (wrong[:10, 0] + 1) % 6  # the first colour of ten, the relation of twenty
    wrong[:20, 4] = 1 - wrong[:20, 4]
    score = oracle.score(pictures, wrong)
    assert (score.right, score.n, score.error) == (20, 40, 0.0)
    assert (score.low, score.high) == wilson(20, 40)
    assert score.per_factor == {
        "colour 1": 0.75, "shape 1": 1.0, "colour 2": 1.0, "shape 2": 1.0, "relation": 0.5
    }  # fmt: skip
    assert str(score).startswith("50.0 % all right (20 of 40, 95 % interval 35.2 to 64.8; ")
    assert "misreads 0.0 % of clean pictures, chance is 0.09 %)" in str(score)
    assert score.to_dict()["share"] == 0.5


def test_an_oracle_that_reads_well_takes_nothing_else_for_right():
    checks = Knowing().check(n=600)
    assert checks.clean == 1 and checks.altered == 0
    for share in (checks.noise, checks.blank, checks.other):
        assert share <= 4 / 600  # 1 in 1,152 is expected
    assert checks.chance == 1 / 1152


def test_an_oracle_that_has_learned_nothing_knows_it():
    oracle = Oracle(untrained(), SMALL, 16)
    assert oracle.error > 0.5
    assert "chance is 25.00 %" in str(oracle.score(*oracle._clean(8)))


def test_reading_is_the_heads_most_likely_values():
    world = Shapes(objects=2, colours=3, shapes=2, relations=("above",))
    model = untrained(world)
    assert model.config.labels == (0, 1, 2, 3)  # a label with one value needs no head
    draw = torch.Generator().manual_seed(0)
    for p in model.heads.parameters():
        torch.nn.init.normal_(p, generator=draw)
    oracle = Oracle(model, world, 16)
    drawn = scenes(world, 0, np.arange(300))
    pictures = as_tensor(render(drawn, 16))
    read = oracle.read(pictures)
    logits = model(pictures)
    for column in range(4):
        np.testing.assert_array_equal(read[:, column], logits[column].argmax(1).numpy())
    assert (read[:, 4] == 0).all() and len(np.unique(read[:, :4])) > 2
    np.testing.assert_array_equal(read, oracle.read(render(drawn, 16)))  # as bytes
    loud = torch.where(pictures.abs() > 0.5, pictures.sign() * 3, pictures.sign())
    np.testing.assert_array_equal(oracle.read(loud), oracle.read(loud.clamp(-1, 1)))
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


def test_what_an_oracle_cannot_read():
    oracle = Oracle(untrained(), SMALL, 16)
    pictures, labels = oracle._clean(3)
    with pytest.raises(WrongUse, match="reads pictures of image_size 16, these are 32 by 32"):
        oracle.read(torch.zeros(2, 3, 32, 32))
    with pytest.raises(WrongUse, match=r"labels of shape \(2, 2\) for 3 pictures"):
        oracle.score(pictures, labels[:2])
    with pytest.raises(WrongUse, match="at least one picture"):
        oracle.score(pictures[:0], labels[:0])


def test_an_oracle_learns_colours_in_seconds(tmp_path):
    """Shapes take it more than ten times as long: their accuracy is of no interest here."""
    from maquette.models.store import load_model
    from maquette.workshop.train import train

    recipe = oracle_recipe(SMALL, 16, quick=True)
    rate = dataclasses.replace(recipe.optimiser, learning_rate=0.02)
    train(dataclasses.replace(recipe, steps=60, batch=32, optimiser=rate), tmp_path / "run")
    oracle = Oracle(load_model(tmp_path / "run"), SMALL, 16)
    score = oracle.score(*oracle._clean(400, 10_000))
    assert score.per_factor["colour"] > 0.97 and score.share <= score.per_factor["shape"]
    assert abs(1 - oracle.error - score.share) < 0.1


def test_one_oracle_for_all_splits_and_phrasings():
    held = dataclasses.replace(SMALL, held_out=1, phrasings=3, noise=0.1)
    assert oracle_recipe(held) == oracle_recipe(SMALL)
    assert Oracle(untrained(), held, 16).world == SMALL


def test_an_oracle_is_trained_once():
    said: list[str] = []
    first = oracle_for(SMALL, 16, quick=True, say=said.append)
    state = torch.random.get_rng_state()
    again = oracle_for(SMALL, 16, quick=True, say=said.append)
    assert len(said) == 1 and "oracle-" in said[0]
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    recipes = [oracle_recipe(w, s, quick=True) for w, s in
               ((SMALL, 16), (SMALL, 24), (Shapes(objects=1), 16))]  # fmt: skip
    assert len({place_of(r) for r in recipes}) == 3


def test_a_fit_finds_the_scene():
    world = Shapes(held_out=6, noise=0.2)  # which the fit does not look at
    drawn = scenes(Shapes(), 3, np.arange(40))
    found = fit(render(drawn), drawn.labels, world)
    assert found.psnr.min() > 50
    for name, most in (("x", 0.002), ("y", 0.002), ("radius", 0.002), ("background", 0.003)):
        a, b = getattr(found.scenes, name), getattr(drawn, name)
        assert abs(a - b)[..., :2].max() < most, name
    as_tensors = fit(as_tensor(render(drawn)), drawn.labels, world)
    np.testing.assert_allclose(as_tensors.psnr, found.psnr, atol=0.01)


def test_a_fit_of_three_textured_shapes():
    world = Shapes(objects=3, textures=3, sizes=True)
    drawn = scenes(world, 0, np.arange(12))
    assert fit(render(drawn, 64), drawn.labels, world).psnr.min() > 40


def test_the_residual_falls_with_blur_noise_and_other_labels():
    drawn = scenes(Shapes(), 0, np.arange(40))
    least = acceptable(Shapes(), n=40)
    assert 24 < least < 27  # noise of a twentieth of the range is 26 dB
    clean = fit(render(drawn), drawn.labels, Shapes()).psnr

    def median(**world):
        other = dataclasses.replace(drawn, world=Shapes(**world))
        return np.median(fit(render(other), drawn.labels, Shapes()).psnr)

    assert np.median(clean) > median(blur=1) + 10 > median(blur=4) + 15
    assert median(noise=0.4) < least < clean.min()
    shuffled = fit(render(drawn), np.roll(drawn.labels, 1, 0), Shapes()).psnr
    assert (shuffled < clean).all() and np.median(shuffled) < least


def test_diversity_is_one_for_the_world_and_zero_for_one_picture():
    labels = np.repeat([[0, 0, 2, 1, 0]], 120, 0)
    drawn = scenes(Shapes(), 0, np.arange(120), labels=labels)
    world = diversity(fit(render(drawn), labels, Shapes()).scenes)
    for share in (world.position, world.size, world.background, world.mean):
        assert 0.85 < share < 1.15
    same = np.repeat(render(drawn[:1]), 120, 0)
    assert diversity(fit(same, labels, Shapes()).scenes).mean < 1e-6
    with pytest.raises(WrongUse, match="two scenes"):
        diversity(drawn[:1])


@pytest.mark.parametrize("change", [{"backgrounds": "colour"}, {"counts": True},
                                    {"relations": ("inside",)}])  # fmt: skip
def test_worlds_that_cannot_be_fitted(change):
    with pytest.raises(WrongUse, match="grey backgrounds and shapes in rows"):
        fit(np.zeros((1, 16, 16, 3), np.uint8), [[0, 0, 0, 0, 0]], Shapes(**change))


def test_scores_are_plain_values():
    score = OracleScore(1, 2, 0.1, 0.9, 0.0, 0.5, {"colour": 0.5})
    assert set(score.to_dict()) == {
        "right", "n", "low", "high", "error", "chance", "per_factor", "share"
    }  # fmt: skip
