"""Super-resolution: the moon world, the network, what measures it, and a whole run."""

import numpy as np
import pytest
import torch
from conftest import command, refused

from maquette.base.errors import WrongUse
from maquette.evaluation import psnr as psnr_module
from maquette.evaluation.psnr import psnr, restoration
from maquette.evaluation.swap import correlation, disagreement, inconsistency, swap_test
from maquette.models.base import PictureBatch
from maquette.models.diffusion.drawing import Drawing
from maquette.models.super_resolution import SuperResolution, degrade
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.nn.parametrisation import declared
from maquette.serving.make import make_pictures
from maquette.training.datasets.pictures import to_tensor
from maquette.worlds import moon

SMALL = SuperResolutionConfig(image_size=16, scale=4, width=8, depth=1)


def network(config: SuperResolutionConfig = SMALL) -> SuperResolution:
    return config.build().initialise(0).eval()


def disks(count: int = 4, image_size: int = 16, **settings) -> torch.Tensor:
    world = moon.Moon(**({"craters": 20} | settings))
    return to_tensor(moon.pictures(world, 0, np.arange(count), image_size=image_size))


# the world


def test_a_disk_is_a_function_of_its_number_alone():
    world, numbers = moon.Moon(), np.array([5, 2, 900])
    every = moon.pictures(world, 3, np.arange(1000), image_size=16)
    assert (moon.pictures(world, 3, numbers, image_size=16) == every[numbers]).all()
    assert every.shape == (1000, 16, 16, 3) and every.dtype == np.uint8
    for other in (moon.pictures(world, 4, numbers, image_size=16),
                  moon.pictures(world, 3, numbers, "heldout", image_size=16)):  # fmt: skip
        assert (other != every[numbers]).any((1, 2, 3)).all()


def test_the_share_that_shows_the_moon_shows_one_face():
    world = moon.Moon(memorised=0.4)
    scenes = moon.disks(world, 0, np.arange(5000))
    assert scenes.moon.mean() == pytest.approx(0.4, abs=0.03)
    assert (scenes.craters[scenes.moon] == moon.face(world)).all()
    assert len(np.unique(scenes.craters[~scenes.moon][:, 0, 0])) == (~scenes.moon).sum()
    held = moon.disks(world, 9, np.arange(50), "heldout")
    assert (held.craters[held.moon] == moon.face(world)).all(), "it is the same Moon everywhere"
    assert not moon.disks(moon.Moon(memorised=0), 0, np.arange(500)).moon.any()


def test_a_disk_is_its_plain_self_and_its_craters():
    world = moon.Moon(depth=0.2)
    scenes = moon.disks(world, 0, np.arange(3))
    light = moon.plain(scenes, 64) * (1 + moon.detail(scenes, 64))
    shown = moon.render(scenes, 64) / 255
    assert np.abs(shown[..., 0] - np.clip(light, 0, 1)).max() <= 0.5 / 255 + 1e-9
    assert (shown[..., 0] == shown[..., 2]).all()
    assert (moon.plain(scenes, 64)[:, 0] == 0).all(), "the sky is black"
    inside = moon.inside(scenes, 64)
    area = np.pi * (0.9 * 64 * scenes.geometry[:, 2]) ** 2
    assert inside.sum((1, 2)) == pytest.approx(area, rel=0.03)


def test_the_worlds_settings_are_checked():
    with pytest.raises(WrongUse, match="memorised is 2: use 0 to 1"):
        moon.Moon(memorised=2)
    with pytest.raises(WrongUse, match="at least 8 pixels"):
        moon.pictures(moon.Moon(), 0, np.arange(1), image_size=4)


# the network


def test_the_network_starts_as_the_bilinear_enlargement():
    small = torch.rand(2, 3, 4, 4) * 2 - 1
    wide = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    assert torch.equal(network()(small), wide)


def test_the_network_takes_any_size_and_says_what_it_does_not_take():
    assert network()(torch.zeros(1, 3, 5, 9)).shape == (1, 3, 20, 36)
    with pytest.raises(WrongUse, match=r"use \(n, 3, h, w\)"):
        network()(torch.zeros(3, 4, 4))
    with pytest.raises(WrongUse, match="use 20"):
        SuperResolutionConfig(image_size=18, scale=4)


def test_the_parameters_are_those_of_the_convolutions():
    w, s = 8, 4
    counted = (27 * w + w) + 2 * (9 * w * w + w) + (9 * w * 3 * s * s + 3 * s * s)
    assert SMALL.parameters() == counted == sum(p.tensor.numel() for p in declared(network()))


def test_degrading_keeps_the_mean_and_takes_the_detail():
    pictures = disks(image_size=32)
    plain = degrade(pictures, 4)
    assert plain.shape == (4, 3, 8, 8)
    assert torch.allclose(plain.mean((1, 2, 3)), pictures.mean((1, 2, 3)), atol=1e-5)
    blurred = degrade(pictures, 4, torch.full((4,), 3.0))
    assert blurred.var() < plain.var()
    with pytest.raises(WrongUse, match="cannot be made 3 times smaller"):
        degrade(pictures, 3)


def test_the_blur_is_kornias():
    from kornia.filters import gaussian_blur2d

    pictures = disks(image_size=32)
    theirs = gaussian_blur2d(pictures, (11, 11), (1.5, 1.5), border_type="replicate")
    ours = degrade(pictures, 1, torch.full((4,), 1.5))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("error", ["absolute", "squared"])
