"""CLIP guidance against its formula, and GLIDE's claims at toy size."""

import numpy as np
import pytest
import torch

from maquette.base.errors import WrongUse
from maquette.models.clip_config import ClipConfig
from maquette.nn.noise_schedule import NoiseSchedule
from maquette.serving.clip_guidance import clip_guided

SCHEDULE = NoiseSchedule("cosine")


def make(**changes):
    settings = {
        "image_size": 16,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "noised": True,
        "vocabulary": 20,
    }
    text = {"caption_length": 6, "text_width": 32, "text_depth": 1, "text_heads": 2}
    model = ClipConfig(**(settings | text | changes)).build().initialise(0)
    return model.eval().requires_grad_(False)


def captions(n):
    drawn = torch.randint(1, 20, (n, 6), generator=torch.Generator().manual_seed(0))
    drawn[:, 4:] = 0
    return drawn


def grey(x, t):
    return torch.zeros_like(x)


@torch.no_grad()
def test_the_clean_picture_moves_by_the_gradient_of_the_logit():
    clip, text = make(), captions(3)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor(0.6, dtype=torch.float64)
    moved = clip_guided(grey, clip, text, SCHEDULE, 1e-3)(x, t)
    assert moved.dtype == x.dtype and not moved.requires_grad

    def logit(shown):
        fit = clip.embed_pictures(shown, t.float()) * clip.embed_captions(text)
        return clip.scale() * fit.sum(1)

    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    slope = (logit(x + 1e-2 * direction) - logit(x - 1e-2 * direction)) / 2e-2
    factor = 1e-3 * float(SCHEDULE.sigma(t) ** 2 / SCHEDULE.alpha(t))
    torch.testing.assert_close(
        (moved * direction).sum((1, 2, 3)), factor * slope, rtol=2e-2, atol=1e-6
    )


@torch.no_grad()
def test_each_picture_is_led_by_its_own_caption():
    clip, text = make(), captions(3)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor(0.5)
    together = clip_guided(grey, clip, text, SCHEDULE, 0.01)(x, t)
    for i in range(3):
        alone = clip_guided(grey, clip, text[i : i + 1], SCHEDULE, 0.01)(x[i : i + 1], t)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_no_scale_is_no_guidance_and_what_is_guided_is_clipped():
    clip, text = make(), captions(2)
    x = torch.randn(2, 3, 16, 16)
    assert (clip_guided(grey, clip, text, SCHEDULE, 0.0)(x, torch.tensor(0.5)) == 0).all()
    assert clip_guided(grey, clip, text, SCHEDULE, 1e6)(x, torch.tensor(0.5)).abs().max() == 1


def test_a_clip_of_clean_pictures_or_of_another_path_cannot_guide():
    with pytest.raises(WrongUse, match="sees no noise"):
        clip_guided(grey, make(noised=False), captions(2), SCHEDULE, 1.0)
    with pytest.raises(WrongUse, match="was trained on flow"):
        clip_guided(grey, make(path="flow"), captions(2), SCHEDULE, 1.0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Runs trained in this process: others would start longer than they train."""
    from maquette.experiments.lab import Lab
    from maquette.workshop.train import train

    def train_all(self, recipes, workers=None):
        paths = [tmp_path / f"run-{abs(hash(recipe))}" for recipe in recipes]
        for recipe, path in zip(recipes, paths, strict=True):
            train(recipe, path, resume=True)
        return paths

    monkeypatch.setattr(Lab, "train_all", train_all)
    return tmp_path


def measured(system, folder):
    from maquette.experiments.catalogue import select
    from maquette.experiments.lab import Lab
    from maquette.experiments.results import measure

    return {c.name: measure(c, Lab(1, quick=True), folder) for c in select([system])}


@pytest.mark.slow
def test_the_claims_of_clip_at_toy_size(here):
    results = measured("clip", here)
    assert set(results) == {"zero-shot", "retrieval", "binding", "sigmoid"}
    for name, result in results.items():
        assert 0 <= result.measured <= 1 or name == "sigmoid"
        assert (here / f"clip.{name}.png").exists()
    assert results["zero-shot"].details["share"]["n"] == 40
    assert results["retrieval"].details["chance"] == pytest.approx(1 / 1152)


@pytest.mark.slow
def test_the_claims_of_glide_at_toy_size(here):
    results = measured("glide", here)
    assert set(results) == {"guidance", "both", "upsampler"}
    shares = results["guidance"].details["all right"]
    assert {"w = 1", "w = 3", "CLIP, s = 1", "other captions"} <= set(shares)
    assert len(shares) == 7
    assert all(0 <= share <= 1 for share in shares.values())
    assert np.isfinite(results["upsampler"].details["PSNR (dB)"]["bicubic"])
    assert all((here / f"glide.{name}.png").exists() for name in results)
