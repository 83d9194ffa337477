"""Outpainting: a panorama around a small picture, by windows (DALL-E 2's product of 2022, MultiDiffusion).

    maquette generate runs/diffusion --picture a.png --outpaint right=96 --out wide.png
    maquette reproduce outpainting               about a minute on 2 cores beyond the text models

A model of 32 x 32 pictures makes 32 x 128: six windows beyond the given picture, each half over the one
before. Windows one after the other take for given what the last one got wrong; joint sampling
(MultiDiffusion: Bar-Tal et al. 2023) averages what all windows say of the clean canvas at every step, and
is said to remove the drift that follows. The background of a scene is one level, so that drift has a true
value: 0. Both take 20 steps a window, with fresh noise in each.

No training: the model is the text-to-image one of `systems/diffusion.py`, without a caption.

Scaled down: pictures of 32 x 32 made four times as wide, by a model of 0.9 million parameters.

Expected: against what is claimed, windows one after the other keep the level of the background
(`sliding-holds`), and joint windows lose it and show a seam: `no-drift`, `half-the-drift` and `no-seam` fail.
What windows far from the picture agree on is a level of their own.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import torch
from torch import Tensor

from maquette.base.statistics import bootstrap, bootstrap_mean
from maquette.evaluation.seam import background, drift, seam
from maquette.experiments.bases.text_to_picture import text_runs
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models.diffusion.drawing import Drawing
from maquette.models.diffusion.model import Diffusion
from maquette.serving.inpaint import fill
from maquette.serving.outpaint import Sides, extend
from maquette.training.datasets.pictures import to_pixels, to_tensor
from maquette.workshop import charts
from maquette.workshop.load_pictures import load_pictures
from maquette.worlds.draw import scenes
from maquette.worlds.render import render

TESTS, STEPS = 32, 20  # panoramas of each seed
WINDOWS = 6  # beyond the picture, half over each other
SEED = 78  # of the held-out scenes
ARMS = ("joint", "sliding", "sliding again", "pasted")
TRIED = ("joint, DDIM", "sliding, DDIM")  # without fresh noise; in the details


@claim(
    statement="joint windows keep a panorama's background at its level",
    source="Bar-Tal et al. 2023, section 4",
    metric="mean |level of the last window - level of the first|, of the range, 6 windows on: upper end of "
    "the 95 % interval",
    at_most=0.03,
    control="windows one after the other",
    minutes=2,
)
def no_drift(lab: Lab) -> Measurement:
    """Continue held-out scenes by three times their width, and compare the background's ends."""
    bench = Bench.of(lab)
    drifts = {arm: bench.drift(arm) for arm in (*ARMS, *TRIED)}
    return Measurement(
        value=bootstrap_mean(drifts["joint"])[1],
        control=bootstrap_mean(drifts["sliding"])[1],
        interval=bootstrap_mean(drifts["joint"]),
        details=bench.details() | {"mean drift": {a: float(x.mean()) for a, x in drifts.items()}},
        chart=bench.levels(),
    )


@claim(
    statement="windows one after the other, with fresh noise in every step, keep the level too",
    source="Ramesh et al. 2022 (outpainting)",
    metric="mean |level of the last window - level of the first|, of the range, 6 windows on: upper end of "
    "the 95 % interval",
    at_most=0.03,
    control="pictures of their own pasted side by side",
    minutes=0.1,
)
def sliding_holds(lab: Lab) -> Measurement:
    """The control of `no-drift` held to the same bound."""
    bench = Bench.of(lab)
    sliding, pasted = bench.drift("sliding"), bench.drift("pasted")
    return Measurement(
        value=bootstrap_mean(sliding)[1],
        control=bootstrap_mean(pasted)[1],
        interval=bootstrap_mean(sliding),
        details=bench.details(),
        chart=bench.grid(),
    )


@claim(
    statement="joint windows drift at most half as far as windows one after the other",
    source="Bar-Tal et al. 2023, section 4",
    metric="mean drift of joint windows over that of sliding ones: upper end of the 95 % interval",
    at_most=0.5,
    control="sliding windows with other noise over sliding ones",
    minutes=0.1,
)
def half_the_drift(lab: Lab) -> Measurement:
    """The same panoramas; the interval is a bootstrap over them."""
    bench = Bench.of(lab)
    joint, sliding, again = (bench.drift(arm) for arm in ARMS[:3])
    low, high = bootstrap(len(joint), lambda rows: joint[rows].mean(1) / sliding[rows].mean(1))
    return Measurement(
        value=high,
        control=float(again.mean() / sliding.mean()),
        interval=(low, high),
        details=bench.details(),
        chart=bench.grid(),
    )


