"""Diffusion: pictures from noise, guided by captions, in few steps.

    maquette train diffusion --run runs/diffusion
    maquette generate runs/diffusion "a large red circle" --out a.png
    maquette reproduce diffusion      about 30 minutes on 2 cores, 2 seeds side by side

Ho et al. 2020 made pictures by a thousand small steps out of noise. Song et al. 2021 (DDIM) solved the
same model as a differential equation in 10 to 50 steps, Lu et al. 2022 (DPM-Solver++) in 10 to 20; Ho
and Salimans 2022 (classifier-free guidance) led pictures towards their captions with the model's own
unconditional prediction. Scaled down: 32x32 pictures of a shape (eight shapes, eight colours, two sizes,
three textures), a U-Net of 0.9 million parameters, a caption encoder of two blocks; an oracle that reads
what a picture shows takes the place of human eyes and of the Frechet distance.

Tried on seed 0 before anything was claimed (docs/log.md): scenes of two shapes, of whose pictures 3 in 100
were right after 2,000 steps of 64 without guidance and 4 with it, and 8 and 12 after 8,000 steps of 16:
which shape stands where is not learnt in the time. So the claims are about one shape. They were measured
first of four plain shapes in six colours, of which 93.3 % were right without guidance and 99.7 % with it:
too easy to tell anything apart, so this world replaced that one. Rates, batches, labels in the place of
captions, positions where blocks attend; a U-Net on patches of 2 and a DiT on patches of 4, with a higher
loss in equal time. No rate was tuned for these two.

Expected: 69.9 % of the pictures are right without guidance, 82.0 % at w = 2, 79.8 % at w = 3, 71.9 % at
w = 5: guidance helps and too much of it harms, as in the paper, but the interval of the gain at w = 3, 6.8
to 13.0 points, begins below the ten that `guidance` wants, and it fails. Ten steps of DPM-Solver++ are as
good as fifty of DDIM (56.5 and 57.1 % good), but so are ten of ancestral sampling (59.7 %), the control of
`steps`, which fails for it: pictures so simple take any solver ten steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maquette.base.statistics import paired_difference, wilson
from maquette.evaluation.oracle import Oracle
from maquette.evaluation.residual import acceptable, diversity, fit
from maquette.experiments.bases.text_to_picture import TEXT, WORLD, text_recipe, text_runs
from maquette.experiments.catalogue import recipe
from maquette.experiments.claims import Measurement, claim
from maquette.experiments.lab import Lab
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.model import Diffusion
from maquette.nn.rules import Parametrisation
from maquette.serving.solvers import evaluations, solve, times
from maquette.training.datasets.picture_config import PictureRecipe, PictureWatch
from maquette.training.datasets.pictures import Reader, to_pixels
from maquette.workshop import charts
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.oracle import oracle_for
from maquette.worlds.shapes import label_sizes

DIT = replace(
    TEXT,
    backbone="dit",
    width=112,
    depth=3,
    patch=4,
    parametrisation=Parametrisation(base_width=112, base_depth=3, base_head_dim=28),
)
WEIGHTS = (1.0, 2.0, 3.0, 5.0)
PICTURES, QUICK = 500, 4  # with every seed
Right = npt.NDArray[np.bool_]


@recipe
def diffusion() -> PictureRecipe:
    """Captions to pictures: the model that inpainting, GLIDE and DALL-E 2 begin with."""
    return offered("diffusion", TEXT)


@recipe
def diffusion_class() -> PictureRecipe:
    """Labels to pictures."""
    model = replace(TEXT, condition="class", classes=tuple(label_sizes(WORLD)))
    return offered("diffusion-class", model)


@recipe
def diffusion_unconditional() -> PictureRecipe:
    """Pictures from nothing."""
    return offered("diffusion-unconditional", replace(TEXT, condition="none"))


@recipe
def diffusion_dit() -> PictureRecipe:
    """Captions to pictures with a transformer in the place of the U-Net."""
    return offered("diffusion-dit", DIT)


def offered(name: str, model: DiffusionConfig) -> PictureRecipe:
    """A recipe as the catalogue has it: with looks, pictures and a report."""
    return replace(text_recipe(), name=name, model=model, compile="auto", watch=PictureWatch())


@dataclass(frozen=True)
class Way:
    """Settings of sampling pictures."""

    solver: str
    steps: int
    guidance: float

    def __str__(self) -> str:
        return f"{self.solver}, {self.steps} steps"


@dataclass(frozen=True)
class Drawn:
    """Pictures (n, 3, height, width) made from held-out captions, and the labels these name."""

    pictures: Tensor
    labels: npt.NDArray[np.int64]


def draw(run: Path, seed: int, way: Way, count: int) -> Drawn:
    """Make pictures of the first held-out captions; the noise is a function of the seed alone."""
    loaded = load_pictures(run)
    model, data = loaded.model, loaded.recipe.data
    assert isinstance(model, Diffusion)
    split = loaded.corpus.split("heldout", data.image_size)
    numbers = np.arange(count, dtype=np.int64) + seed * count
    labels = split.labels(numbers)
    assert labels is not None
    captions = Reader(loaded.tokenizer, data.caption_length).token_ids(split.captions(numbers))
    generator = torch.Generator().manual_seed(seed)
    made = []
    for part in captions.split(100):
        noise = torch.randn(len(part), 3, data.image_size, data.image_size, generator=generator)
        with torch.no_grad():
            condition = model.condition(len(part), text=part.to(loaded.device))
        denoiser = model.denoiser(condition, way.guidance)
        grid = times(way.steps, model.process.schedule)
        x = noise.to(loaded.device)
        made.append(
            solve(way.solver, denoiser, x, grid, model.process.schedule, generator=generator).cpu()
        )
    return Drawn(torch.cat(made), labels)


def all_right(oracle: Oracle, drawn: Sequence[Drawn], shift: int = 0) -> Right:
    """Mask of the pictures that show every label; shift: labels of a later caption, for a control."""
    read = [(oracle.read(d.pictures) == np.roll(d.labels, shift, axis=0)).all(1) for d in drawn]
    return np.concatenate(read)


@claim(
    statement="pictures follow their captions more often with classifier-free guidance",
    source="Ho and Salimans 2022, section 4; Nichol et al. 2022, section 4.1",
    metric="points of pictures with every attribute right, guidance 3 less guidance 1: low end of the "
    "95 % interval",
    at_least=10.0,
    control="the same pictures, scored by the captions of others",
    minutes=22,
)
def guidance(lab: Lab) -> Measurement:
    """The same captions and the same noise at several strengths."""
    oracle = oracle_for(WORLD, quick=lab.quick, say=lab.say)
    count = QUICK if lab.quick else PICTURES
    runs = text_runs(lab)
    weights = (1.0, 3.0) if lab.quick else WEIGHTS
    made = {w: [draw(run, s, Way("dpm2m", 20, w), count) for run, s in runs] for w in weights}
    right = {w: all_right(oracle, made[w]) for w in weights}
    shuffled = {w: all_right(oracle, made[w], shift=1) for w in (1.0, 3.0)}
    value, low, high = paired_difference(right[3.0], right[1.0])
    rows = []
    for w in weights:
        n, whole = len(right[w]), int(right[w].sum())
        ends = [100 * x for x in wilson(whole, n)]
        rows.append({"guidance": w, "share": 100 * whole / n, "low": ends[0], "high": ends[1]})
    return Measurement(
        value=100 * low,
        control=100 * paired_difference(shuffled[3.0], shuffled[1.0])[1],
        interval=(100 * low, 100 * high),
        details={
            "difference, points": 100 * value,
            "all right": rows,
            "all right by the captions of others": {
                str(w): float(r.mean()) for w, r in shuffled.items()
            },
            "residual and variety": {str(w): quality(made[w], lab.quick) for w in weights},
            "the oracle misreads": oracle.error,
            "chance": oracle.chance,
            "pictures": len(right[1.0]),
        },
        chart=guidance_chart(rows, made),
    )


def quality(drawn: Sequence[Drawn], quick: bool) -> dict[str, float]:
    """Mean residual in decibels, and the spread of what captions leave free over the world's."""
    most = 4 if quick else 200
    fits = [fit(d.pictures[:most], d.labels[:most], WORLD) for d in drawn]
    return {
        "residual": float(np.mean([f.psnr.mean() for f in fits])),
        "variety": float(np.mean([diversity(f.scenes).mean for f in fits])),
    }


