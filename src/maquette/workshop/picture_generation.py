"""Making pictures with a picture run: each `picture_request` carried out.

A run that is conditioned on embeddings takes captions through a prior, another run; its CLIP is the one
that its recipe names.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import WrongUse, did_you_mean
from maquette.corpus.pictures.store import Pixels
from maquette.models.diffusion.config import DiffusionConfig
from maquette.models.diffusion.drawing import Drawing
from maquette.models.diffusion.model import Diffusion
from maquette.models.prior import Prior
from maquette.models.super_resolution import SuperResolution
from maquette.models.super_resolution_config import SuperResolutionConfig
from maquette.nn.noise import generators
from maquette.serving import unclip
from maquette.serving.inpaint import fill
from maquette.serving.outpaint import extend
from maquette.serving.sample import in_parts, sample
from maquette.serving.unclip import UnClip
from maquette.training.datasets.encoder import cut_notes, load_encoder
from maquette.training.datasets.pictures import to_pixels
from maquette.workshop.load_pictures import LoadedPictures, load_pictures
from maquette.workshop.picture_input import Input
from maquette.workshop.picture_request import Draw, Enlarge, Extend, Fill, Options, Request, Vary

BATCH = 64  # pictures made at a time


@dataclass(frozen=True)
class Made:
    """Generated pictures, and their cost."""

    pixels: Pixels
    """uint8 (n, height, width, 3)"""
    labels: list[str]
    """label of each picture: what it was made from"""
    seconds: float
    evaluations: int
    """number of evaluations of the run's network per picture"""
    notes: list[str]
    """notes: what was cut off or resized of the given pictures"""


class PictureRun(LoadedPictures):
    """A trained picture model in Python that makes pictures: `maquette.load("runs/diffusion")`."""

    def generate(self, *prompts: str, **options: Any) -> Pixels:
        """Make pictures: uint8 (n, height, width, 3). options: fields of `picture_request.Options`."""
        return make(self, Options(prompts=prompts, **options).request()).pixels


def open_run(path: str | Path, base: str | Path | None = None) -> PictureRun:
    """Open a picture run, as `load_pictures` does."""
    loaded = load_pictures(path, base)
    return PictureRun(loaded.path, loaded.model, loaded.tokenizer)


def make(loaded: LoadedPictures, request: Request) -> Made:
    """Carry out a request. Raises WrongUse where the run cannot do it, UserError for a bad picture."""
    start = time.perf_counter()
    model, inputs, calls = loaded.model, Input(), list[None]()
    upsampler = (
        None if request.upsample is None else _enlarging(load_pictures(request.upsample.run))
    )
    hook = model.register_forward_hook(lambda *_: calls.append(None))
    most = BATCH
    try:
        if isinstance(request, Vary):
            pictures, labels = _vary(loaded, request, inputs)
            most = unclip.BATCH
        elif isinstance(model, SuperResolution):
            pictures, labels = _restored(loaded, model, request, inputs)
        elif not isinstance(model, Diffusion):
            raise WrongUse(
                f"{loaded.path} is a {model.config.kind}, which makes no pictures: "
                f"maquette eval scores it"
            )
        elif "embedding" in model.conditioners:
            pictures, labels = _unclip(loaded, request, inputs)
            most = unclip.BATCH
        else:
            pictures, labels = _diffusion(loaded, model, request, inputs)
    finally:
        hook.remove()
    asked = len(calls) // -(-len(pictures) // most)
    if request.upsample is not None and upsampler is not None:
        prompts = labels if any(request.prompts) else [""] * len(pictures)
        pictures = _larger(upsampler, pictures, prompts, request.upsample.drawing)
    if isinstance(model, Diffusion) and "text" in model.conditioners:
        inputs.notes += loaded.cut_notes(request.prompts)
    notes = [*dict.fromkeys(inputs.notes), *_never_learnt(loaded, request.prompts)]
    return Made(to_pixels(pictures), labels, time.perf_counter() - start, asked, notes)


