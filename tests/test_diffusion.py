"""Diffusion: conditions through their three doors, guidance, tasks, learning, and whole runs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from maquette.base.errors import UserError
from maquette.experiments.bases.text_to_picture import text_recipe
from maquette.experiments.catalogue import recipe_named
from maquette.models.base import PictureBatch
from maquette.models.diffusion.conditioners import random_known
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.model import Diffusion
from maquette.models.registry import config_from
from maquette.nn.rules import Parametrisation
from maquette.serving.solvers import solve, times
from maquette.training.datasets.picture_config import PictureRecipe
from maquette.training.initial_model import make_model
from maquette.training.recipe import Checkpoints
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.train import train

RULES = Parametrisation(base_width=16, base_depth=1)
SIZES = {
    "image_size": 16,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "multipliers": (1, 2),
    "parametrisation": RULES,
}
TEXT = {"condition": "text", "vocabulary": 20, "caption_length": 6, "text_width": 16, "text_heads": 2,
        "text_depth": 1}  # fmt: skip
CLASS = {"condition": "class", "classes": (3, 4)}
CAPTIONS = torch.tensor([[3, 4, 5, 0, 0, 0], [7, 8, 0, 0, 0, 0], [1, 2, 3, 4, 5, 0]])
LABELS = torch.tensor([[0, 1], [2, 3], [1, 0]])


def make(**fields) -> Diffusion:
    """A model in which nothing is zero, as if it had been trained."""
    model = DiffusionConfig(**(SIZES | fields)).build().initialise(0)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p[p == 0] = 0.1 * torch.randn(int((p == 0).sum()))
    return model.eval()


def unit(n: int = 3, d: int = 8) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.nn.functional.normalize(torch.randn(n, d), dim=1)


def batch(n: int = 3) -> PictureBatch:
    torch.manual_seed(1)
    return PictureBatch(torch.rand(n, 3, 16, 16) * 2 - 1, CAPTIONS[:n], LABELS[:n], unit(n))


def noise(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(4))


HALF = torch.tensor(0.5)


def test_the_config_counts_its_parameters_and_comes_back_from_json():
    for fields in (
        TEXT,
        CLASS,
        {"embedding": 8, "task": "inpaint"},
        {"backbone": "dit", "patch": 4},
    ):
        config = DiffusionConfig(**(SIZES | fields))
        assert config.parameters() == sum(p.numel() for p in config.build().parameters())
        assert config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize("fields", [TEXT, CLASS, TEXT | {"backbone": "dit", "patch": 4}])
def test_a_condition_changes_the_picture_and_none_is_the_null(fields):
    model = make(**fields)
    given = {"text": CAPTIONS} if "caption_length" in fields else {"label": LABELS}
    with torch.no_grad():
        some = model.denoiser(model.condition(3, **given))(noise(), HALF)
        none = model.denoiser(model.condition(3))(noise(), HALF)
        assert float((some - none).abs().max()) > 1e-2
        empty = (
            {"text": torch.zeros(3, 6).long()}
            if "caption_length" in fields
            else {"label": LABELS * 0 - 1}
        )
        assert_close(model.denoiser(model.condition(3, **empty))(noise(), HALF), none)
        null = model.null(model.condition(3, **given))
        assert_close(model.denoiser(null)(noise(), HALF), none)


def test_captions_are_read_up_to_their_first_end():
    model = make(**TEXT)
    same = CAPTIONS.clone()
    same[0, 4], same[1, 3:] = 9, 9
    with torch.no_grad():
        a = model.denoiser(model.condition(3, text=CAPTIONS))(noise(), HALF)
        b = model.denoiser(model.condition(3, text=same))(noise(), HALF)
        assert_close(a, b)
        same[0, 2] = 9
        c = model.denoiser(model.condition(3, text=same))(noise(), HALF)
    assert float((a - c)[0].abs().max()) > 1e-3
    assert_close(a[1:], c[1:])


def test_a_caption_does_not_depend_on_its_neighbours():
    model = make(**TEXT)
    with torch.no_grad():
        whole = model.denoiser(model.condition(3, text=CAPTIONS))(noise(), HALF)
        for i in range(3):
            alone = model.denoiser(model.condition(1, text=CAPTIONS[i : i + 1]))(
                noise()[i : i + 1], HALF
            )
            assert_close(alone[0], whole[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fields", [TEXT, CLASS, TEXT | {"embedding": 8}])
def test_guidance_is_a_line_from_the_unconditional(fields):
    """Of the network's clean pictures before they are clipped."""
    model = make(**fields)
    given = {"text": CAPTIONS} if "caption_length" in fields else {"label": LABELS}
    if "embedding" in fields:
        given["embedding"] = unit()
    condition, x, t = model.condition(3, **given), noise(), torch.full((3,), 0.5)

    def clean(c) -> torch.Tensor:
        return model.process.denoised(x, t, model(x, t, c.joined()))

    with torch.no_grad():
        c, u = clean(condition), clean(model.null(condition))
        assert float((c - u).abs().max()) > 1e-3
        for w in (0.0, 1.0, 2.5):
            expected = (u + w * (c - u)).clamp(-1, 1)
            assert_close(model.denoiser(condition, w)(x, HALF), expected, atol=1e-4, rtol=1e-3)


