"""What `maquette generate` does with a picture run: from captions, around known pixels, from pictures.

    captions                 a diffusion run, conditioned on text, on classes or on nothing
    --picture --mask         the white part of the mask is made anew, the rest is kept to the bit
    --picture --outpaint     the picture is continued on the sides named
    --picture                a run that enlarges pictures: diffusion with task upsample, super-resolution
    --variations-of          unCLIP: what a CLIP sees in a picture, made again (Ramesh et al. 2022)

A run that is conditioned on embeddings takes captions through a prior, another run; its CLIP is the one
that its recipe names.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maquette.base.errors import WrongUse, did_you_mean
from maquette.corpus.pictures import Pixels
from maquette.models.diffusion import Diffusion
from maquette.models.prior import Prior
from maquette.models.super_resolution import SuperResolution
from maquette.serving.outpaint import extend
from maquette.serving.paint import paint
from maquette.serving.solvers import SOLVERS, evaluations, solve, times
from maquette.serving.unclip import UnClip
from maquette.training.encoder import load_encoder
from maquette.training.picture_data import to_pixels
from maquette.workshop.load_pictures import LoadedPictures, load_pictures
from maquette.workshop.picture_input import Input

BATCH = 64  # pictures made at a time
SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to make; see `maquette generate --help`."""

    prompts: tuple[str, ...] = ()
    count: int = 1
    """pictures of each prompt"""
    picture: Path | None = None
    mask: Path | None = None
    outpaint: dict[str, int] = field(default_factory=dict)
    variations_of: Path | None = None
    text_diff: tuple[str, str] | None = None
    """variations_of: what the picture shows, and what it shall show"""
    toward: Path | None = None
    """variations_of: another picture, and those between"""
    prior: str = ""
    upsample: str = ""
    solver: str = "dpm2m"
    steps: int = 20
    guidance: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.steps < 1:
            raise WrongUse(
                f"count is {self.count} and steps is {self.steps}: use 1 or more of both"
            )
        if self.solver not in SOLVERS:
            raise WrongUse(f"unknown solver {self.solver}{did_you_mean(self.solver, SOLVERS)}")
        for side, pixels in self.outpaint.items():
            if side not in SIDES or pixels < 1:
                raise WrongUse(
                    f"--outpaint {side}={pixels}: use left, right, top or bottom, and pixels"
                )
        if (self.mask or self.outpaint) and self.picture is None:
            raise WrongUse("--mask and --outpaint change a picture: name it with --picture")
        if self.mask and self.outpaint:
            raise WrongUse("give --mask or --outpaint, not both: one after the other does both")
        if (self.text_diff or self.toward) and self.variations_of is None:
            raise WrongUse(
                "--text-diff and --toward begin with a picture: name it by --variations-of"
            )


@dataclass(frozen=True)
class Made:
    """Pictures and what they cost."""

    pixels: Pixels
    """uint8 (n, height, width, 3)"""
    labels: list[str]
    """what each was made from"""
    seconds: float
    evaluations: int
    """of the network for each picture; 1 where it is not asked again and again"""
    notes: list[str]
    """a line each: what was cut off or resized of the pictures given"""


def make(loaded: LoadedPictures, request: Request) -> Made:
    """Carry out a request. Raises WrongUse where the run cannot do it, UserError for a bad picture."""
    start = time.perf_counter()
    model, given = loaded.model, Input()
    asked = evaluations(request.solver, request.steps)
    if request.variations_of is not None:
        pictures, labels = _variations(loaded, request, given)
    elif isinstance(model, SuperResolution):
        pictures, labels, asked = *_restored(loaded, model, request, given), 1
    elif not isinstance(model, Diffusion):
        raise WrongUse(
            f"{loaded.path} is a {model.config.kind}, which makes no pictures: maquette eval scores it"
        )
    elif model.config.embedding:
        pictures, labels = _unclip(loaded, request)
    else:
        pictures, labels = _diffusion(loaded, model, request, given)
    if request.upsample:
        pictures = _larger(load_pictures(request.upsample), pictures, request)
    return Made(to_pixels(pictures), labels, time.perf_counter() - start, asked, given.notes)


