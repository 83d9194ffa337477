"""What `maquette generate` does with a picture run: from captions, around known pixels, from pictures.

    captions                 a diffusion run, conditioned on text, on classes or on nothing
    --picture --mask         what the mask hides is made anew, the rest is kept to the bit
    --picture --outpaint     the picture is continued on the sides named
    --picture                a run that enlarges pictures: diffusion with task upsample, super-resolution
    --variations-of          unCLIP: what a CLIP sees in a picture, made again (Ramesh et al. 2022)

A run that is conditioned on embeddings takes captions through a prior, another run; its CLIP is the one
that its recipe names.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import WrongUse, did_you_mean
from maquette.corpus.pictures import Pixels
from maquette.models.diffusion import Diffusion
from maquette.models.diffusion_config import DiffusionConfig
from maquette.models.prior import Prior
from maquette.models.super_resolution import SuperResolution
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.nn.noise import draw, generators
from maquette.serving import unclip
from maquette.serving.outpaint import extend
from maquette.serving.paint import paint
from maquette.serving.solvers import solve, times
from maquette.serving.unclip import UnClip, in_parts
from maquette.training.encoder import cut_notes, load_encoder
from maquette.training.picture_data import to_pixels
from maquette.workshop.load_pictures import LoadedPictures, load_pictures
from maquette.workshop.picture_input import Input
from maquette.workshop.picture_request import AROUND, SOLVER, Request

BATCH = 64  # pictures made at a time


@dataclass(frozen=True)
class Made:
    """Pictures and what they cost."""

    pixels: Pixels
    """uint8 (n, height, width, 3)"""
    labels: list[str]
    """what each was made from"""
    seconds: float
    evaluations: int
    """how often the run's network was asked for each picture"""
    notes: list[str]
    """a line each: what was cut off or resized of the pictures given"""


def make(loaded: LoadedPictures, request: Request) -> Made:
    """Carry out a request. Raises WrongUse where the run cannot do it, UserError for a bad picture."""
    start = time.perf_counter()
    model, given, calls = loaded.model, Input(), list[None]()
    upsampler = _enlarging(load_pictures(request.upsample)) if request.upsample else None
    hook = model.register_forward_hook(lambda *_: calls.append(None))
    most = BATCH
    try:
        if request.variations_of is not None:
            pictures, labels = _variations(loaded, request, given)
            most = unclip.BATCH
        elif isinstance(model, SuperResolution):
            pictures, labels = _restored(loaded, model, request, given)
        elif not isinstance(model, Diffusion):
            raise WrongUse(
                f"{loaded.path} is a {model.config.kind}, which makes no pictures: "
                f"maquette eval scores it"
            )
        elif model.config.embedding:
            pictures, labels = _unclip(loaded, request, given)
            most = unclip.BATCH
        else:
            pictures, labels = _diffusion(loaded, model, request, given)
    finally:
        hook.remove()
    asked = len(calls) // -(-len(pictures) // most)
    if upsampler is not None:
        prompts = labels if any(request.prompts) else [""] * len(pictures)
        pictures = _larger(upsampler, pictures, prompts, request)
    if getattr(model.config, "condition", "") == "text":
        given.notes += loaded.cut_notes(request.prompts)
    notes = [*dict.fromkeys(given.notes), *_never_learnt(loaded, request.prompts)]
    return Made(to_pixels(pictures), labels, time.perf_counter() - start, asked, notes)


def _never_learnt(loaded: LoadedPictures, prompts: tuple[str, ...]) -> list[str]:
    """A line for each prompt that is no caption of the world that the run has learnt from."""
    from maquette.worlds.captions import parse
    from maquette.worlds.shapes import Shapes

    world = loaded.world
    if world is None or not isinstance(world.settings, Shapes):
        return []
    notes = []
    for prompt in filter(None, prompts):
        try:
            parse(prompt, world.settings)
        except WrongUse as error:
            notes.append(f"the run has learnt nothing like {prompt!r}: {error}")
    return notes


