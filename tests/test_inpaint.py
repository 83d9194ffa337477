"""Inpainting and outpainting on denoisers whose answer is known in closed form."""

import pytest
import torch
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.evaluation.seam import background, drift, seam
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.drawing import Drawing
from maquette.nn.noise_schedule import Denoiser, NoiseSchedule
from maquette.serving.inpaint import Resampling, composite, fill, inpaint, renoise
from maquette.serving.solvers import times
from maquette.training.datasets.pictures import to_pixels, to_tensor

SCHEDULE = NoiseSchedule("cosine")
DDIM = times(10, SCHEDULE)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(schedule: NoiseSchedule = SCHEDULE, spread: float = 0.5) -> Denoiser:
    """The exact denoiser of pictures that are one level all over, the level normal: N(0, spread^2)."""

    def clean(x: Tensor, t: Tensor) -> Tensor:
        a, s = schedule.alpha(t).to(x.dtype), schedule.sigma(t).to(x.dtype)
        count = x[0].numel()
        mean = x.mean((1, 2, 3), keepdim=True)  # what the pixels say together of the level
        weight = a * spread**2 / (a**2 * spread**2 + s**2 / count)
        return (weight * mean).expand_as(x)

    return clean


def half(n: int = 2, image_size: int = 8) -> tuple[Tensor, Tensor]:
    """Random pictures of 256 levels, and a mask that knows their left half."""
    pixels = torch.randint(
        0, 256, (n, image_size, image_size, 3), generator=seeded(5), dtype=torch.uint8
    )
    known = torch.zeros(n, 1, image_size, image_size)
    known[..., : image_size // 2] = 1
    return to_tensor(pixels.numpy()), known


@pytest.mark.parametrize("method", ["replace", "repaint", "condition"])
@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm2m", "heun", "euler"])
@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_known_pixels_come_back_to_the_bit(method, solver, kind):
    picture, known = half()
    schedule = NoiseSchedule(kind)
    made = inpaint(
        flat(schedule), picture, known, schedule, times(6, schedule), method=method, solver=solver,
        resampling=Resampling(jump=2), generator=seeded(),
    )  # fmt: skip
    kept = known.bool().expand_as(picture)
    assert torch.equal(made[kept], picture[kept])
    assert not torch.equal(made[~kept], picture[~kept])
    before, after = to_pixels(picture), to_pixels(made)
    same = known[:, 0].bool().numpy()
    assert (before[same] == after[same]).all()
    assert torch.isfinite(made).all()


def test_all_256_levels_survive_the_way_to_the_model_and_back():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3).numpy()
    assert (to_pixels(to_tensor(levels)) == levels).all()


def test_the_hole_takes_the_level_of_what_is_known():
    """Of pictures of one level, what is known decides the hole; without it the level is any."""
    level = torch.tensor([-0.6, 0.1, 0.7])[:, None, None, None].expand(3, 3, 8, 8)
    known = torch.zeros(3, 1, 8, 8)
    known[..., :6] = 1
    grid = times(60, SCHEDULE)
    made = inpaint(
        flat(), level, known, SCHEDULE, grid, solver="ddpm", method="replace", generator=seeded()
    )
    alone = inpaint(
        flat(),
        level,
        0 * known,
        SCHEDULE,
        grid,
        solver="ddpm",
        method="replace",
        generator=seeded(),
    )
    assert (made[..., 6:] - level[..., 6:]).abs().mean() < 0.1
    assert (alone[..., 6:] - level[..., 6:]).abs().mean() > 0.2


def test_repaint_with_one_repeat_is_replacement():
    picture, known = half()
    every = {
        (method, repeats): inpaint(
            flat(), picture, known, SCHEDULE, DDIM, solver="ddpm", method=method,
            resampling=Resampling(repeats=repeats, jump=3), generator=seeded(),
        )
        for method, repeats in [("replace", 3), ("repaint", 1), ("repaint", 2)]
    }  # fmt: skip
    assert torch.equal(every["replace", 3], every["repaint", 1])
    assert not torch.equal(every["replace", 3], every["repaint", 2])


def test_repaint_asks_the_denoiser_repeats_times_as_often():
    picture, known = half()
    calls = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t))
        return flat()(x, t)

    inpaint(
        counted,
        picture,
        known,
        SCHEDULE,
        DDIM,
        solver="ddpm",
        method="repaint",
        resampling=Resampling(jump=4),
    )
    assert len(calls) == 30
    falls = [round(10 * t) for t in calls]
    assert falls == [10, 9, 8, 7] * 3 + [6, 5, 4, 3] * 3 + [2, 1] * 3


@pytest.mark.parametrize("kind", ["cosine", "linear", "flow"])
def test_renoising_gives_the_forward_process(kind):
    """Noise of time s taken up to t has the mean and the variance of time t."""
    schedule, picture = NoiseSchedule(kind), torch.full((1, 1, 200, 500), 0.5)
    s, t = torch.tensor(0.3), torch.tensor(0.7)
    x = schedule.mix(picture, torch.randn(picture.shape, generator=seeded()), s)
    up = renoise(x, s, t, schedule, seeded(1))
    assert float(up.mean()) == pytest.approx(0.5 * float(schedule.alpha(t)), abs=0.02)
    assert float(up.std()) == pytest.approx(float(schedule.sigma(t)), rel=0.02)