def guidance_chart(rows: list[dict[str, Any]], made: dict[float, list[Drawn]]) -> Any:
    """All right against the strength of guidance; below, the same captions at each strength."""
    x = alt.X("guidance:Q", title="guidance (1: none)")
    y = alt.Y("share:Q", title="every attribute right (%)", scale=alt.Scale(domain=[0, 100]))
    base = alt.Chart(alt.Data(values=rows))
    lines = base.mark_line(point=True, color=charts.SECOND).encode(x, y)
    bars = base.mark_rule(color=charts.FAINT).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"))
    top = (bars + lines).properties(
        width=charts.WIDTH, height=180, title="Guidance makes pictures follow their captions"
    )
    shown = [(f"guidance {w:g}", to_pixels(d[0].pictures[:8])) for w, d in made.items()]
    return alt.vconcat(top, charts.grid(shown))


FEW, MANY, ANCESTRAL = Way("dpm2m", 10, 3.0), Way("ddim", 50, 3.0), Way("ddpm", 10, 3.0)
ENOUGH = 0.3  # of the pictures of 50 steps are good: below, any two solvers are equally bad
OTHERS = tuple(
    Way(name, steps, 3.0) for name in ("ddpm", "ddim", "dpm2m") for steps in (3, 5, 10, 20)
)