def _diffusion(
    loaded: LoadedPictures, model: Diffusion, request: Request, given: Input
) -> tuple[Tensor, list[str]]:
    config = model.config
    labels = [p for p in request.prompts or ("",) for _ in range(request.count)]
    conditions = _conditions(loaded, model, labels)
    n, device = len(labels), loaded.device
    generator = torch.Generator().manual_seed(request.seed)
    if request.outpaint:
        return _continued(loaded, model, request, labels, given), labels
    if request.picture is not None and config.task != "upsample":
        if request.mask is None:
            raise WrongUse(
                "say what of the picture to make anew: --mask FILE, or --outpaint right=64"
            )
        white = given.square(request.mask, config.size).mean(axis=2) > 127
        known = torch.from_numpy(~white).float()[None, None].expand(n, 1, -1, -1)
        picture = given.tensor(request.picture, config.size).expand(n, -1, -1, -1)
        painted = paint(
            model,
            picture.to(device),
            known.to(device),
            captions=conditions.get("captions"),
            labels=conditions.get("labels"),
            guidance=request.guidance,
            steps=request.steps,
            generator=generator,
        )
        return painted, labels
    if config.task == "upsample":
        if request.picture is None:
            raise WrongUse(f"{loaded.path} enlarges pictures: name one with --picture")
        small = given.tensor(request.picture, config.size // config.scale).expand(n, -1, -1, -1)
        conditions["small"] = small.to(device)
    noise = torch.randn(n, 3, config.size, config.size, generator=generator).to(device)
    guidance = request.guidance if config.condition != "none" else 1.0

    def part(rows: slice) -> Tensor:
        own = {name: t if t is None else t[rows] for name, t in conditions.items()}
        condition = model.condition(len(noise[rows]), **own)
        denoiser = model.denoiser(condition, guidance)
        grid = times(request.steps, model.path)
        return solve(request.solver, denoiser, noise[rows], grid, model.path, generator=generator)

    return _in_parts(n, part), labels


def _conditions(
    loaded: LoadedPictures, model: Diffusion, prompts: list[str]
) -> dict[str, Tensor | None]:
    """What `Diffusion.condition` takes, of one prompt a picture."""
    if model.config.condition == "text":
        return {"captions": loaded.captions(prompts)}
    if model.config.condition == "class":
        return {"labels": torch.tensor([_labels(loaded, p) for p in prompts], device=loaded.device)}
    if any(prompts):
        raise WrongUse(f"{loaded.path} was trained without captions: leave the prompt out")
    return {}


def _labels(loaded: LoadedPictures, prompt: str) -> list[int]:
    """A caption of the world, or the name of a class, as the labels it stands for; "" as none."""
    corpus = loaded.corpus
    if not prompt:
        return [-1] * len(corpus.label_sizes)
    if corpus.world is not None:
        from maquette.worlds.captions import parse

        return [int(v) for v in parse(prompt, corpus.world.settings)]
    names = list(corpus.manifest.get("classes", []))
    if prompt not in names:
        raise WrongUse(f"there is no class {prompt}{did_you_mean(prompt, names)}")
    return [names.index(prompt)]


def _continued(
    loaded: LoadedPictures,
    model: Diffusion,
    request: Request,
    prompts: list[str],
    given: Input,
) -> Tensor:
    assert request.picture is not None
    captions = loaded.captions(prompts) if model.config.condition == "text" else None
    picture = given.tensor(request.picture).expand(len(prompts), -1, -1, -1)
    return extend(
        model,
        picture.to(loaded.device),
        left=request.outpaint.get("left", 0),
        right=request.outpaint.get("right", 0),
        top=request.outpaint.get("top", 0),
        bottom=request.outpaint.get("bottom", 0),
        captions=captions,
        guidance=request.guidance if captions is not None else 1.0,
        steps=request.steps,
        generator=torch.Generator().manual_seed(request.seed),
    )


def _restored(
    loaded: LoadedPictures, model: SuperResolution, request: Request, given: Input
) -> tuple[Tensor, list[str]]:
    if request.picture is None:
        raise WrongUse("this run enlarges pictures: name one with --picture")
    small = given.tensor(request.picture).to(loaded.device)
    with torch.no_grad():
        return model(small).clamp(-1, 1), [str(request.picture)]


def _variations(loaded: LoadedPictures, request: Request, given: Input) -> tuple[Tensor, list[str]]:
    assert request.variations_of is not None
    parts = _unclip_of(loaded, request)
    size = parts.decoder.config.size
    picture = given.tensor(request.variations_of, size)[0].to(loaded.device)
    steps, count = 2 * request.steps, max(request.count, 2)
    if request.text_diff:
        before, after = request.text_diff
        made = parts.text_diff(picture, before, after, count, steps=steps)
        return made, [f"{before} -> {after}"] * count
    if request.toward is not None:
        other = given.tensor(request.toward, size)[0].to(loaded.device)
        made = parts.interpolate(picture, other, count, steps=steps)
        return made, [f"{request.variations_of} -> {request.toward}"] * count
    made = parts.variations(picture, request.count, steps=steps, seed=request.seed)
    return made, [f"like {request.variations_of}"] * request.count


def _unclip(loaded: LoadedPictures, request: Request) -> tuple[Tensor, list[str]]:
    if not request.prompts:
        raise WrongUse("say what to make: a caption, or --variations-of a picture")
    if not request.prior:
        raise WrongUse(
            f"{loaded.path} makes pictures from embeddings: name a prior with --prior RUN"
        )
    labels = [p for p in request.prompts for _ in range(request.count)]
    parts = _unclip_of(loaded, request)
    made = parts.generate(
        labels,
        guidance=request.guidance,
        steps=request.steps,
        solver=request.solver,
        seed=request.seed,
    )
    return made, labels


def _unclip_of(loaded: LoadedPictures, request: Request) -> UnClip:
    """The decoder with the CLIP of its recipe, and the prior where one is named."""
    decoder = loaded.model
    if not isinstance(decoder, Diffusion) or not decoder.config.embedding:
        raise WrongUse(
            f"{loaded.path} makes no pictures from embeddings: train dalle2-decoder and name that run"
        )
    clip = load_encoder(loaded.recipe.data.encoder).to(loaded.device)
    prior = reads = None
    if request.prior:
        found = load_pictures(request.prior)
        if not isinstance(found.model, Prior):
            raise WrongUse(f"{request.prior} is a {found.model.config.kind}: name a run of a prior")
        prior, reads = found.model, found.captions
    return UnClip(
        clip.model, decoder, loaded.captions, prior, clip_reads=clip.symbols, prior_reads=reads
    )


def _larger(upsampler: LoadedPictures, pictures: Tensor, request: Request) -> Tensor:
    """The pictures as another run enlarges them."""
    model = upsampler.model
    if isinstance(model, SuperResolution):
        with torch.no_grad():
            small = pictures.to(upsampler.device)
            return _in_parts(len(small), lambda rows: model(small[rows]).clamp(-1, 1))
    if not isinstance(model, Diffusion) or model.config.task != "upsample":
        raise WrongUse(f"{upsampler.path} enlarges nothing: name a run whose task is upsample")
    side = model.config.size // model.config.scale
    if pictures.shape[-1] != side or pictures.shape[-2] != side:
        raise WrongUse(
            f"{upsampler.path} enlarges pictures of {side} pixels, these are "
            f"{pictures.shape[-2]} x {pictures.shape[-1]}"
        )
    generator = torch.Generator().manual_seed(request.seed)
    shape = (len(pictures), 3, model.config.size, model.config.size)
    noise = torch.randn(shape, generator=generator).to(pictures)

    def part(rows: slice) -> Tensor:
        small = pictures[rows]
        denoiser = model.denoiser(model.condition(len(small), small=small))
        grid = times(request.steps, model.path)
        return solve(request.solver, denoiser, noise[rows], grid, model.path, generator=generator)

    return _in_parts(len(pictures), part)


def _in_parts(n: int, part: Callable[[slice], Tensor]) -> Tensor:
    """The rows of `part` for 0 ... n - 1, so many at a time, so that memory does not grow with n."""
    return torch.cat([part(slice(i, min(n, i + BATCH))) for i in range(0, n, BATCH)])


def sheet(made: Made) -> bytes:
    """A PNG of them: one as it is, several side by side."""
    from maquette.workshop.charts import png_grid

    if len(made.pixels) == 1:
        return png_grid(made.pixels, zoom=1)
    return png_grid(np.ascontiguousarray(made.pixels))