def test_composite_chooses_bytes_too():
    picture, known = half()
    pixels = torch.randint(0, 256, picture.shape, generator=seeded(), dtype=torch.uint8)
    other = 255 - pixels
    chosen = composite(other, pixels, known)
    assert chosen.dtype == torch.uint8
    kept = known.bool().expand_as(pixels)
    assert torch.equal(chosen[kept], pixels[kept]) and torch.equal(chosen[~kept], other[~kept])


def test_masks_that_cannot_be_meant_are_refused():
    picture, known = half()
    with pytest.raises(WrongUse, match=r"use \(2, 1, 8, 8\), 1 where known"):
        inpaint(flat(), picture, known[..., :4], SCHEDULE, DDIM, solver="ddim", method="replace")
    with pytest.raises(WrongUse, match="between 0 and 1"):
        inpaint(flat(), picture, 0.5 * known, SCHEDULE, DDIM, solver="ddim", method="replace")
    with pytest.raises(WrongUse, match="jump is 0"):
        Resampling(jump=0)


def model(task: str = "generate"):
    config = DiffusionConfig(
        image_size=16, width=16, depth=1, multipliers=(1, 2), attention=(), condition="text",
        vocabulary=12, caption_length=5, text_width=16, text_depth=1, heads=2, text_heads=2, task=task,
    )  # fmt: skip
    return config.build().initialise(0).eval()


@pytest.mark.parametrize("task", ["generate", "inpaint"])
def test_a_model_paints_around_known_pixels(task):
    picture, known = half(image_size=16)
    captions = torch.tensor([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]])
    drawing = Drawing(solver="ddpm", steps=3)
    made = fill(
        model(task), picture, known, drawing, conditions={"text": captions}, generator=seeded()
    )
    kept = known.bool().expand_as(picture)
    assert torch.equal(made[kept], picture[kept])


def test_a_model_says_what_it_cannot_paint():
    picture, known = half(image_size=16)
    with pytest.raises(WrongUse, match="not trained to inpaint"):
        fill(model(), picture, known, method="condition")
    small, mask = half(image_size=8)
    with pytest.raises(WrongUse, match="this model's are 16 x 16"):
        fill(model(), small, mask)


def test_a_seam_is_seen_and_none_is_not():
    """White noise has a ratio of 1 under any mask; pasted halves of two levels a large one."""
    noise = torch.randn(40, 3, 16, 16, generator=seeded())
    known = torch.zeros(1, 1, 16, 16)
    known[..., 4:12, 4:12] = 1
    found = seam(noise, known)
    assert found.low < 1 < found.high and found.ratio == pytest.approx(1, abs=0.1)
    assert seam(noise + 3 * known, known).ratio > 2
    rows = torch.arange(8.0).expand(1, 3, 8, 8)  # a slope has a seam nowhere
    assert seam(rows, known[..., :8, :8]).ratio == pytest.approx(1)


def test_background_is_read_beside_colours_and_drift_is_its_change():
    picture = torch.full((2, 3, 8, 24), 2 * 0.4 - 1)
    picture[1, :, :, 16:] += 2 * 0.1
    picture[:, 0, :5] = 1.0  # more than half is red
    assert background(picture[..., :8]).tolist() == pytest.approx([0.4, 0.4])
    assert drift(picture, 8).tolist() == pytest.approx([0.0, 0.1], abs=1e-6)


def test_the_hidden_box_holds_the_second_object_and_not_the_first():
    from maquette.systems.inpainting import without_object
    from maquette.worlds.draw import scenes
    from maquette.worlds.render import masks
    from maquette.worlds.shapes import Shapes

    drawn = scenes(Shapes(), 0, range(200), "heldout")
    hidden = without_object(drawn, 32, 1)[:, 0].numpy() == 0
    owner = masks(drawn, 32)
    assert hidden[owner == 2].all()
    assert hidden[owner == 1].mean() < 0.01
    assert 0.02 < hidden.mean() < 0.4


def test_fine_tuning_goes_on_from_a_run_with_channels_of_zero(tmp_path):
    """A tuned model begins as its base, whatever it is shown."""
    from dataclasses import replace

    from maquette.experiments.bases.text_to_picture import text_recipe
    from maquette.models.store import WEIGHTS, save_config, save_tensors
    from maquette.systems.inpainting import fine_tuning
    from maquette.training.initial_model import make_model

    recipe = text_recipe(quick=True)
    base = recipe.model.build().initialise(3).eval()
    save_config(tmp_path, base.config)
    save_tensors(tmp_path / WEIGHTS, dict(base.named_parameters()))
    tuned = make_model(fine_tuning(recipe, str(tmp_path), quick=True)).eval()
    assert replace(tuned.config, task="generate") == base.config
    picture, known = half(image_size=32)
    shown = tuned.condition(2, known_pixels=(picture, known))
    x, t = torch.randn(2, 3, 32, 32, generator=seeded()), torch.tensor(0.5)
    assert torch.allclose(
        tuned.denoiser(shown)(x, t), base.denoiser(base.condition(2))(x, t), atol=1e-5
    )
