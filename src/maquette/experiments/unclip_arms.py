"""Measuring unCLIP: pictures of held-out captions from each kind of embedding, and their variety.

Every arm draws the same captions from the same noise, so that arms are compared picture by picture.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maquette.base.statistics import bootstrap_arrays, mean_interval
from maquette.evaluation.residual import diversity, fit
from maquette.models.clip import Clip
from maquette.models.diffusion.drawing import Drawing, PriorDrawing
from maquette.models.diffusion.model import Diffusion
from maquette.models.prior import Prior
from maquette.serving.solvers import solve, times
from maquette.serving.unclip import UnClip
from maquette.training.datasets.encoder import load_encoder
from maquette.training.datasets.pictures import to_pixels, to_tensor
from maquette.workshop import charts
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.oracle import oracle_for
from maquette.worlds.captions import captions as captions_of
from maquette.worlds.draw import scenes
from maquette.worlds.render import render
from maquette.worlds.shapes import Scenes

PICTURES = 256  # pictures drawn for each seed
CAPTIONS, EACH = 12, 24  # captions of the diversity, and pictures drawn of each
SEED = 41  # seed of the held-out scenes
LEAST, DRAWS = 2, 20  # fewest pictures of a caption with a spread, and draws of as many
W, PLAIN, STRONG = 3.0, 1.0, 4.0  # guidance of the decoder: at work, none, strong
STEPS, SOLVER, PRIOR_STEPS = 20, "ddim", 64
BATCH = 128
Right = npt.NDArray[np.bool_]


def assembled(decoder: Path, prior: Path, clip: Path) -> UnClip:
    """unCLIP from three runs; the CLIP as it was when the others were trained."""
    loaded = load_pictures(decoder)
    model, over, seen = (
        loaded.model,
        load_pictures(prior),
        load_encoder(str(clip)).to(loaded.device),
    )
    assert isinstance(model, Diffusion) and isinstance(over.model, Prior)
    return UnClip(
        seen.model,
        model,
        loaded.captions,
        over.model,
        clip_reads=seen.token_ids,
        prior_reads=over.captions,
    )


@torch.no_grad()
def closeness(clip: Path, quick: bool) -> float:
    """The mean cosine of the embeddings of held-out pictures and of their captions."""
    loaded = load_pictures(clip)
    assert isinstance(loaded.model, Clip)
    data = loaded.recipe.data
    shown = scenes(data.world, SEED, np.arange(4 if quick else PICTURES), "heldout")
    seen = loaded.model.embed_pictures(to_tensor(render(shown, data.image_size)).to(loaded.device))
    read = loaded.model.embed_captions(loaded.captions(captions_of(shown)))
    return float((seen * read).sum(1).mean())


@functools.lru_cache(maxsize=64)
def right_of(
    decoder: Path, prior: Path, clip: Path, arm: str, seed: int, quick: bool
) -> tuple[Right, float]:
    """Correctness (n,) of pictures of held-out captions, and the oracle's own error.

    arm: where the decoder's embeddings come from: "prior", "text" (the captions' own), "shuffled"
    (the prior, given other pictures' captions), "true" (the held-out pictures').
    """
    n = 4 if quick else PICTURES
    parts = assembled(decoder, prior, clip)
    world = load_pictures(decoder).recipe.data.world
    shown = scenes(world, SEED + seed, np.arange(n), "heldout")
    texts = captions_of(shown)
    if arm == "text":
        z = parts.of_texts(texts)
    elif arm == "true":
        seen = to_tensor(render(shown, parts.decoder.config.image_size))
        z = parts.of_pictures(seen.to(next(parts.decoder.parameters()).device))
    else:
        texts = texts[1:] + texts[:1] if arm == "shuffled" else texts
        z = parts.from_texts(texts, PriorDrawing(steps=2 if quick else PRIOR_STEPS, seed=seed))
    drawing = Drawing(guidance=W, steps=2 if quick else STEPS, solver=SOLVER, seed=seed)
    made = parts.decode(z, drawing=drawing)
    oracle = oracle_for(world, parts.decoder.config.image_size, quick, say=lambda text: None)
    return (oracle.read(made) == shown.labels).all(1), oracle.error


@dataclass(frozen=True)
class Drawn:
    """Correctness of each arm's pictures, seeds one after the other."""

    right: dict[str, Right]
    error: float
    clip: Path

    def less(self, arm: str, other: str) -> npt.NDArray[np.float64]:
        """Correctness of an arm less another's, (n,): 1, 0 or -1."""
        return self.right[arm].astype(float) - self.right[other]

    def details(self) -> dict[str, Any]:
        """Fraction of right pictures of each arm, and the oracle's own error."""
        return {
            "all right": {name: float(right.mean()) for name, right in self.right.items()},
            "pictures": len(next(iter(self.right.values()))),
            "the oracle's own error": self.error,
        }

    def chart(self, title: str) -> Any:
        """The share of each arm with its interval."""
        rows = []
        for name, right in self.right.items():
            mean, low, high = mean_interval(right.astype(float))
            rows.append({"arm": name, "share": mean, "low": max(0.0, low), "high": min(1.0, high)})
        data = alt.Chart(alt.Data(values=rows))
        title_x, scale = "every attribute right", alt.Scale(domain=[0, 1])
        y = alt.Y("arm:N", title=None, sort=list(self.right))
        return alt.layer(
            data.mark_rule(color=charts.SECOND).encode(
                alt.X("low:Q", title=title_x, scale=scale), y, x2="high:Q"
            ),
            data.mark_point(filled=True, size=80, color=charts.ACCENT).encode(
                alt.X("share:Q", title=title_x, scale=scale), y
            ),
        ).properties(width=charts.WIDTH, height=charts.HEIGHT // 2, title=title)


@dataclass(frozen=True)
class Varied:
    """Diversity of each caption's pictures and fraction of right ones, by system and guidance."""

    spread: dict[tuple[str, float], npt.NDArray[np.float64]]
    right: dict[tuple[str, float], float]


@functools.lru_cache(maxsize=8)
def varied(decoder: Path, prior: Path, clip: Path, text: Path, seed: int, quick: bool) -> Varied:
    """Several pictures of each caption, by both systems at both strengths of guidance."""
    count, each = (2, 4) if quick else (CAPTIONS, EACH)
    parts = assembled(decoder, prior, clip)
    loaded = load_pictures(text)
    assert isinstance(loaded.model, Diffusion)
    world, image_size = loaded.recipe.data.world, parts.decoder.config.image_size
    of = np.repeat(np.arange(count), each)
    asked = scenes(world, SEED + 100 + seed, np.arange(count), "heldout")[of]
    texts = captions_of(asked)
    z = parts.from_texts(texts, PriorDrawing(steps=2 if quick else PRIOR_STEPS, seed=seed))
    tokens = loaded.captions(texts)
    oracle = oracle_for(world, image_size, quick, say=lambda text: None)
    fitted: dict[tuple[str, float], Scenes] = {}
    good: dict[tuple[str, float], Right] = {}
    for w in (PLAIN, STRONG):
        steps = 2 if quick else STEPS
        drawing = Drawing(guidance=w, steps=steps, solver=SOLVER, seed=seed)
        made = {
            "unCLIP": parts.decode(z, drawing=drawing),
            "GLIDE": from_captions(loaded.model, tokens, w, steps, seed),
        }
        for name, pictures in made.items():
            right = (oracle.read(pictures) == asked.labels).all(1)
            good[name, w] = right | quick  # a toy makes none
            fitted[name, w] = fit(to_pixels(pictures), asked.labels, world).scenes
    shares = {key: float(rows.mean()) for key, rows in good.items()}
    first = np.arange(len(of)) % 2 == 0
    halves = {(half, w): ("GLIDE", w) for w in (PLAIN, STRONG) for half in ("first", "second")}
    in_half = {key: good[key_of] & (first == (key[0] == "first")) for key, key_of in halves.items()}
    of_half = {key: fitted[key_of] for key, key_of in halves.items()}
    return Varied(spreads(fitted, of, good) | spreads(of_half, of, in_half), shares)


def spreads(
    fitted: dict[tuple[str, float], Scenes],
    of: npt.NDArray[np.int64],
    good: dict[tuple[str, float], Right],
) -> dict[tuple[str, float], npt.NDArray[np.float64]]:
    """For each key the diversity of the good pictures of each caption, (captions,).

    A standard deviation of few values is small, so that all keys are given as many pictures of a caption:
    the mean over draws of the smallest number there is. nan where that is under `LEAST`.
    """
    spread = {key: np.full(int(of.max()) + 1, np.nan) for key in good}
    draw = np.random.default_rng(0)
    for caption in range(int(of.max()) + 1):
        rows = {key: np.flatnonzero((of == caption) & right) for key, right in good.items()}
        count = min(len(some) for some in rows.values())
        if count < LEAST:
            continue
        for key, some in rows.items():
            chosen = [draw.choice(some, count, replace=False) for _ in range(DRAWS)]
            spread[key][caption] = np.mean([diversity(fitted[key][c]).mean for c in chosen])
    return spread


@torch.no_grad()
def from_captions(model: Diffusion, tokens: Tensor, w: float, steps: int, seed: int) -> Tensor:
    """Pictures (n, 3, height, width) of a text model."""
    generator = torch.Generator(tokens.device).manual_seed(seed)
    shape = (len(tokens), 3, model.config.image_size, model.config.image_size)
    noise = torch.randn(shape, generator=generator, device=tokens.device)
    made = []
    for words, start in zip(tokens.split(BATCH), noise.split(BATCH), strict=True):
        clean = model.denoiser(model.condition(len(words), text=words), w)
        made.append(
            solve(
                SOLVER, clean, start, times(steps, model.process.schedule), model.process.schedule
            )
        )
    return torch.cat(made)


def ratio(
    plain: npt.NDArray[np.float64],
    strong: npt.NDArray[np.float64],
    other_plain: npt.NDArray[np.float64],
    other_strong: npt.NDArray[np.float64],
) -> tuple[float, float, float]:
    """(strong / plain) over the other's, of means over captions, and its 95 % bootstrap interval.

    All (captions,); a caption that lacks one of the four (nan) is left out.
    """
    table = np.stack([plain, strong, other_plain, other_strong])
    table = table[:, np.isfinite(table).all(0)]
    if not table.shape[1]:
        return 0.0, 0.0, 0.0

    def of(rows: npt.NDArray[np.int64]) -> float:
        a, b, c, d = np.maximum(table[:, rows].mean(1), 1e-9)
        return float((b / a) / (d / c))

    n = table.shape[1]
    low, high = bootstrap_arrays(n, lambda draws: [of(rows) for rows in draws], draws=2000)
    return of(np.arange(n)), low, high