def test_an_embedding_enters_the_vector_and_four_tokens():
    model = make(embedding=8, **TEXT)
    with torch.no_grad():
        without = model.condition(3, text=CAPTIONS).joined()
        given = model.condition(3, text=CAPTIONS, embedding=unit()).joined()
    assert given.tokens.shape[1] == 6 + 4 and bool(
        given.mask[:, -4:].all()
    )  # longest: five and the end
    assert float((given.vector - without.vector).abs().max()) > 1e-3
    assert_close(given.tokens[:, :-4], without.tokens[:, :-4])
    assert float((given.tokens - without.tokens)[:, -4:].abs().max()) > 1e-3
    only = make(embedding=8)
    assert only.condition(3, embedding=unit()).joined().tokens.shape == (3, 4, 64)


def test_conditions_are_joined_and_cut_by_rows():
    model = make(embedding=8, task="inpaint", **TEXT)
    known, mask = batch().pictures, random_known(3, 16, torch.device("cpu"))
    with torch.no_grad():
        c = model.condition(3, text=CAPTIONS, embedding=unit(), known_pixels=(known, mask))
        both = c.joined().beside(c.joined())
        cut, some = both.rows(3, 6), c.rows(1, 3)
    assert len(c) == 3 and len(some) == 2 and len(both.vector) == 6
    for name in ("vector", "tokens", "mask", "channels"):
        whole = getattr(c.joined(), name)
        assert torch.equal(getattr(cut, name), whole)
        assert torch.equal(getattr(some.joined(), name), whole[1:])


def test_inpainting_sees_the_known_pixels_and_nothing_of_the_hidden():
    model = make(task="inpaint")
    known, mask = batch().pictures, random_known(3, 16, torch.device("cpu"))
    other = torch.where(mask == 1, known, -known)
    with torch.no_grad():
        a = model.denoiser(model.condition(3, known_pixels=(known, mask)))(noise(), HALF)
        b = model.denoiser(model.condition(3, known_pixels=(other, mask)))(noise(), HALF)
        assert torch.equal(a, b)
        c = model.denoiser(model.condition(3, known_pixels=(known * 0.5, mask)))(noise(), HALF)
    assert float((a - c).abs().max()) > 1e-3


