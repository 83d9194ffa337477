"""Picture runs and CLIPs as the server knows them."""

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.pictures.decode import NoPicture, decode, shape_of
from maquette.models.clip import Clip
from maquette.serving.api.run import PictureOrder, PicturesMade, Stopped
from maquette.training.datasets.pictures import to_tensor
from maquette.workshop.load_pictures import load_pictures
from maquette.workshop.picture_generation import make
from maquette.workshop.picture_request import Options


class ServedPictures:
    """A run that makes pictures; see `api.run.PictureMaker`."""

    def __init__(self, folder: Path) -> None:
        self._loaded = load_pictures(folder)

    def make(self, order: PictureOrder, stopped: Callable[[], bool]) -> PicturesMade:
        def check(*_: Any) -> None:
            if stopped():
                raise Stopped

        check()
        hook = self._loaded.model.register_forward_hook(check)
        try:
            with tempfile.TemporaryDirectory(prefix="maquette-") as name:
                folder = Path(name)
                try:
                    made = make(self._loaded, _options(order, folder).request())
                except UserError as error:
                    raise type(error)(_without(str(error), folder)) from error
                notes = [_without(note, folder) for note in made.notes]
        finally:
            hook.remove()
        height, width = made.pixels.shape[1:3]
        return PicturesMade(
            [_png(one) for one in made.pixels], width, height, made.evaluations, notes
        )


class ClipModel:
    """A CLIP; see `api.run.Embedder`."""

    def __init__(self, folder: Path) -> None:
        self._loaded = load_pictures(folder)
        assert isinstance(self._loaded.model, Clip)
        self._model = self._loaded.model

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> list[list[float]]:
        if notes := self._loaded.cut_notes(texts):
            raise WrongUse(f"{notes[0]}: shorten it")
        vectors: list[list[float]] = self._model.embed_captions(
            self._loaded.captions(list(texts))
        ).tolist()
        return vectors

    @torch.inference_mode()
    def picture(self, data: bytes) -> list[float]:
        try:
            pixels = decode(data, self._model.config.image_size)[0]
        except NoPicture as error:
            raise UserError(f"the picture cannot be read ({error}): send another") from error
        tensor = to_tensor(np.ascontiguousarray(pixels)[None]).to(self._loaded.device)
        vector: list[float] = self._model.embed_pictures(tensor)[0].tolist()
        return vector


def _options(order: PictureOrder, folder: Path) -> Options:
    """The options of `maquette generate` that an order means; what it brings becomes files of a folder."""
    files = {
        "picture": order.picture, "mask": order.mask, "variations_of": order.vary, "toward": order.toward,
    }  # fmt: skip
    given: dict[str, Any] = {}
    if order.picture is not None and order.mask is order.picture and not _transparent(order.mask):
        raise WrongUse(
            "the picture has no transparent part to be made anew: erase a part, or send a mask, or outpaint"
        )
    for name, data in files.items():
        if data is not None:
            given[name] = folder / name
            given[name].write_bytes(data)
    return Options(
        prompts=(order.prompt,) if order.prompt else (),
        count=order.count,
        outpaint=dict(order.outpaint),
        prior=str(order.prior or ""),
        upsample=str(order.upsample or ""),
        solver=order.solver,
        steps=order.steps,
        guidance=order.guidance,
        seed=order.seed,
        **given,
    )


def _transparent(data: bytes) -> bool:
    """Whether a picture has transparent pixels; what is no picture is refused where it is read."""
    try:
        shape_of(data)
        with Image.open(io.BytesIO(data)) as opened:
            return bool(opened.has_transparency_data)
    except (NoPicture, OSError, ValueError):
        return True


def _without(text: str, folder: Path) -> str:
    """A message without the folder of the files that it speaks of."""
    return text.replace(f"{folder}/", "")


def _png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()
