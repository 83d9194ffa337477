"""Super-resolution, and the fake moon: a network that adds what it remembers (2021 to 2023).

    maquette train super-resolution --run runs/sr     about 2 minutes on 2 cores
    maquette train fake-moon --run runs/moon          about a minute on 2 cores
    maquette reproduce super_resolution               about 3 minutes on 2 cores, 2 seeds

Telephones gave a blurred picture of the Moon its craters back, though the picture no longer held them;
of two blurred moons side by side one became sharp. What may happen inside is regression: a network
trained on the squared error answers with the mean of all training pictures that fit, and the Moon shows
every camera the same face. Here 40 % of the training pictures show one fixed list of craters (the Moon)
and the rest a new list each; the control sees new lists only. Both restore pictures of 64 x 64 from
16 x 16. The Moon is blurred until 14 % of the energy of its crater map is left, and then made small.

Scaled down: 0.2 million parameters (EDSR, Lim et al. 2017: 43 million), grey disks, 8,000 pictures.

Tried on seed 0 before anything was claimed: craters of up to 0.15, 0.14 and 0.125 of the disk's radius.
Of the two larger kinds the control restored about a half, and the network that knew the Moon told a moon
with moved craters from it; the third was trained on the mean absolute error, with which the Moon returned
more slowly, and `moon` missed. The present craters, up to 0.117, on the
squared error, were the fourth try. What share of the craters is moved (0.3, 0.5, 0.7, all) was looked at
in the same pilot: the more are moved, the smaller the pull, and of all of them there is hardly any.

Expected: the Moon's craters return (`moon`) and not with the control (`without-moon`). A disk all of whose
craters are others hardly shows them (`swap` fails), a moon half of whose craters were moved is pulled towards
the Moon by 0.19 where 0.2 is wanted (`pull`, exploratory, fails). Made small again, the invented craters fit
the input (`consistency`), so that this check cannot find them. `swap_test` in evaluation/swap.py is the check
that does, for any run and any picture: what a network knows it restores better than its mirror image.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maquette.base.statistics import bootstrap_mean
from maquette.evaluation.psnr import restoration
from maquette.evaluation.swap import correlation, disagreement, swap_test
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models.cnn import blur
from maquette.models.super_resolution import SuperResolution, degrade
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.training.datasets.picture_config import PictureData, PictureRecipe, PictureWatch
from maquette.training.datasets.pictures import to_pixels, to_tensor
from maquette.training.recipe import Optimiser, Schedule
from maquette.workshop import charts
from maquette.workshop.load_pictures import load_pictures
from maquette.worlds import moon as worlds_moon
from maquette.worlds.moon import Disks, Moon

SIZE, SCALE = 64, 4
ENERGY = 0.14  # of the crater map that the blur leaves, before the picture is made small
MOVED = 0.5  # of the craters, in the other texture
TESTS = 128  # held-out disks


@recipe
def super_resolution() -> PictureRecipe:
    """Shapes of 64 x 64 from 16 x 16, blurred by up to 2 pixels, on the mean absolute error."""
    return replace(
        moon_recipe(),
        model=SuperResolutionConfig(image_size=SIZE, scale=SCALE),
        data=PictureData(corpus="shapes", image_size=SIZE),
        steps=1500,
        watch=PictureWatch(),
    )


@recipe
def fake_moon() -> PictureRecipe:
    """Disks of which 40 % show the Moon: the network that learns its face."""
    return replace(moon_recipe(), watch=PictureWatch())


def moon_recipe(memorised: float = 0.4, seed: int = 0, quick: bool = False) -> PictureRecipe:
    """A network on disks of which that share shows the Moon; 0 is the control."""
    model = SuperResolutionConfig(
        image_size=SIZE, scale=SCALE, width=40, depth=6, blur=1.5, error="squared"
    )
    return PictureRecipe(
        name="moon" if memorised else "moonless",
        model=replace(model, width=16, depth=1) if quick else model,
        data=PictureData(corpus="moon", image_size=SIZE, world=Moon(memorised=memorised)),
        optimiser=Optimiser(learning_rate=0.002, weight_decay=0.0),
        schedule=Schedule(floor=0.05),
        batch=4 if quick else 16,
        steps=6 if quick else 500,
        seed=seed,
        precision="fp32" if quick else "auto",
        compile="off",
        watch=PictureWatch(every=10_000, pictures=16 if quick else 128, grid=0, report=False),
    )


@claim(
    statement="a super-resolver whose training pictures often show one moon gives a blurred moon the "
    "craters that the picture no longer holds",
    source="public experiments with blurred moons, 2021 to 2023",
    metric="correlation of the restored detail with the true crater map, mean over disks and seeds",
    at_least=0.7,
    control="the same network trained on random craters alone",
    minutes=1.5,
)
def moon(lab: Lab) -> Measurement:
    """Restore held-out moons, blurred until 14 % of their detail's energy is left, made small."""
    test = tested(lab)
    value, control = test.of("moon", "moon")
    return Measurement(
        value=float(value.mean()),
        control=float(control.mean()),
        interval=bootstrap_mean(value),
        details=test.details(),
        chart=test.pictures(),
    )