def _never_learnt(loaded: LoadedPictures, prompts: tuple[str, ...]) -> list[str]:
    """A note for each prompt that is no caption of the run's world."""
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
    loaded: LoadedPictures, model: Diffusion, request: Request, inputs: Input
) -> tuple[Tensor, list[str]]:
    labels = [p for p in request.prompts or ("",) for _ in range(request.count)]
    condition_options = (
        ("a prompt", "--guidance") if model.guided else ()
    )  # options that say what is shown
    used = (*condition_options, "--count", "--solver", "--steps")
    if "low_resolution" in model.conditioners:
        request.unused("for a run that enlarges pictures", *used, "--picture")
        if not isinstance(request, Enlarge):
            raise WrongUse(f"{loaded.path} enlarges pictures: name one with --picture")
        return _drawn(loaded, model, request, labels, inputs), labels
    if isinstance(request, Draw):
        request.unused("for this run", *used)
        return _drawn(loaded, model, request, labels, inputs), labels
    request.unused(f"with {request.marks[-1]}", *used, *request.marks)
    if isinstance(request, Fill):
        return _filled(loaded, model, request, labels, inputs), labels
    if isinstance(request, Extend):
        return _extended(loaded, model, request, labels, inputs), labels
    raise WrongUse(
        "say what of the picture to make anew: --mask FILE (the picture itself, where a part of it is "
        "erased), or --outpaint right=64"
    )


def _drawn(
    loaded: LoadedPictures, model: Diffusion, request: Request, prompts: list[str], inputs: Input
) -> Tensor:
    """Pictures of prompts, and of a smaller picture."""
    n, config = len(prompts), model.config
    values = _conditions(loaded, model, prompts)
    if isinstance(request, Enlarge):
        small = inputs.tensor(request.picture, config.image_size // config.scale).to(loaded.device)
        values["low_resolution"] = small.expand(n, -1, -1, -1)
    return _sampled(model, values, request.drawing, generators(request.drawing.seed, n))


def _sampled(
    model: Diffusion,
    values: dict[str, Tensor],
    drawing: Drawing,
    generator: list[torch.Generator],
) -> Tensor:
    """A picture for each generator, so many at a time."""

    def part(rows: slice) -> Tensor:
        own = generator[rows]
        return sample(model, model.condition(len(own), **_rows(values, rows)), drawing, own)

    return in_parts(len(generator), part, BATCH)


def _rows(values: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in values.items()}


def _filled(
    loaded: LoadedPictures, model: Diffusion, request: Fill, prompts: list[str], inputs: Input
) -> Tensor:
    n, image_size, device = len(prompts), model.config.image_size, loaded.device
    values, generator = _conditions(loaded, model, prompts), generators(request.drawing.seed, n)
    picture = inputs.tensor(request.picture, image_size).to(device)
    hidden = inputs.hidden(request.mask, request.picture, image_size)
    known = torch.from_numpy(~hidden).float()[None, None].to(device)

    def part(rows: slice) -> Tensor:
        own = generator[rows]
        pictures = picture.expand(len(own), -1, -1, -1)
        mask = known.expand(len(own), -1, -1, -1)
        values_of_rows = _rows(values, rows)
        return fill(
            model, pictures, mask, request.drawing, conditions=values_of_rows, generator=own
        )

    return in_parts(n, part, BATCH)


def _extended(
    loaded: LoadedPictures, model: Diffusion, request: Extend, prompts: list[str], inputs: Input
) -> Tensor:
    values = _conditions(loaded, model, prompts)
    generator = generators(request.drawing.seed, len(prompts))
    picture = inputs.tensor(request.picture).to(loaded.device)

    def part(rows: slice) -> Tensor:
        own = generator[rows]
        pictures = picture.expand(len(own), -1, -1, -1)
        values_of_rows = _rows(values, rows)
        return extend(
            model,
            pictures,
            request.sides,
            request.drawing,
            conditions=values_of_rows,
            generator=own,
        )

    return in_parts(len(prompts), part, BATCH)


def _conditions(loaded: LoadedPictures, model: Diffusion, prompts: list[str]) -> dict[str, Tensor]:
    """Values for `Diffusion.condition`, one prompt per picture."""
    if "text" in model.conditioners:
        return {"text": loaded.captions(prompts)}
    if "label" in model.conditioners:
        return {"label": torch.tensor([_labels(loaded, p) for p in prompts], device=loaded.device)}
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
    loaded: LoadedPictures, model: SuperResolution, request: Request, inputs: Input
) -> tuple[Tensor, list[str]]:
    request.unused("for a run that restores pictures", "--picture")
    if not isinstance(request, Enlarge):
        raise WrongUse("this run enlarges pictures: name one with --picture")
    small = inputs.tensor(request.picture).to(loaded.device)
    with torch.no_grad():
        return model(small).clamp(-1, 1), [str(request.picture)]