def test_a_task_starts_as_the_model_without_it():
    """Same seed, same other weights: the new channels' weights are 0."""
    for backbone in ({}, {"backbone": "dit", "patch": 4}):
        for task in ("inpaint", "upsample"):
            model = DiffusionConfig(**(SIZES | backbone), task=task).build().initialise(0)
            layer = getattr(model.backbone.input, "projection", model.backbone.input)
            picture = 3 * model.config.patch**2
            assert float(layer.weight[:, picture:].detach().abs().max()) == 0
            assert float(layer.weight[:, :picture].detach().abs().min()) > 0


def test_masks_hide_boxes_and_strokes_and_at_times_everything_or_nothing():
    torch.manual_seed(0)
    masks = random_known(2000, 32, torch.device("cpu"))
    assert masks.shape == (2000, 1, 32, 32)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    share = masks.mean((1, 2, 3))
    everything, nothing = float((share == 0).float().mean()), float((share == 1).float().mean())
    assert 0.07 < everything < 0.14 and 0.07 < nothing < 0.14
    partly = share[(share > 0) & (share < 1)]
    assert float(partly.min()) < 0.2 and float(partly.max()) > 0.9


@pytest.mark.parametrize("fields", [{}, {"path": "linear", "prediction": "noise"}, {"prediction": "picture"},
                                    {"path": "flow", "prediction": "velocity"}])  # fmt: skip
def test_the_loss_of_a_model_that_says_nothing_is_the_targets_power(fields):
    """At the start the output is 0: v and noise have power about 1, the picture its own."""
    model = DiffusionConfig(**(SIZES | fields)).build().initialise(0)
    pictures = (
        torch.rand(400, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )  # power 1/3
    torch.manual_seed(0)
    loss = model.loss(PictureBatch(pictures))
    power = {"noise": 1.0, "picture": 1 / 3, "velocity": 4 / 3}
    expected = power.get(model.config.prediction, 0.5 * (1 + 1 / 3))  # v: alpha^2 + sigma^2 / 3
    assert loss.count == 400
    assert abs(float(loss.value) / 400 - expected) < 0.02


def test_the_loss_is_a_sum_over_pictures_with_times_spread_over_the_batch():
    model = make()
    seen = []
    model.register_forward_hook(lambda m, a, o: seen.append(a[1]))
    pictures = batch()

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model.loss(pictures).value.detach())

    assert loss(0) == loss(0) != loss(1)
    for t in seen:
        assert bool(((t * 3).floor() == torch.arange(3)).all())


def test_conditions_are_left_out_in_training_alone():
    model = make(drop=0.999, **TEXT)
    gradients = []
    for training in (True, False):
        model.train(training)
        model.zero_grad()
        torch.manual_seed(3)
        model.loss(batch()).total.backward()
        gradients.append(
            float(model.conditioners["text"].encoder.embedding.weight.grad[3].abs().sum())
        )
    assert gradients[0] == 0 and gradients[1] > 0


def test_what_the_data_lacks_is_said():
    pictures = batch().pictures
    for fields, words in (
        (TEXT, "captions"),
        (CLASS, "label factors"),
        ({"embedding": 8}, "data.encoder"),
    ):
        with pytest.raises(UserError, match=words):
            make(**fields).loss(PictureBatch(pictures))