@claim(
    statement="ten steps of a second-order solver make pictures as good as fifty of a first-order one",
    source="Song et al. 2021, table 1; Lu et al. 2022, table 1",
    metric="points of pictures all right and drawn as the world draws, 50 steps of DDIM less 10 of "
    "DPM-Solver++(2M): high end of the 95 % interval; 100 where fewer than 30 % of DDIM's are good",
    at_most=3.0,
    control="50 steps of DDIM less 10 of ancestral sampling (DDPM): low end of the interval",
    minutes=24,
)
def steps(lab: Lab) -> Measurement:
    """The same captions and the same noise by several ways; the residual sees what the oracle forgives."""
    oracle = oracle_for(WORLD, quick=lab.quick, say=lab.say)
    least = acceptable(WORLD, n=20 if lab.quick else 200)
    count = QUICK if lab.quick else PICTURES
    runs = text_runs(lab)
    results: dict[Way, tuple[Right, Right]] = {}
    rows = []
    for way in dict.fromkeys((MANY, FEW, ANCESTRAL, *(() if lab.quick else OTHERS))):
        claimed = way in (MANY, FEW, ANCESTRAL)
        part = count if claimed else count // 5
        made = [draw(run, seed, way, part) for run, seed in runs]
        right = all_right(oracle, made)
        residuals = np.concatenate([fit(d.pictures, d.labels, WORLD).psnr for d in made])
        good = right & (residuals >= least)
        results[way] = right, good
        rows.append(
            {
                "solver": way.solver, "steps": way.steps, "pictures": len(right),
                "evaluations": evaluations(way.solver, way.steps), "all right": 100 * float(right.mean()),
                "good": 100 * float(good.mean()), "residual": float(residuals.mean()),
            }
        )  # fmt: skip
    value, low, high = paired_difference(results[MANY][1], results[FEW][1])
    return Measurement(
        value=100 * high if results[MANY][1].mean() >= ENOUGH else 100.0,
        control=100 * paired_difference(results[MANY][1], results[ANCESTRAL][1])[1],
        interval=(100 * low, 100 * high),
        details={
            "difference, points": 100 * value,
            "of all right alone, points": 100
            * paired_difference(results[MANY][0], results[FEW][0])[0],
            "ways": rows,
            "least residual, decibels": least,
            "the oracle misreads": oracle.error,
        },
        chart=steps_chart(rows),
    )


def steps_chart(rows: list[dict[str, Any]]) -> Any:
    """What is good, and its residual, against the steps taken, for each solver."""
    base = alt.Chart(alt.Data(values=rows)).mark_line(point=True)
    x = alt.X("steps:Q", title="steps", scale=alt.Scale(type="log"))
    colour = alt.Color("solver:N", title=None)
    share = alt.Y("good:Q", title="good (%)", scale=alt.Scale(domain=[0, 100]))
    good = base.encode(x, share, colour)
    residual = base.encode(
        x, alt.Y("residual:Q", title="residual (dB)", scale=alt.Scale(zero=False)), colour
    )
    size = {"width": charts.WIDTH // 2, "height": 220}
    return alt.hconcat(good.properties(**size), residual.properties(**size)).properties(
        title="Few steps of a good solver are enough"
    )