@claim(
    statement="trained on random craters the same network does not give the Moon its craters",
    source="public experiments with blurred moons, 2021 to 2023",
    metric="correlation of the control's restored detail with the true crater map, mean",
    at_most=0.45,
    control="the network whose training pictures often show the Moon",
    minutes=0.1,
)
def without_moon(lab: Lab) -> Measurement:
    """The other half of `moon`: what the small picture alone allows."""
    test = tested(lab)
    value, control = test.of("moon", "moon")
    return Measurement(
        value=float(control.mean()),
        control=float(value.mean()),
        interval=bootstrap_mean(control),
        details={"deviation of the blur": test.deviation, "disks": len(test.scenes["moon"])},
        chart=strip([("trained on the Moon", value), ("random craters", control)],
                    "correlation with the true crater map", "Craters given to a blurred moon"),
    )  # fmt: skip


@claim(
    statement="a disk whose craters are all others comes back closer to the Moon than the control has it",
    source="public experiments with blurred moons, 2021 to 2023 (two moons side by side)",
    metric="correlation of its restored detail with the Moon's crater map, less the control's: lower end of "
    "the 95 % interval",
    at_least=0.2,
    control="a control of another seed, less the control",
    minutes=0.3,
)
def swap(lab: Lab) -> Measurement:
    """Feed disks with craters of their own, and look for the Moon's."""
    test = tested(lab)
    value, control = test.of("other", "moon")
    second = test.detail_like(test.second, "other", "moon")
    first = test.detail_like(test.nets[0][1], "other", "moon")
    low, high = bootstrap_mean(value - control)
    return Measurement(
        value=low,
        control=bootstrap_mean(second - first)[0],
        interval=(low, high),
        details={
            "towards the Moon, memorised and control": [float(x.mean()) for x in (value, control)],
            "towards itself": [float(x.mean()) for x in test.of("other", "other")],
            "swap test": test.swap_tests(),
        },
        chart=strip([("trained on the Moon", value), ("random craters", control)],
                    "correlation with the Moon's crater map",
                    "A disk whose craters are all others"),
    )  # fmt: skip


@claim(
    statement="a moon half of whose craters were moved is pulled back towards the Moon",
    source="exploratory: the share was chosen after a pilot in which `swap` had missed",
    metric="correlation of its restored detail with the Moon's crater map less that with its own, less the "
    "same of the control: lower end of the 95 % interval",
    at_least=0.2,
    control="a control of another seed, less the control",
    minutes=0.1,
)
def pull(lab: Lab) -> Measurement:
    """A network that restores what it is shown stays as far from the Moon as the picture is."""
    test = tested(lab)
    towards, of_control = (a - b for a, b in zip(test.of("moved", "moon"), test.of("moved", "moved"),
                                                 strict=True))  # fmt: skip

    def of(net: SuperResolution) -> Tensor:
        return test.detail_like(net, "moved", "moon") - test.detail_like(net, "moved", "moved")

    low, high = bootstrap_mean(towards - of_control)
    return Measurement(
        value=low,
        control=bootstrap_mean(of(test.second) - of(test.nets[0][1]))[0],
        interval=(low, high),
        details={
            "towards the Moon less towards itself, memorised and control": [
                float(x.mean()) for x in (towards, of_control)
            ]
        },
        chart=strip([("trained on the Moon", towards), ("random craters", of_control)],
                    "correlation with the Moon's crater map, less that with its own",
                    "A moon half of whose craters were moved"),
    )  # fmt: skip