@pytest.mark.parametrize("fields", [
    {}, CLASS, {"task": "upsample", "scale": 4}, {"task": "inpaint"},
    {"path": "flow", "prediction": "velocity"}, {"backbone": "dit", "patch": 4, "width": 32},
])  # fmt: skip
def test_it_learns_two_pictures(fields):
    """Steps on two plain pictures: solvers then make one or the other, and a label says which."""
    config = DiffusionConfig(**(SIZES | {"image_size": 8, "drop": 0.0} | fields))
    model = config.build().initialise(0).train()
    level = torch.tensor([-0.6, 0.5])
    which = torch.arange(16) % 2
    pictures = level[which, None, None, None].expand(16, 3, 8, 8).contiguous()
    labels = torch.stack([which, which], 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    torch.manual_seed(0)
    for step in range(120):
        for group in optimiser.param_groups:  # a falling rate ends where it has learned
            group["lr"] = 4e-3 * min(1.0, 2 - step / 60)
        optimiser.zero_grad()
        (model.loss(PictureBatch(pictures, labels=labels)).total / 16).backward()
        optimiser.step()
    model.eval()
    given = {"label": labels[:2]} if config.classes else {}
    if config.task == "upsample":
        given["low_resolution"] = pictures[:2, :, :2, :2]
    if config.task == "inpaint":
        given = {"known_pixels": (pictures[:2], torch.ones(2, 1, 8, 8))}
    with torch.no_grad():
        condition = model.condition(2, **given)
    out = solve(
        "ddim",
        model.denoiser(condition),
        noise(2)[..., :8, :8],
        times(8, model.process.schedule),
        model.process.schedule,
    )
    found = out.mean((1, 2, 3))
    if given:
        assert_close(found, level, atol=0.25, rtol=0)
    else:
        assert float((found[:, None] - level).abs().min(1).values.max()) < 0.4


def test_a_gradient_passes_through_the_denoiser():
    """What guides by a gradient asks for it."""
    model, x = make(), noise().requires_grad_()
    model.denoiser(model.condition(3))(x, HALF).sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_pictures_made_do_not_depend_on_the_batch():
    model = make(**TEXT)
    with torch.no_grad():
        c = model.condition(3, text=CAPTIONS)
    whole = solve(
        "dpm2m",
        model.denoiser(c, 2.0),
        noise(),
        times(4, model.process.schedule),
        model.process.schedule,
    )
    with torch.no_grad():
        last = model.denoiser(c.rows(2, 3), 2.0)
    alone = solve(
        "dpm2m", last, noise()[2:], times(4, model.process.schedule), model.process.schedule
    )
    assert_close(alone[0], whole[2], atol=1e-3, rtol=1e-3)
    assert np.isfinite(whole.numpy()).all()


@pytest.fixture
def recipe() -> PictureRecipe:
    """A recipe of the catalogue at toy size."""
    return dataclasses.replace(text_recipe(quick=True), steps=6, checkpoints=Checkpoints(every=2))


def test_a_run_goes_on_where_it_was_cut_off(recipe, tmp_path):
    """Noise and times come from the step's number: stopped and resumed is the run in one go."""
    train(recipe, tmp_path / "whole")
    train(dataclasses.replace(recipe, stop=3), tmp_path / "parts")
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = (load_pictures(tmp_path / name) for name in ("whole", "parts"))
    assert [r["loss"] for r in whole.metrics] == [r["loss"] for r in parts.metrics]
    for (name, a), (_, b) in zip(
        whole.model.named_parameters(), parts.model.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_run_with_a_task_begins_with_one_without(recipe, tmp_path):
    """Its known pixels' channels are new and count nothing at first."""
    train(recipe, tmp_path / "base")
    base = load_pictures(tmp_path / "base").model
    started = dataclasses.replace(
        recipe,
        start=str(tmp_path / "base"),
        model=dataclasses.replace(recipe.model, task="inpaint"),
    )
    model = make_model(started).eval()
    x, t = torch.randn(2, 3, 32, 32), torch.full((2,), 0.5)
    mask = torch.ones(2, 1, 32, 32)
    with torch.no_grad():
        a = base(x, t, base.condition(2).joined())
        b = model(x, t, model.condition(2, known_pixels=(x.clamp(-1, 1), mask)).joined())
    assert_close(a, b)


@pytest.mark.parametrize(
    "name", ["diffusion", "diffusion-class", "diffusion-unconditional", "diffusion-dit"]
)
def test_the_catalogues_recipes_build(name):
    found = recipe_named(name)
    assert found.name == name
    assert 500_000 < found.model.parameters() < 1_200_000
    assert found.model.build().initialise(0).process.schedule.kind == "cosine"
