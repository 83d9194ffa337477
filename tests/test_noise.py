"""Random numbers belong to the row: the first of four is the one alone, picture or text."""

import functools
from dataclasses import replace
from pathlib import Path as File

import numpy as np
import pytest
import torch
from picture_runs import small, untrained
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from maquette.base.errors import WrongUse
from maquette.models.base import PictureBatch
from maquette.models.clip_config import ClipConfig
from maquette.models.diffusion.drawing import INVERSION, Drawing, PriorDrawing
from maquette.models.prior_autoregressive import AutoregressivePrior
from maquette.models.prior_config import PriorConfig
from maquette.nn.noise import draw, draw_exponential, generators
from maquette.nn.noise_schedule import NoiseSchedule
from maquette.serving import unclip
from maquette.serving.inpaint import Resampling, fill, inpaint, replacing
from maquette.serving.make import make_pictures
from maquette.serving.outpaint import Sides, extend, lay_out, outpaint
from maquette.serving.solvers import SOLVERS, solve, times
from maquette.serving.unclip import UnClip, embeddings
from maquette.training.datasets.picture_config import PictureData, PictureRecipe
from maquette.workshop import picture_generation
from maquette.workshop.load_pictures import LoadedPictures, load_pictures
from maquette.workshop.picture_request import Options

KINDS = ["cosine", "linear", "flow"]
CLOSE = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-3)
"""an eighth of a level: a batch of another size is summed in another order"""


def curved(x: Tensor, t: Tensor) -> Tensor:
    """A denoiser that looks at one pixel at a time: equal to the bit in a batch of any size."""
    return torch.tanh(1.3 * x) * (1 - 0.4 * float(t))


def picture(n: int, side: int = 6) -> Tensor:
    """n times one picture, of a number of pixels that is no multiple of 16."""
    return (
        torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1
    ).expand(n, -1, -1, -1)


def known(n: int, side: int = 6) -> Tensor:
    mask = torch.zeros(n, 1, side, side)
    mask[..., : side // 2] = 1
    return mask


def test_rows_of_any_count_and_stage_are_their_own():
    like = torch.zeros(5, 3, 5)
    for drawn in (draw, draw_exponential):
        whole = drawn(like, generators(7, 5))
        for n in (1, 2, 4):
            assert torch.equal(drawn(like[:n], generators(7, n)), whole[:n])
        assert torch.equal(drawn(like[3:], generators(7, 5)[3:]), whole[3:])
        assert len({float(row.flatten()[0]) for row in whole}) == 5
    first = [
        float(draw(like[:1], generators(s, 1, stage)).flatten()[0])
        for s, stage in [(0, 0), (1, 0), (0, 1), (2**64 - 1, 0)]
    ]
    assert len(set(first)) == 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_first_of_four_is_the_one_alone_in_every_solver(solver):
    schedule = NoiseSchedule()

    def made(n: int) -> Tensor:
        own = generators(5, n)
        noise = draw(torch.zeros(n, 3, 6, 6), own)
        return solve(solver, curved, noise, times(5, schedule), schedule, generator=own)

    whole = made(4)
    for n in (1, 2, 3):
        assert torch.equal(made(n), whole[:n])
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("method", ["replace", "repaint", "condition"])
def test_around_known_pixels(solver, method):
    schedule = NoiseSchedule()

    def made(n: int) -> Tensor:
        return inpaint(
            curved, picture(n), known(n), schedule, times(6, schedule), method=method, solver=solver,
            resampling=Resampling(jump=2),
            generator=generators(5, n),
        )  # fmt: skip

    whole = made(4)
    for n in (1, 3):
        assert torch.equal(made(n), whole[:n])
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("joint", [False, True])
def test_beside_a_picture_in_windows(joint):
    schedule, layout = NoiseSchedule(), lay_out(6, 6, 6, Sides(right=7, top=3))

    def made(n: int) -> Tensor:
        return outpaint(
            lambda which, part, mask: curved, picture(n), layout, schedule, times(4, schedule), joint=joint,
            solver="ddpm", method="repaint", resampling=Resampling(jump=2),
            generator=generators(5, n),
        )  # fmt: skip

    whole = made(3)
    for n in (1, 2):
        CLOSE(made(n), whole[:n])
    assert not torch.allclose(whole[0], whole[1])


def moved(config, seed: int = 0):
    model, own = config.build().initialise(seed).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=own)
        if isinstance(model, AutoregressivePrior):
            model.components.fit(torch.randn(20, D, generator=own))
    return model


