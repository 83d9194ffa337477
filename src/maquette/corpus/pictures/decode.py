"""The bytes of a picture file as a square of 8-bit RGB.

The header comes first: what says it is larger than MOST_PIXELS is refused before a pixel of it is
decoded. JPEGs are decoded at 1/2, 1/4 or 1/8 where that is still twice the size wanted (libjpeg scales
inside its inverse cosine transform). Then the picture is cropped to its middle square, or padded, and
resized by Lanczos after a box reduction (Pillow's `reducing_gap`), then turned as its EXIF says.

Colours become 8-bit sRGB (picture_colour.py); transparency is laid on white; CMYK without a profile becomes
RGB by Pillow's plain rule. Left out: damage inside JPEG data that libjpeg itself passes over. Only common
formats are tried, none that starts another program.
"""

import contextlib
import functools
import io
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.Image import DecompressionBombError, Resampling, Transpose

from maquette.corpus.pictures.colour import Unusable, srgb, turned_over
from maquette.corpus.pictures.foreign import foreign_content

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MOST_PIXELS = 100_000_000  # 10,000 x 10,000: two copies as RGBA are 800 MB
MOST_BYTES = 128 << 20  # of a file
LEAST_SIDE = 8  # pixels: below it there is nothing to enlarge
DRAFT = 2.0  # a JPEG is decoded at this many times the size wanted, or more
GAP = 3.0  # as Pillow advises for results next to those of resizing in one step
ORIENTATION = 0x0112
STRICT: dict[str, bytes | tuple[bytes, ...]] = {"JPEG": b"\xff\xd8\xff", "TIFF": (b"II", b"MM")}
"""formats with variants that are not read, by the first bytes of those that are"""
WHITE = (255, 255, 255)
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
SIDEWAYS = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
Crop = Literal["center", "none"]
Pixels = npt.NDArray[np.uint8]


class NoPicture(Exception):
    """Bytes that are no picture; the message is the reason."""


def decode(data: bytes, image_size: int, crop: Crop = "center") -> tuple[Pixels, list[str]]:
    """A picture as (image_size, image_size, 3), and its conversions.

    crop: "center" takes the middle square, "none" the whole, on a white square. Raises NoPicture.
    """
    with _opened(data) as picture:
        return _square(picture, image_size, crop)


def decode_whole(data: bytes, most: int) -> Pixels:
    """A picture as it is, (height, width, 3), made smaller where it has more than `most` pixels."""
    with _opened(data) as picture:
        width, height = picture.size
        scale = min(1.0, math.sqrt(most / (width * height)))
        shape = (max(1, int(width * scale)), max(1, int(height * scale)))
        if scale < 1:
            picture.draft(None, (int(DRAFT * shape[0]) + 1, int(DRAFT * shape[1]) + 1))
        plain, turn = _loaded(picture, [])
        small = _laid(plain.resize(shape, Resampling.LANCZOS, reducing_gap=GAP), shape)
        return np.asarray(small if turn is None else small.transpose(turn))