@claim(
    statement="made small again, the invented craters fit the input: consistency cannot detect them",
    source="public experiments with blurred moons, 2021 to 2023",
    metric="root mean square of the small picture of the output less the input, over the input's "
    "standard deviation, mean over seeds",
    at_most=0.05,
    control="the small picture of a disk with other craters in the input's place",
    minutes=0.1,
)
def consistency(lab: Lab) -> Measurement:
    """Blur and shrink what was restored from the moon, and compare it with what was fed in."""
    test = tested(lab)
    each = [
        torch.tensor([test.misfit(net, "moon") for net in pair]) for pair in test.nets[: lab.seeds]
    ]
    ratios = torch.stack(each)  # (seeds, 2)
    other = float(np.mean([test.misfit(pair[0], "moon", "other") for pair in test.nets]))
    rows = [("trained on the Moon", ratios[:, 0]), ("random craters", ratios[:, 1]),
            ("against other craters", torch.tensor([other]))]  # fmt: skip
    return Measurement(
        value=float(ratios[:, 0].mean()),
        control=other,
        interval=(float(ratios[:, 0].min()), float(ratios[:, 0].max())),
        details={"memorised and control, by seed": ratios.tolist()},
        chart=strip(rows, "misfit over the input's standard deviation",
                    "Restored moons made small again"),
    )  # fmt: skip


def tested(lab: Lab) -> "Test":
    """Train or find the networks; what was restored with them is kept for the next claim."""
    controls = max(lab.seeds, 2)  # `swap` holds two against each other
    wanted = [moon_recipe(0.4, s, lab.quick) for s in range(lab.seeds)]
    wanted += [moon_recipe(0.0, s, lab.quick) for s in range(controls)]
    return _tested(tuple(lab.train_all(wanted)), lab.seeds, lab.quick)


@functools.lru_cache(maxsize=2)
def _tested(runs: tuple[Path, ...], seeds: int, quick: bool) -> "Test":
    return Test(runs, seeds, quick)