def _vary(loaded: LoadedPictures, request: Vary, inputs: Input) -> tuple[Tensor, list[str]]:
    parts = _unclip_of(loaded, request.text_diff or (), "", inputs)
    image_size, drawing = parts.decoder.config.image_size, request.drawing
    picture = inputs.tensor(request.picture, image_size)[0].to(loaded.device)
    count = max(request.count, 2)  # the two ends of a way
    if request.text_diff:
        before, after = request.text_diff
        made = parts.text_diff(picture, before, after, count, drawing)
        return made, [f"{before} -> {after}"] * count
    if request.toward is not None:
        other = inputs.tensor(request.toward, image_size)[0].to(loaded.device)
        made = parts.interpolate(picture, other, count, drawing)
        return made, [f"{request.picture} -> {request.toward}"] * count
    made = parts.variations(picture, request.count, drawing)
    return made, [f"like {request.picture}"] * request.count


def _unclip(loaded: LoadedPictures, request: Request, inputs: Input) -> tuple[Tensor, list[str]]:
    used = ("a prompt", "--prior", "--count", "--solver", "--steps", "--guidance")
    request.unused("for a run that makes pictures from embeddings", *used)
    assert isinstance(request, Draw), "the others are marked by what is unused here"
    if not request.prompts:
        raise WrongUse("say what to make: a caption, or --variations-of a picture")
    if not request.prior:
        raise WrongUse(
            f"{loaded.path} makes pictures from embeddings: name a prior with --prior RUN"
        )
    labels = [p for p in request.prompts for _ in range(request.count)]
    parts = _unclip_of(loaded, request.prompts, request.prior, inputs)
    return parts.generate(labels, request.drawing), labels


def _unclip_of(
    loaded: LoadedPictures, captions: Sequence[str], prior_run: str, inputs: Input
) -> UnClip:
    """The decoder with the CLIP of its recipe, and the prior where one is named."""
    decoder = loaded.model
    if not isinstance(decoder, Diffusion) or "embedding" not in decoder.conditioners:
        raise WrongUse(
            f"{loaded.path} makes no pictures from embeddings: train dalle2-decoder and name that run"
        )
    clip = load_encoder(loaded.recipe.data.encoder).to(loaded.device)
    inputs.notes += cut_notes(clip.tokenizer, captions, clip.caption_length)
    prior = reads = None
    if prior_run:
        loaded_prior = load_pictures(prior_run)
        inputs.notes += loaded_prior.cut_notes(captions)
        if not isinstance(loaded_prior.model, Prior):
            raise WrongUse(
                f"{prior_run} is a {loaded_prior.model.config.kind}: name a run of a prior"
            )
        prior, reads = loaded_prior.model, loaded_prior.captions
    return UnClip(
        clip.model, decoder, loaded.captions, prior, clip_reads=clip.token_ids, prior_reads=reads
    )


def _enlarging(upsampler: LoadedPictures) -> LoadedPictures:
    """The run of an upsampler. Raises WrongUse for another run, before anything is drawn."""
    config = upsampler.model.config
    diffusion = isinstance(config, DiffusionConfig) and config.task == "upsample"
    if not diffusion and not isinstance(config, SuperResolutionConfig):
        raise WrongUse(f"{upsampler.path} enlarges nothing: name a run whose task is upsample")
    return upsampler


def _larger(
    upsampler: LoadedPictures, pictures: Tensor, prompts: list[str], drawing: Drawing
) -> Tensor:
    """The pictures as another run enlarges them, which is told what they show where it reads."""
    model = upsampler.model
    if isinstance(model, SuperResolution):
        with torch.no_grad():
            small = pictures.to(upsampler.device)
            return in_parts(len(small), lambda rows: model(small[rows]).clamp(-1, 1), BATCH)
    assert isinstance(model, Diffusion)
    side = model.config.image_size // model.config.scale
    if pictures.shape[-1] != side or pictures.shape[-2] != side:
        raise WrongUse(
            f"{upsampler.path} enlarges pictures of {side} pixels, these are "
            f"{pictures.shape[-2]} x {pictures.shape[-1]}"
        )
    values = _conditions(upsampler, model, prompts) if model.guided else {}
    values["low_resolution"] = pictures
    generator = generators(drawing.seed, len(pictures), unclip.UPSAMPLER_STAGE)
    return _sampled(model, values, drawing, generator)