def shape_of(data: bytes) -> tuple[int, int]:
    """(height, width) of a picture as it is shown, by its header. Raises NoPicture."""
    with _opened(data) as picture:
        width, height = picture.size
        turned = picture.format != "TIFF" and _orientation(picture) in SIDEWAYS
        return (width, height) if turned else (height, width)


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture of some bytes, not yet decoded; errors inside the context are raised as NoPicture."""
    if not data:
        raise NoPicture("empty")
    if len(data) > MOST_BYTES:
        raise NoPicture(too_long())
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise NoPicture(_too_large())
            if min(width, height) < LEAST_SIDE:
                raise NoPicture(f"a side of less than {LEAST_SIDE} pixels")
            yield picture
    except NoPicture:
        raise
    except UnidentifiedImageError as error:
        raise NoPicture(_unidentified(data)) from error
    except DecompressionBombError as error:
        raise NoPicture(_too_large()) from error
    except MemoryError as error:
        raise NoPicture("too little memory to decode it") from error
    except Exception as error:  # a decoder that meets damage raises whatever it stumbles over
        truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
        raise NoPicture("truncated" if truncated else "damaged") from error


def _unidentified(data: bytes) -> str:
    """Why Pillow opens no picture in these bytes."""
    known = foreign_content(data)
    if known:
        return known
    for name, start in STRICT.items():
        if data.startswith(start):
            try:
                Image.OPEN[name][0](io.BytesIO(data), "")
            except SyntaxError as error:  # what Pillow raises for a kind that it does not read
                bits = re.search(r"cannot handle (\d+)-bit", str(error))
                if bits:
                    return f"{name} of {bits[1]} bits a sample: save it with 8"
                if "unknown pixel mode" in str(error):
                    return (
                        f"{name} of a kind that is not read: save it as RGB or grey of 8 or 16 bits"
                    )
            except Exception:
                continue
    return "not a picture, or its header is damaged"


@functools.cache
def _formats() -> list[str]:
    """The formats of FORMATS that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def too_long() -> str:
    """Reason for a file of too many bytes."""
    return f"a file of more than {MOST_BYTES >> 20} MB"


def _too_large() -> str:
    return f"more than {MOST_PIXELS // 10**6} million pixels"


def _square(picture: Image.Image, image_size: int, crop: Crop) -> tuple[Pixels, list[str]]:
    width, height = picture.size
    done = []
    side = min(width, height) if crop == "center" else max(width, height)
    if side < image_size:
        done.append("enlarged")
    kind = picture.format
    wanted = DRAFT * image_size / side
    if wanted < 1:
        picture.draft(None, (int(width * wanted) + 1, int(height * wanted) + 1))
    plain, turn = _loaded(picture, done)
    if kind in ("GIF", "WEBP", "PNG", "AVIF", "TIFF") and _animated(picture):
        done.append("first picture of several")
    small = _resized(plain, image_size, crop)
    if turn is not None:
        small = small.transpose(turn)
        done.append("turned by EXIF")
    return np.asarray(small), done


def _loaded(picture: Image.Image, done: list[str]) -> tuple[Image.Image, Transpose | None]:
    """The loaded picture in mode L, RGB or RGBA, and how to transpose it."""
    white_is_zero = turned_over(picture)
    picture.load()
    turn = _orientation(picture)
    try:
        return srgb(picture, white_is_zero, done), turn
    except Unusable as error:
        raise NoPicture(str(error)) from error


def _resized(picture: Image.Image, image_size: int, crop: Crop) -> Image.Image:
    """RGB of (image_size, image_size): cut or padded to a square."""
    width, height = picture.size
    if crop == "center":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box, shape = (left, top, left + side, top + side), (image_size, image_size)
    else:
        scale = image_size / max(width, height)
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        box = (0.0, 0.0, float(width), float(height))
    small = picture.resize(shape, Resampling.LANCZOS, box, reducing_gap=GAP)
    return _laid(small, (image_size, image_size))


def _laid(small: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """RGB of (width, height): a smaller or transparent picture lies on white."""
    if small.mode == "RGBA" or small.size != shape:
        canvas = Image.new("RGB", shape, WHITE)
        at = ((shape[0] - small.size[0]) // 2, (shape[1] - small.size[1]) // 2)
        canvas.paste(small, at, small if small.mode == "RGBA" else None)
        return canvas
    return small.convert("RGB")


def _orientation(picture: Image.Image) -> Transpose | None:
    """The transposition by EXIF orientation, none for damaged EXIF. (TIFF is transposed as it is loaded.)"""
    try:
        value: Any = picture.getexif().get(ORIENTATION)
    except Exception:
        return None
    return TURNS.get(value) if isinstance(value, int) else None


def _animated(picture: Image.Image) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # damage behind the first picture
        return False
