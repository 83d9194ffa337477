"""Outpainting: windows cover the canvas, the picture stays, joint windows agree with each other."""

from dataclasses import replace

import pytest
import torch
from test_inpaint import SCHEDULE, flat, model, seeded
from torch import Tensor

from maquette.base.errors import WrongUse
from maquette.evaluation.seam import drift
from maquette.models.diffusion.drawing import AROUND
from maquette.nn.noise_schedule import Denoiser
from maquette.serving.inpaint import Resampling
from maquette.serving.outpaint import Sides, extend, lay_out, outpaint
from maquette.serving.solvers import times

GRID = times(8, SCHEDULE)


def of_flat(which, part: Tensor, mask: Tensor) -> Denoiser:
    return flat()


@pytest.mark.parametrize(
    "grows", [{"right": 24}, {"left": 5}, {"top": 3, "bottom": 9, "left": 1}, {"right": 7}]
)
@pytest.mark.parametrize("picture", [(8, 8), (8, 13), (12, 9)])
def test_windows_cover_everything_that_is_new(grows, picture):
    layout = lay_out(*picture, 8, Sides(**grows))
    covered = torch.zeros(1, 1, layout.height, layout.width)
    covered[..., layout.top : layout.top + picture[0], layout.left : layout.left + picture[1]] = 1
    for window, (y, x) in enumerate(layout.windows):
        assert 0 <= y <= layout.height - 8 and 0 <= x <= layout.width - 8
        part = layout.cut(covered, [window])
        assert part.shape == (1, 1, 8, 8)
        assert part.any() and not part.all(), "each window touches what is there, and adds to it"
        covered[layout.at(window)] = 1
    assert covered.all()


def test_half_of_a_window_is_the_last_one():
    assert lay_out(8, 8, 8, Sides(right=24)).windows == (
        (0, 4),
        (0, 8),
        (0, 12),
        (0, 16),
        (0, 20),
        (0, 24),
    )


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", ["replace", "repaint"])
def test_the_picture_stays_to_the_bit(joint, method):
    picture = torch.rand(2, 3, 8, 8, generator=seeded()) * 2 - 1
    layout = lay_out(8, 8, 8, Sides(right=10, top=3))
    made = outpaint(
        of_flat,
        picture,
        layout,
        SCHEDULE,
        GRID,
        solver="ddpm",
        joint=joint,
        method=method,
        generator=seeded(),
    )
    assert made.shape == (2, 3, 11, 18)
    assert torch.equal(made[:, :, 3:, :8], picture)
    assert made[:, :, :3].std() > 0


def test_joint_windows_are_the_denoiser_itself_where_it_looks_at_one_pixel():
    """A denoiser that treats every pixel alone says the same of a window and of the canvas."""
    from maquette.serving.outpaint import _joint

    def alone(x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x + 0.1

    for n in (1, 40):  # in one batch and in several
        layout = lay_out(8, 8, 8, Sides(right=15))
        canvas = torch.randn(n, 3, 8, 23, generator=seeded())
        joint = _joint(lambda w, p, m: alone, layout, canvas, torch.zeros(n, 1, 8, 23))
        new = (..., slice(8, None))
        said = joint(canvas, torch.tensor(0.5))
        assert torch.allclose(said[new], alone(canvas, torch.tensor(0.5))[new], atol=1e-6)


def test_the_exact_denoiser_loses_the_level_only_where_windows_do_not_hear_of_it():
    """Pictures of one level each. A chain of windows hands the level on, as far as its denoiser is
    exact; joint windows hear of it through their neighbours, the better the more often they ask."""
    picture = torch.linspace(-0.5, 0.5, 16)[:, None, None, None].expand(16, 3, 8, 8).clone()
    layout = lay_out(8, 8, 8, Sides(right=24))
    drifts = []
    for joint, repeats in ((False, 1), (True, 10), (True, 1)):
        made = outpaint(
            of_flat, picture, layout, SCHEDULE, times(20, SCHEDULE, spacing="log_snr"), joint=joint,
            method="repaint", resampling=Resampling(repeats=repeats, jump=2), solver="ddpm",
            generator=seeded(),
        )  # fmt: skip
        drifts.append(float(drift(made, 8).mean()))
    assert drifts[0] < 0.05 and drifts == sorted(drifts)
    assert drifts[2] > 2 * drifts[1]


@pytest.mark.parametrize("task", ["generate", "inpaint"])
@pytest.mark.parametrize("joint", [True, False])
def test_a_model_extends_with_one_caption_or_one_a_window(task, joint):
    picture = torch.rand(2, 3, 16, 16, generator=seeded()) * 2 - 1
    words = torch.tensor([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]])
    net, sides, drawing = model(task), Sides(left=8, right=16), replace(AROUND, steps=2)
    told = {"text": words}
    with torch.no_grad():  # at its start a model says nothing
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=seeded())

    def extended(given) -> Tensor:
        return extend(
            net, picture, sides, drawing, conditions=given, joint=joint, generator=seeded()
        )

    one, each = extended(told), extended([told] * 3)
    assert one.shape == (2, 3, 16, 40) and torch.equal(one, each)
    assert torch.equal(one[..., 8:24], picture)
    assert not torch.equal(one, extended([told, told, {"text": words.flip(0)}]))
    with pytest.raises(WrongUse, match="conditions of 2 windows: use one, or 3"):
        extended([told] * 2)


def test_what_cannot_be_extended_is_refused():
    with pytest.raises(WrongUse, match="use at least 0 everywhere"):
        Sides()
    with pytest.raises(WrongUse, match="use at least 0 everywhere"):
        Sides(right=9, left=-1)
    with pytest.raises(WrongUse, match="this model needs at least 8 x 8"):
        lay_out(6, 6, 8, Sides(right=9))
    with pytest.raises(WrongUse, match="overlap is 1"):
        lay_out(8, 8, 8, Sides(right=9), 1.0)