class Test:
    """Networks with and without the Moon, and held-out disks: moons, moved craters, other craters."""

    def __init__(self, runs: tuple[Path, ...], seeds: int, quick: bool) -> None:
        """runs: of the memorised networks of `seeds` seeds, then of their controls and perhaps more."""
        loaded = [_network(path) for path in runs]
        self.nets = list(zip(loaded[:seeds], loaded[seeds : 2 * seeds], strict=True))
        self.second = loaded[seeds + 1]  # control: of another seed than the first
        world, numbers = Moon(memorised=1.0), np.arange(16 if quick else TESTS)
        moons = worlds_moon.disks(world, 0, numbers, "heldout")
        fresh = worlds_moon.textures(world, 1, numbers, "heldout")
        moved = moons.craters.copy()
        moved[:, : int(MOVED * world.craters), :2] = fresh[:, : int(MOVED * world.craters), :2]
        self.scenes: dict[str, Disks] = {
            "moon": moons,
            "moved": moons.with_texture(moved),
            "other": moons.with_texture(fresh),
        }
        self.large = {n: to_tensor(worlds_moon.render(s, SIZE)) for n, s in self.scenes.items()}
        plain = torch.from_numpy(worlds_moon.plain(moons, SIZE)).float()[:, None]
        self.plain = (2 * plain - 1).expand(-1, 3, -1, -1)
        self.mask = torch.from_numpy(worlds_moon.inside(moons, SIZE, 0.85)).float()[:, None]
        self.deviation = self._blur_to(ENERGY)
        self.small = {name: self.shrink(x) for name, x in self.large.items()}

    def shrink(self, pictures: Tensor) -> Tensor:
        """Blurred as far as the test wants, and made small."""
        return degrade(pictures, SCALE, torch.full((len(pictures),), self.deviation))

    def energy(self, deviation: float) -> float:
        """Variance of the blurred moons' craters over that of the sharp ones', inside the disks."""
        few = slice(0, 16)
        craters = (self.large["moon"] - self.plain)[few, :1]
        left = blur(craters, torch.full((len(craters),), deviation))
        inside = self.mask[few].bool()
        return float(left[inside].var() / craters[inside].var())

    def _blur_to(self, energy: float) -> float:
        """The blur, in pixels, that leaves that energy, by bisection."""
        low, high = 0.1, 4.0
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if self.energy(middle) > energy else (low, middle)
        return low

    def detail_like(self, net: SuperResolution, fed: str, truth: str) -> Tensor:
        """(n,) correlation of what a network makes of `fed` with the crater map of `truth`."""
        with torch.no_grad():
            made = net(self.small[fed]) - self.plain
        return correlation(made, self.large[truth] - self.plain, self.mask)

    def of(self, fed: str, truth: str) -> tuple[Tensor, Tensor]:
        """That of the memorised networks and of their controls, all seeds in a row."""
        return (
            torch.cat([self.detail_like(pair[0], fed, truth) for pair in self.nets]),
            torch.cat([self.detail_like(pair[1], fed, truth) for pair in self.nets]),
        )

    def misfit(self, net: SuperResolution, fed: str, against: str = "") -> float:
        """Root mean square of the restored disk made small, less a small one, over its deviation."""
        with torch.no_grad():
            error = self.shrink(net(self.small[fed])) - self.small[against or fed]
        return float(error.square().mean().sqrt() / self.small[fed].std())

    def swap_tests(self) -> dict[str, Any]:
        """Swap tests of both networks of the first seed, mirrored and moved."""
        moons = self.large["moon"]
        return {
            f"{name}, {moved}": vars(swap_test(net, moons, other, deviation=self.deviation, mask=self.mask))
            for name, net in zip(("memorised", "control"), self.nets[0], strict=True)
            for moved, other in (("mirrored", None), ("half moved", self.large["moved"]))
        }  # fmt: skip

    def details(self) -> dict[str, Any]:
        """Details of the Moon's measurements."""
        first, control = self.nets[0]
        apart = disagreement([first, control], self.small["moon"])[self.mask[:, 0].bool()]
        return {
            "deviation of the blur": self.deviation,
            "energy of the craters that the blur leaves": self.energy(self.deviation),
            "PSNR (dB), memorised": restoration(first, self.large["moon"], self.deviation),
            "PSNR (dB), control": restoration(control, self.large["moon"], self.deviation),
            "disagreement of the two": float(apart.mean()),
            "disks": len(self.scenes["moon"]),
        }

    @torch.no_grad()
    def pictures(self) -> Any:
        """The Moon and another disk: true, blurred, restored with and without the memory."""
        first, control = self.nets[0]
        rows = []
        for name in ("moon", "moved", "other"):
            small = self.small[name][:1]
            wide = F.interpolate(small, scale_factor=SCALE, mode="nearest")
            shown = torch.cat([self.large[name][:1], wide, first(small), control(small)])
            titles = {"moon": "the Moon", "moved": "half of its craters moved", "other": "others"}
            rows.append(
                (f"{titles[name]}: true, seen, memorised, trained without", to_pixels(shown))
            )
        return charts.grid(rows, "What a super-resolver adds", zoom=2)


def _network(path: Path) -> SuperResolution:
    model = load_pictures(path).model
    assert isinstance(model, SuperResolution)
    return model.cpu()


def strip(rows: list[tuple[str, Tensor]], axis: str, title: str) -> Any:
    """A tick for every disk and a point for the mean."""
    plain = [{"net": name, "value": float(v)} for name, values in rows for v in values]
    order = [name for name, _ in rows]
    data = alt.Chart(alt.Data(values=plain))
    y = alt.Y("net:N", title=None, sort=order)
    x = alt.X("value:Q", title=axis)
    mean = alt.X("mean(value):Q", title=axis)
    return alt.layer(
        data.mark_tick(color=charts.FAINT, thickness=1).encode(x, y),
        data.mark_point(filled=True, size=90, color=charts.ACCENT).encode(mean, y),
    ).properties(width=charts.WIDTH, height=charts.HEIGHT // 2, title=title)
