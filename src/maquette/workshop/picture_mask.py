"""Masks from picture files: which pixels to hide, read without colour management.

A mask is white where the picture is made anew. What people have as one:

    opaque, black and white, grey, a colour   a pixel's largest channel, from half of the range on (of a
                                              dim one, from half of its largest value on)
    two values, whatever they are             the higher one
    small whole numbers (0/1, classes)        all above 0, where no compression can have made them
    a palette whose colours do not differ     its numbers
    a palette of colours                      all that is not black (classes)
    a layer, the rest transparent             what is painted on it, black too
    black, or a picture, with a part erased   the transparent part (as DALL-E's masks); what is erased of
                                              is opaque along its border, a stroke is not

No colour profile and no gamma is applied. It is turned as its EXIF says, like a picture, cut and resized
like the picture it belongs to. Left out: soft masks, which are cut at a half.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from maquette.corpus.pictures.decode import NoPicture, shape_of

Hidden = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]
TRANSPARENT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa")
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
NUMBERS = 1 / 16  # of the range: what stays below is no brightness
TONES = 32  # of 255: within it two opaque pixels have one colour
ONE = 0.95  # share of a layer's opaque pixels that have its colour


@dataclass(frozen=True)
class Mask:
    """A mask. soft: (height, width), 1 where a pixel is made anew. note: how the file was read."""

    soft: Values
    note: str = ""

    def square(self, image_size: int) -> Hidden:
        """(height, width): of the middle square, as `picture_decode.decode` cuts it."""
        height, width = self.soft.shape
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        drawn = Image.fromarray(self.soft.astype(np.float32))
        box = (left, top, left + side, top + side)
        return np.asarray(drawn.resize((image_size, image_size), Image.Resampling.BOX, box)) >= 0.5


def read_mask(data: bytes, picture: bytes) -> Mask:
    """The mask in the bytes of a file, for the picture in those of another. Raises NoPicture."""
    mask, lossy = _opened(data)
    if mask.has_transparency_data and mask.mode in TRANSPARENT:
        layers = np.asarray(mask.convert("RGBA"), np.float64)
        alpha = layers[..., 3] / 255
        if alpha.min() < 0.5:
            return _layer(layers[..., :3], alpha, _opened(picture)[0])
    values, most = _values(mask)
    return Mask(*_opaque(values, most, lossy))


def _opened(data: bytes) -> tuple[Image.Image, bool]:
    """A picture, turned as its EXIF says, and whether its format is one that loses values."""
    shape_of(data)  # what is no picture, or too large, is refused by its header
    try:
        with Image.open(io.BytesIO(data)) as opened:
            lossy = opened.format in LOSSY
            opened.load()
            return ImageOps.exif_transpose(opened), lossy
    except Exception as error:  # a decoder that meets damage raises whatever it stumbles over
        raise NoPicture("damaged") from error


def _values(picture: Image.Image) -> tuple[Values, float]:
    """The largest channel of every pixel, and the largest value that the file could hold."""
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture, np.float64), 1.0
    if mode == "F":
        values = np.nan_to_num(np.asarray(picture, np.float64))
        return values, float(values.max())
    if mode.startswith("I"):
        return np.asarray(picture, np.float64), 65535.0
    if mode == "L":
        return np.asarray(picture, np.float64), 255.0
    colours = np.asarray(picture.convert("RGB"), np.float64)
    shown = colours.max(axis=2)
    if mode == "P" and shown.min() == 0 and (colours.min(axis=2) < shown).any():
        return (shown > 0).astype(np.float64), 1.0  # colours of classes, black for none
    if mode == "P" and shown.min() == shown.max():
        return np.asarray(picture, np.float64), 255.0
    return shown, 255.0


def _opaque(values: Values, most: float, lossy: bool) -> tuple[Values, str]:
    """The mask of a file without transparency, and its note."""
    low, high = float(values.min()), float(values.max())
    if high <= 0:
        return np.zeros_like(values), ""
    two = bool(((values == low) | (values == high)).all()) and low < high
    small = high < NUMBERS * most
    if small and lossy:
        return np.zeros_like(values), ""  # black, as compression leaves it
    if two:
        usual = (low, high) == (0, most)
        note = "" if usual else f"{high:g}, the higher of its two values, is made anew"
        return (values == high).astype(np.float64), note
    if small:
        return (values > 0).astype(
            np.float64
        ), f"all of its numbers above 0, up to {high:g}, are made anew"
    if high >= most / 2:
        return values / most, ""
    return values / high, f"all from half of {high:g} on, its largest value, is made anew"


def _layer(colours: Values, alpha: Values, picture: Image.Image) -> Mask:
    """The mask of a file with transparency; colours (height, width, 3), alpha (height, width)."""
    if not alpha.any():
        return Mask(alpha)
    alpha = alpha / alpha.max()  # a brush of half the opacity paints too
    seen = alpha >= 0.5
    opaque = colours[seen]  # (pixels, 3)
    edge = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    strokes = bool(edge.mean() < 0.5)  # what is erased of is opaque along its border

    def share(alike: Any) -> bool:
        return bool(alike.mean() > ONE)

    black, white = opaque.max(axis=1) < TONES, opaque.min(axis=1) > 255 - TONES
    flat, own = share(_near(opaque, np.median(opaque, axis=0))), False
    if picture.mode in TRANSPARENT:
        same = picture.convert("RGB").resize(alpha.shape[::-1])
        own = share(_near(opaque, np.asarray(same, np.float64)[seen]))
    if own and not (flat and strokes):
        return Mask(
            1 - alpha, "a picture with a part erased, and its transparent part is made anew"
        )
    if share(black) and not strokes:
        return Mask(1 - alpha, "black with a part erased, and its transparent part is made anew")
    if not share(black) and share(black | white):
        return Mask(
            alpha * colours.max(axis=2) / 255, "a layer, and what is white on it is made anew"
        )
    if flat or strokes:
        return Mask(alpha, "a layer, and what is painted on it is made anew")
    return Mask(1 - alpha, "a picture with a part erased, and its transparent part is made anew")


def _near(opaque: Values, colours: Values) -> npt.NDArray[np.bool_]:
    return np.abs(opaque - colours).max(axis=1) <= TONES  # type: ignore[no-any-return]