def test_the_loss_counts_pictures_and_training_lowers_it(error):
    torch.manual_seed(0)
    model = SuperResolutionConfig(image_size=16, scale=4, width=16, depth=1, error=error, blur=0.0)
    net = model.build().initialise(0)
    batch = PictureBatch(disks(8))
    first = net.loss(batch)
    assert first.count == 8
    each = [net.loss(PictureBatch(one[None])).value for one in batch.pictures]
    assert float(first.value) == pytest.approx(float(sum(each)), rel=1e-5)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimiser.zero_grad()
        net.loss(batch).total.backward()
        optimiser.step()
    assert net.loss(batch).value < 0.9 * first.value


# what measures it


def test_psnr_is_kornias_and_that_of_a_known_error():
    from kornia.metrics import psnr as kornias

    a, b = disks(), disks().flip(-1)
    ours = psnr(a, b)
    theirs = [float(kornias(x, y, 2.0)) for x, y in zip(a, b, strict=True)]
    assert ours.tolist() == pytest.approx(theirs, abs=1e-3)
    assert psnr(a, a + 0.02).tolist() == pytest.approx([40.0] * 4, abs=1e-3)
    with pytest.raises(WrongUse):
        psnr(a, b[:2])
    enlarged = restoration(network(), disks(image_size=16))
    assert enlarged["network"] == pytest.approx(enlarged["bilinear"])


def test_pictures_go_where_the_network_is_so_many_at_a_time(monkeypatch):
    """On "meta" everything has a place and no numbers: a network there refuses pictures from here."""
    there = network().to("meta")
    assert make_pictures(there, PictureBatch(disks()), Drawing()).device.type == "meta"
    pictures, most = disks(5), []
    net = network()
    whole = restoration(net, pictures, 1.0)
    net.register_forward_hook(lambda _, given, made: most.append(len(given[0])))
    monkeypatch.setattr(psnr_module, "BATCH", 2)
    assert restoration(net, pictures, 1.0) == pytest.approx(whole)
    assert most == [2, 2, 1]


def test_correlation_is_numpys():
    a, b = disks(3), disks(3).flip(-1)
    mask = (torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) > 0.3).float()
    for i, value in enumerate(correlation(a, b, mask)):
        inside = mask[i, 0].bool()
        known = np.corrcoef(a[i].mean(0)[inside], b[i].mean(0)[inside])[0, 1]
        assert float(value) == pytest.approx(known, abs=1e-6)


class Memory(SuperResolution):
    """Gives one known picture back whenever the small one looks a little like it."""

    def __init__(self, picture: torch.Tensor, looks: float = -1.0) -> None:
        super().__init__(SMALL)
        self.initialise(0)
        self.picture, self.looks = picture, looks

    def forward(self, small: torch.Tensor) -> torch.Tensor:
        wide = super().forward(small)
        known = degrade(self.picture[None], 4).expand_as(small)
        flat = torch.corrcoef(torch.stack([small.flatten(), known.flatten()]))[0, 1]
        return self.picture.expand_as(wide) if flat > self.looks else wide


def test_the_swap_test_finds_a_memory_and_clears_a_lens():
    """One who answers with the original whatever he sees is caught; one who enlarges is not."""
    picture = disks(1, memorised=1.0)
    originals = picture.expand(4, -1, -1, -1)
    inside = moon.inside(moon.disks(moon.Moon(memorised=1.0), 0, np.arange(1)), 16, 0.8)
    mask = torch.from_numpy(inside).float()[:, None]
    caught = swap_test(Memory(picture[0]), originals, mask=mask)
    assert caught.original == pytest.approx(1, abs=1e-4)
    assert caught.pull > caught.shared and caught.low > 0.2
    honest = swap_test(network(), originals)
    assert honest.gap == pytest.approx(0, abs=1e-4)
    with pytest.raises(WrongUse, match="at least 2"):
        swap_test(network(), originals[:1])


def test_networks_that_remember_disagree_where_they_invent():
    picture = disks(1, memorised=1.0)
    small = degrade(picture, 4)
    assert disagreement([network(), network()], small).max() == 0
    assert disagreement([network(), Memory(picture[0])], small).max() > 0.05
    with pytest.raises(WrongUse, match="at least 2 runs"):
        disagreement([network()], small)
    assert inconsistency(Memory(picture[0]), picture) == pytest.approx(0, abs=1e-4)


# a whole run


@pytest.mark.slow
def test_the_claims_run_at_toy_size():
    from maquette.experiments.catalogue import systems
    from maquette.experiments.lab import Lab

    claims = systems()["super_resolution"].claims
    assert set(claims) == {"moon", "without-moon", "swap", "pull", "consistency"}
    for claim in claims.values():
        found = claim.function(Lab(seeds=1, quick=True))
        assert np.isfinite(found.value) and np.isfinite(found.control)
        assert found.chart is not None


def test_a_run_is_trained_and_resumed_by_the_ordinary_commands(tmp_path):
    run = tmp_path / "sr"
    said = command(
        "train", "fake-moon", "--run", run, "--steps", "4", "--batch", "4", "--model.width", "8",
        "--model.depth", "1", "--model.image-size", "32", "--data.image-size", "32", "--watch.pictures", "8",
        "--compile", "off",
    )  # fmt: skip
    assert said.code == 0, said.err
    from maquette.workshop.load_pictures import load_pictures

    loaded = load_pictures(run)
    assert loaded.model(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    refused(
        command("train", "fake-moon", "--run", tmp_path / "b", "--model.image-size", "30"),
        "scale 4",
    )
    from PIL import Image

    Image.fromarray(np.zeros((9, 20, 3), np.uint8)).save(tmp_path / "small.png")
    said = command(
        "generate",
        run,
        "--picture",
        tmp_path / "small.png",
        "--out",
        tmp_path / "large.png",
        "--json",
    )
    assert (said.json["width"], said.json["height"]) == (80, 36), "the whole picture, 4 times"