@pytest.mark.parametrize("task", ["generate", "inpaint"])
def test_models_paint_extend_and_make_what_they_are_shown(task):
    words, model = torch.tensor([[3, 5] + [0] * 10]), moved(small(task=task))
    drawing = Drawing(solver="ddpm", steps=2, seed=4)

    def painted(n: int) -> Tensor:
        given = {"text": words.expand(n, -1)}
        return fill(model, picture(n, 16), known(n, 16), drawing, conditions=given)

    def extended(n: int) -> Tensor:
        given = {"text": words.expand(n, -1)}
        return extend(model, picture(n, 16), Sides(right=5), drawing, conditions=given)

    def made(n: int) -> Tensor:
        batch = PictureBatch(picture(n, 16), words.expand(n, -1))
        return make_pictures(model, batch, drawing)

    for way in (painted, extended, made):
        CLOSE(way(1), way(3)[:1])


D = 8


@pytest.fixture(scope="module")
def parts() -> UnClip:
    sizes = {"width": 16, "depth": 1, "heads": 2, "vocabulary": 27, "caption_length": 6}
    clip = moved(
        ClipConfig(image_size=16, embedding=D, text_width=16, text_depth=1, text_heads=2, **sizes)
    )
    decoder = moved(small(embedding=D, condition="none"))
    larger = moved(
        small(task="upsample", image_size=32, scale=2, multipliers=(1, 2, 2), condition="none")
    )
    prior = moved(PriorConfig(variant="diffusion", embedding=D, **sizes))
    return UnClip(clip, decoder, letters, prior, larger)


def letters(texts: list[str]) -> Tensor:
    return torch.tensor([([ord(c) % 26 + 1 for c in t[:5]] + [0] * 6)[:6] for t in texts])


def test_by_way_of_embeddings(parts):
    """Prior, decoder, upsampler; and variations with new noise."""
    texts = ["red", "blue", "red", "green"]
    ways = Drawing(steps=2, seed=2, solver="ddpm"), PriorDrawing(steps=2)
    whole = parts.generate(texts, *ways)
    CLOSE(parts.generate(texts[:1], *ways), whole[:1])
    assert not torch.allclose(whole[0], whole[2], atol=1e-3), "one caption, two pictures"
    shown = picture(1, 16)[0]
    there_and_back = replace(INVERSION, steps=2)
    whole = parts.variations(shown, 3, there_and_back)
    CLOSE(parts.variations(shown, 1, there_and_back), whole[:1])
    assert not torch.allclose(whole[0], whole[1], atol=1e-3)


@pytest.mark.parametrize("variant", ["diffusion", "autoregressive"])
def test_of_both_priors(variant, monkeypatch):
    config = PriorConfig(
        variant=variant, embedding=D, width=16, depth=1, heads=2, vocabulary=27, caption_length=6,
        components=4, buckets=16,
    )  # fmt: skip
    prior, texts = (
        moved(config),
        F.normalize(torch.randn(5, D, generator=torch.Generator().manual_seed(0))),
    )
    captions = letters(["red", "blue", "red", "green", "red"])

    def made(n: int) -> Tensor:
        drawing = PriorDrawing(candidates=3, steps=3, seed=3)
        return embeddings(prior, captions[:n], texts[:n], drawing)

    whole = made(5)
    for n in (1, 3):
        CLOSE(made(n), whole[:n])
    monkeypatch.setattr(unclip, "BATCH", 3)  # two captions at a time
    CLOSE(made(5), whole)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> LoadedPictures:
    recipe = PictureRecipe(model=small(), data=PictureData(image_size=16, caption_length=12))
    return load_pictures(untrained(tmp_path_factory.mktemp("runs") / "r", recipe))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[File, File]:
    folder = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(np.where(np.arange(16) < 6, 0, 255).astype(np.uint8)[None].repeat(16, 0)).save(
        folder / "m.png"
    )
    return folder / "a.png", folder / "m.png"


@pytest.mark.parametrize("way", ["ddpm", "dpm2m", "mask", "outpaint", "upsample"])
def test_a_request_of_one_is_the_first_of_many(loaded, files, way, monkeypatch):
    """To the level, whatever else is asked for and however much of it is made at a time."""
    options: dict[str, object] = {"solver": way} if way in SOLVERS else {}
    if way == "mask":
        options = {"picture": files[0], "mask": files[1]}
    if way == "outpaint":
        options = {"picture": files[0], "outpaint": {"right": 5}}
    if way == "upsample":
        larger = moved(small(task="upsample", image_size=32, scale=2, multipliers=(1, 2, 2)))
        run = LoadedPictures(loaded.path, larger, loaded.tokenizer)
        monkeypatch.setattr(picture_generation, "load_pictures", lambda path: run)
        options = {"upsample": "larger", "solver": "ddpm"}

    def made(*prompts: str, count: int = 1):
        return picture_generation.make(
            loaded, Options(prompts=prompts, count=count, steps=2, seed=5, **options).request()
        ).pixels.astype(int)

    red, blue = "a red circle", "a blue square"
    alone, four = made(red), made(red, count=4)
    assert np.abs(alone[0] - four[0]).max() <= 1
    assert np.abs(made(red, blue)[0] - alone[0]).max() <= 1
    assert np.abs(made(blue, red)[1] - four[1]).max() <= 1
    assert np.abs(four[0] - four[1]).max() > 1
    monkeypatch.setattr(picture_generation, "BATCH", 3)
    assert np.abs(made(red, count=4) - four).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["replace", "repaint"])