def _diffusion(
    loaded: LoadedPictures, model: Diffusion, request: Request, given: Input
) -> tuple[Tensor, list[str]]:
    config, device = model.config, loaded.device
    labels = [p for p in request.prompts or ("",) for _ in range(request.count)]
    n, told = len(labels), _told(model)
    solver = request.solver or SOLVER
    if config.task == "upsample":
        request.uses(
            "for a run that enlarges pictures", *told, "picture", "count", "solver", "steps"
        )
        if request.picture is None:
            raise WrongUse(f"{loaded.path} enlarges pictures: name one with --picture")
    elif request.picture is not None:
        return _around(loaded, model, request, given, labels), labels
    else:
        request.uses("for this run", *told, "count", "solver", "steps")
    conditions = _conditions(loaded, model, labels)
    if config.task == "upsample":
        assert request.picture is not None
        small = given.tensor(request.picture, config.size // config.scale).expand(n, -1, -1, -1)
        conditions["small"] = small.to(device)
    generator = generators(request.seed, n)
    noise = draw(torch.empty(n, 3, config.size, config.size, device=device), generator)
    guidance = request.guidance if config.condition != "none" else 1.0

    def part(rows: slice) -> Tensor:
        condition = model.condition(len(noise[rows]), **_rows(conditions, rows))
        denoiser = model.denoiser(condition, guidance)
        grid = times(request.steps, model.path)
        return solve(solver, denoiser, noise[rows], grid, model.path, generator=generator[rows])

    return in_parts(n, part, BATCH), labels


def _told(model: Diffusion) -> tuple[str, ...]:
    """Options that say what a picture shows, of those that the model reads."""
    return () if model.config.condition == "none" else ("prompts", "guidance")


def _rows(conditions: dict[str, Tensor | None], rows: slice) -> dict[str, Tensor | None]:
    return {name: t if t is None else t[rows] for name, t in conditions.items()}


def _around(
    loaded: LoadedPictures, model: Diffusion, request: Request, given: Input, prompts: list[str]
) -> Tensor:
    """Pictures around known pixels: of a mask, or beside the picture."""
    assert request.picture is not None
    way = "with --outpaint" if request.outpaint else "with --mask"
    known = ("picture", "mask", "outpaint", "count", "solver", "steps")
    request.uses(way, *_told(model), *known)
    if not (request.mask or request.outpaint):
        raise WrongUse(
            "say what of the picture to make anew: --mask FILE (the picture itself, where a part of it is "
            "erased), or --outpaint right=64"
        )
    n, size, device = len(prompts), model.config.size, loaded.device
    settings: dict[str, Any] = {
        "guidance": request.guidance if model.config.condition != "none" else 1.0,
        "steps": request.steps,
        "solver": request.solver or AROUND,
    }
    generator = generators(request.seed, n)
    conditions = _conditions(loaded, model, prompts)
    picture = given.tensor(request.picture, None if request.outpaint else size).to(device)
    hole: Tensor | None = None
    if request.mask is not None:
        hidden = given.hidden(request.mask, request.picture, size)
        hole = torch.from_numpy(~hidden).float()[None, None].to(device)

    def part(rows: slice) -> Tensor:
        own = settings | _rows(conditions, rows) | {"generator": generator[rows]}
        pictures = picture.expand(len(range(n)[rows]), -1, -1, -1)
        if hole is None:
            return extend(model, pictures, **(own | request.outpaint))
        return paint(model, pictures, hole.expand(len(pictures), -1, -1, -1), **own)

    return in_parts(n, part, BATCH)


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
    table, world = loaded.table, loaded.world
    if not prompt:
        return [-1] * len(table["label_sizes"])
    if world is not None:
        return [int(v) for v in world.parse(prompt)]
    names = list(table.get("classes", []))
    if prompt not in names:
        raise WrongUse(f"there is no class {prompt}{did_you_mean(prompt, names)}")
    return [names.index(prompt)]


def _restored(
    loaded: LoadedPictures, model: SuperResolution, request: Request, given: Input
) -> tuple[Tensor, list[str]]:
    request.uses("for a run that restores pictures", "picture")
    if request.picture is None:
        raise WrongUse("this run enlarges pictures: name one with --picture")
    small = given.tensor(request.picture).to(loaded.device)
    with torch.no_grad():
        return model(small).clamp(-1, 1), [str(request.picture)]


def _variations(loaded: LoadedPictures, request: Request, given: Input) -> tuple[Tensor, list[str]]:
    assert request.variations_of is not None
    parts = _unclip_of(loaded, request, given)
    way = ("text_diff", "toward", "variations_of", "count", "steps")
    request.uses("with --variations-of", *way)
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


def _unclip(loaded: LoadedPictures, request: Request, given: Input) -> tuple[Tensor, list[str]]:
    used = ("prompts", "prior", "count", "solver", "steps", "guidance")
    request.uses("for a run that makes pictures from embeddings", *used)
    if not request.prompts:
        raise WrongUse("say what to make: a caption, or --variations-of a picture")
    if not request.prior:
        raise WrongUse(
            f"{loaded.path} makes pictures from embeddings: name a prior with --prior RUN"
        )
    labels = [p for p in request.prompts for _ in range(request.count)]
    parts = _unclip_of(loaded, request, given)
    made = parts.generate(
        labels,
        guidance=request.guidance,
        steps=request.steps,
        solver=request.solver or SOLVER,
        seed=request.seed,
    )
    return made, labels


def _unclip_of(loaded: LoadedPictures, request: Request, given: Input) -> UnClip:
    """The decoder with the CLIP of its recipe, and the prior where one is named."""
    decoder = loaded.model
    if not isinstance(decoder, Diffusion) or not decoder.config.embedding:
        raise WrongUse(
            f"{loaded.path} makes no pictures from embeddings: train dalle2-decoder and name that run"
        )
    clip = load_encoder(loaded.recipe.data.encoder).to(loaded.device)
    said = [*request.prompts, *(request.text_diff or ())]
    given.notes += cut_notes(clip.tokenizer, said, clip.words)
    prior = reads = None
    if request.prior:
        found = load_pictures(request.prior)
        given.notes += found.cut_notes(said)
        if not isinstance(found.model, Prior):
            raise WrongUse(f"{request.prior} is a {found.model.config.kind}: name a run of a prior")
        prior, reads = found.model, found.captions
    return UnClip(
        clip.model, decoder, loaded.captions, prior, clip_reads=clip.symbols, prior_reads=reads
    )


def _enlarging(upsampler: LoadedPictures) -> LoadedPictures:
    """The run, if it is one that enlarges: said before anything is drawn for it."""
    config = upsampler.model.config
    diffusion = isinstance(config, DiffusionConfig) and config.task == "upsample"
    if not diffusion and not isinstance(config, SuperResolutionConfig):
        raise WrongUse(f"{upsampler.path} enlarges nothing: name a run whose task is upsample")
    return upsampler


def _larger(
    upsampler: LoadedPictures, pictures: Tensor, prompts: list[str], request: Request
) -> Tensor:
    """The pictures as another run enlarges them, which is told what they show where it reads."""
    model = upsampler.model
    if isinstance(model, SuperResolution):
        with torch.no_grad():
            small = pictures.to(upsampler.device)
            return in_parts(len(small), lambda rows: model(small[rows]).clamp(-1, 1), BATCH)
    assert isinstance(model, Diffusion)
    side = model.config.size // model.config.scale
    if pictures.shape[-1] != side or pictures.shape[-2] != side:
        raise WrongUse(
            f"{upsampler.path} enlarges pictures of {side} pixels, these are "
            f"{pictures.shape[-2]} x {pictures.shape[-1]}"
        )
    generator = generators(request.seed, len(pictures), unclip.UPSAMPLER)
    shape = (len(pictures), 3, model.config.size, model.config.size)
    noise = draw(pictures.new_empty(shape), generator)
    told = _conditions(upsampler, model, prompts) if model.config.condition != "none" else {}

    def part(rows: slice) -> Tensor:
        small = pictures[rows]
        denoiser = model.denoiser(model.condition(len(small), small=small, **_rows(told, rows)))
        grid = times(request.steps, model.path)
        solver = request.solver or SOLVER
        return solve(solver, denoiser, noise[rows], grid, model.path, generator=generator[rows])

    return in_parts(len(pictures), part, BATCH)