@claim(
    statement="no seam shows where the panorama leaves the picture it began with",
    source="users of outpainting tools, 2022 and 2023",
    metric="seam ratio at the picture's edge (1: none): upper end of the 95 % interval",
    at_most=1.5,
    control="pictures of their own pasted side by side",
    minutes=0.1,
)
def no_seam(lab: Lab) -> Measurement:
    """Compare the change across the given picture's edge with that beside it."""
    bench = Bench.of(lab)
    seams = {arm: seam(bench.made(arm), bench.mask()) for arm in ARMS}
    joint = seams["joint"]
    return Measurement(
        value=joint.high,
        control=seams["pasted"].high,
        interval=(joint.low, joint.high),
        details=bench.details() | {"seam ratio": {arm: f.ratio for arm, f in seams.items()}},
        chart=bench.grid(),
    )


class Bench:
    """Text-to-image models, and panoramas of held-out scenes that they continue, as many each."""

    def __init__(self, runs: Sequence[Path], quick: bool) -> None:
        self.quick, self.each = quick, 4 if quick else TESTS
        self.models: list[Diffusion] = []
        for run in runs:
            loaded = load_pictures(run)
            assert isinstance(loaded.model, Diffusion)
            self.models.append(loaded.model.cpu())
        self.image_size = self.models[0].config.image_size
        drawn = scenes(loaded.recipe.data.world, SEED, np.arange(self.each * len(runs)), "heldout")
        self.pictures = to_tensor(render(drawn, self.image_size))
        self._made: dict[str, Tensor] = {}

    @classmethod
    def of(cls, lab: Lab) -> "Bench":
        """Train or find the base; what was sampled from it is kept for the next claim."""
        return _bench(tuple(run for run, _ in text_runs(lab)), lab.quick)

    @property
    def more(self) -> int:
        """Columns of the panorama beyond the picture."""
        return WINDOWS * self.image_size // 2

    def made(self, arm: str) -> Tensor:
        """Panoramas (n, 3, height, width + more) by one of `ARMS` or `TRIED`."""
        if arm not in self._made:
            generator = torch.Generator().manual_seed((*ARMS, *TRIED).index(arm))
            parts = zip(self.models, self.pictures.split(self.each), strict=True)
            self._made[arm] = torch.cat([self._continue(m, arm, p, generator) for m, p in parts])
        return self._made[arm]

    def _continue(
        self, model: Diffusion, arm: str, pictures: Tensor, generator: torch.Generator
    ) -> Tensor:
        solver = "ddim" if "DDIM" in arm else "ddpm"
        drawing = Drawing(solver=solver, steps=4 if self.quick else STEPS, guidance=1.0)
        if arm == "pasted":
            nothing = torch.zeros_like(pictures[:, :1])
            others = [
                fill(model, pictures, nothing, drawing, method="replace", generator=generator)
                for _ in range(self.more // self.image_size)
            ]
            return torch.cat([pictures, *others], dim=-1)
        return extend(
            model, pictures, Sides(right=self.more), drawing, joint=arm.startswith("joint"),
            method="replace", generator=generator,
        )  # fmt: skip

    def drift(self, arm: str) -> Tensor:
        """(n,) of the arm's panoramas."""
        return drift(self.made(arm), self.image_size).double()

    def mask(self) -> Tensor:
        """(1, 1, height, width + more), 1 on the given picture."""
        mask = torch.zeros(1, 1, self.image_size, self.image_size + self.more)
        mask[..., : self.image_size] = 1
        return mask

    def details(self) -> dict[str, Any]:
        """Details of the measurement."""
        original = to_pixels(self.pictures)
        changed = {
            arm: int((to_pixels(x[..., : self.image_size]) != original).any(-1).sum())
            for arm, x in self._made.items()
        }
        return {"panoramas": len(original), "given pixels that changed": changed}

    def levels(self) -> Any:
        """The background's level by window, less the first window's: mean size of the difference."""
        rows = []
        for arm in ARMS[:2]:
            x = self.made(arm)
            starts = range(0, self.more + 1, self.image_size // 2)
            level = torch.stack([background(x[..., s : s + self.image_size]) for s in starts])
            for window, off in enumerate((level - level[0]).abs().mean(1).tolist()):
                rows.append({"arm": arm, "window": window, "drift": off})
        return (
            alt.Chart(alt.Data(values=rows))
            .mark_line(point=True)
            .encode(
                alt.X("window:Q", title="window, half a picture further each"),
                alt.Y("drift:Q", title="mean drift of the background (of the range)"),
                alt.Color("arm:N", title=None),
            )
            .properties(
                width=charts.WIDTH, height=charts.HEIGHT, title="How far the background drifts"
            )
        )

    def grid(self, count: int = 3) -> Any:
        """Some panoramas of every arm."""
        rows = []
        for arm in ("joint", "sliding", "pasted"):
            rows += [
                (arm if i == 0 else "", to_pixels(self.made(arm)[i : i + 1])) for i in range(count)
            ]
        return charts.grid(rows, "The same pictures, continued to the right", zoom=4)


@functools.lru_cache(maxsize=2)
def _bench(runs: Sequence[Path], quick: bool) -> Bench:
    return Bench(runs, quick)