@pytest.mark.parametrize("way", ["whole", "windows", "joint"])
def test_known_pixels_are_noised_as_their_time_says(kind, method, way):
    """What a denoiser sees of them at time t has mean alpha(t) x and deviation sigma(t)."""
    schedule, level, n = NoiseSchedule(kind), 0.6, 400
    grid, seen = times(5, schedule), []
    shown = torch.full((n, 3, 6, 6), level)

    def asked(x: Tensor, t: Tensor, left: int = 0, of: int = 3) -> Tensor:
        if float(t) < 1:  # before the first step there is noise alone
            seen.append((t, x[..., left : left + of].double()))
        return torch.zeros_like(x)

    if way == "whole":
        inpaint(
            asked,
            shown,
            known(n),
            schedule,
            grid,
            solver="ddpm",
            method=method,
            resampling=Resampling(jump=2),
            generator=generators(0, n),
        )
    else:
        layout = lay_out(6, 6, 6, Sides(right=3))
        assert layout.windows == ((0, 3),) or layout.windows[0] == (0, 3)

        def denoiser(which, part, mask):
            return functools.partial(asked, left=0, of=3)

        outpaint(
            denoiser, shown, layout, schedule, grid, joint=way == "joint",
            solver="ddpm", method=method, resampling=Resampling(jump=2), generator=generators(0, n),
        )  # fmt: skip
    assert {round(float(t), 6) for t, _ in seen} == {round(float(t), 6) for t in grid[1:-1]}
    for t, x in seen:
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        assert float(x.mean()) == pytest.approx(alpha * level, abs=5 * sigma / x.numel() ** 0.5)
        assert float(x.std()) == pytest.approx(sigma, rel=5 / (2 * x.numel()) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_pasted_at_a_time_has_its_mean_and_its_deviation(kind):
    schedule, n = NoiseSchedule(kind), 300
    shown = torch.full((n, 3, 8, 8), 0.5)
    for t in (0.0, 0.2, 0.7, 1.0):
        put = replacing(shown, known(n, 8), schedule, generators(1, n))
        x = put(1, torch.tensor(t, dtype=torch.float64), torch.full_like(shown, 9.0))
        alpha, sigma = (
            float(f(torch.tensor(t, dtype=torch.float64))) for f in (schedule.alpha, schedule.sigma)
        )
        pasted, rest = x[..., :4].double(), x[..., 4:]
        assert (rest == 9).all()
        error = 5 * max(sigma, 1e-7) / pasted.numel() ** 0.5
        assert float(pasted.mean()) == pytest.approx(alpha * 0.5, abs=error + 1e-6)
        assert float(pasted.std()) == pytest.approx(sigma, rel=0.02, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_is_told_the_times_that_steps_lead_to(solver, kind):
    schedule = NoiseSchedule(kind)
    for grid in (times(5, schedule), times(4, schedule, start=0.8, spacing="log_snr")):
        told = []
        solve(
            solver, curved, torch.zeros(1, 3, 4, 4), grid, schedule,
            callback=lambda step, t, x, told=told: told.append((step, float(t))),
        )  # fmt: skip
        assert told == [(i + 1, float(t)) for i, t in enumerate(grid[1:])]
    if kind == "flow":
        with pytest.raises(WrongUse, match="use a start below 1"):
            times(5, schedule, spacing="log_snr")


def text_model():
    from maquette.models.config import DecoderConfig

    config = DecoderConfig(vocabulary=257, context=32, width=32, depth=1, heads=2)
    return moved(config)


def test_two_equal_prompts_of_a_batch_get_different_texts():
    """And each row its own, however many there are."""
    from maquette.corpus.tokenizer import byte_tokenizer
    from maquette.serving.generate import generate
    from maquette.serving.sampler import Sampling

    model, reader = text_model(), byte_tokenizer()

    def rows(n: int, seed: int = 3) -> list[list[int]]:
        sampling = Sampling(temperature=1.0, seed=seed)
        return [
            g.tokens for g in generate(model, reader, ["ab"] * n, tokens=12, sampling=sampling)[0]
        ]

    four = rows(4)
    assert len({tuple(row) for row in four}) == 4
    for n in (1, 2, 3):
        assert rows(n) == four[:n]
    assert rows(1, seed=4) != rows(1, seed=3)
