"""Colour management: a decoded picture to 8-bit sRGB, by its profile, gamma and chromaticities.

    ICC profile         converted by littleCMS (Pillow's ImageCms) with the perceptual intent, as browsers do
    gAMA, cHRM of PNG   become such a profile, where neither a profile nor an sRGB chunk is there
    16-bit grey         its high byte; the high byte of the bits that are used, where those are 12 or 8
    white is zero       turned over, where Pillow has not (TIFF of more than 8 bits)

A profile that turns no colour of a lattice by more than SAME levels is sRGB: such a picture keeps its bytes.
One that is broken, or of other channels, is left and counted; the picture is taken for sRGB. The bits that
are used are those of the file's header; a PNG and a TIFF of 16 bits may hold 12-bit data, which is told by
the brightest pixel. Sources: ICC.1:2010 (profile format), W3C PNG (third edition) 11.3.2, TIFF 6.0,
http://brucelindbloom.com (chromatic adaptation). Left out: PNG's cICP, what AVIF says outside of a profile,
the EXIF's word on Adobe RGB, and gamma beyond the 8 bits that Pillow decodes.
"""

import functools
import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, TiffImagePlugin

SAME = 2  # levels of 255
PROFILE, GAMMA = "colours converted to sRGB by their profile", "colours converted to sRGB by gAMA"
BROKEN = "a broken colour profile: taken for sRGB"
FOREIGN = "a colour profile of other channels: taken for sRGB"
SIXTEEN, TWELVE = "16 bit", "12-bit data in 16 bits: scaled"
EIGHT = "8-bit data in 16 bits: scaled"
PACKED = "12 bit"
WHITE_IS_ZERO = "white is zero: turned over"
TRANSPARENT = "transparency on white"
PLAIN_GAMMA = 0.45455  # what PNG writers say of sRGB
_BITS, _PHOTOMETRIC, _BRIGHTEST = 258, 262, 281  # TIFF tags
GREYS = ("L", "LA", "La", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of all profiles
_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # x, y of white, red, green, blue
Numbers = npt.NDArray[np.float64]

# Kinds of TIFF that differ from those Pillow reads in the byte order or in what zero means alone
_WHITE = {
    (b"MM", 0, (1,), 1, (16,), ()): ("I;16B", "I;16B"),
    (b"II", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 0, (1,), 1, (12,), ()): ("I;16", "I;12"),
    (b"MM", 1, (1,), 1, (12,), ()): ("I;16", "I;12"),
}
for _kind, _mode in _WHITE.items():
    TiffImagePlugin.OPEN_INFO.setdefault(_kind, _mode)


class Unusable(Exception):
    """A picture whose numbers are no levels; the message is the reason."""


def srgb(picture: Image.Image, white_is_zero: bool, done: list[str]) -> Image.Image:
    """The loaded picture in mode L, RGB or RGBA and in sRGB; `done` receives the conversions.

    white_is_zero: result of `turned_over` before the picture was loaded. Raises Unusable.
    """
    plain = _plain(picture, white_is_zero, done)
    profile, how = _profile(picture)
    if not profile or picture.mode == "LAB":
        return plain
    try:
        space = _space(profile)
    except (OSError, ImageCms.PyCMSError):
        return _said(plain, BROKEN, done)
    source = picture if space == picture.mode == "CMYK" else plain
    if space not in ("RGB", "L", source.mode) or (space == "L" and picture.mode not in GREYS):
        return _said(plain, FOREIGN, done)
    try:
        if _is_srgb(profile, space):
            return plain
        made = _applied(source, profile, space)
    except (OSError, ValueError, ImageCms.PyCMSError):
        return _said(plain, BROKEN, done)
    return _said(made, how, done)


def turned_over(picture: Image.Image) -> bool:
    """Whether zero is white in a picture and Pillow will not invert it; called before loading."""
    tags: Any = getattr(picture, "tag_v2", {})
    if picture.format != "TIFF" or tags.get(_PHOTOMETRIC) != 0 or not picture.mode.startswith("I"):
        return False
    decoders = [tile[3] for tile in picture.tile]  # type: ignore[attr-defined]
    raw = {decoder[0] if isinstance(decoder, tuple) else decoder for decoder in decoders}
    return raw <= {"I;16", "I;16B", "I;16N", "I;12"}


def _said(picture: Image.Image, conversion: str, done: list[str]) -> Image.Image:
    done.append(conversion)
    return picture


def _plain(picture: Image.Image, white_is_zero: bool, done: list[str]) -> Image.Image:
    """The picture in mode L, RGB or RGBA, its numbers unchanged."""
    mode = picture.mode
    if mode.startswith("I"):
        return _grey16(picture, white_is_zero, done)
    if mode == "F":
        raise Unusable("mode F (floating point)")
    if picture.has_transparency_data:
        done.append(TRANSPARENT)
        return picture if mode == "RGBA" else picture.convert("RGBA")  # one copy less
    if mode in ("L", "RGB"):
        return picture
    if mode == "1":
        return _said(picture.convert("L"), "1 bit", done)
    done.append({"P": "palette"}.get(mode, mode))
    try:
        return picture.convert("RGB")
    except ValueError as error:
        raise Unusable(f"mode {mode}") from error


def _grey16(picture: Image.Image, white_is_zero: bool, done: list[str]) -> Image.Image:
    """16-bit grey in 8 bits; Pillow holds it in mode I;16 or, from some files, I."""
    grey = np.asarray(picture)  # (height, width)
    brightest = int(grey.max())
    if picture.mode == "I" and (grey.min() < 0 or brightest > 0xFFFF):
        raise Unusable("mode I (32 bit)")
    bits, conversion = _used(picture, brightest)
    done.append(conversion)
    small = (np.minimum(grey, (1 << bits) - 1) >> (bits - 8)).astype(np.uint8)
    if white_is_zero:
        small = 255 - small
        done.append(WHITE_IS_ZERO)
    made = Image.fromarray(small)
    clear = picture.info.get("transparency")  # a level of PNG's that is not seen
    if not isinstance(clear, int):
        return made
    done.append(TRANSPARENT)
    seen = Image.fromarray(np.where(grey == clear, 0, 255).astype(np.uint8))
    return Image.merge("LA", (made, seen)).convert("RGBA")


def _used(picture: Image.Image, brightest: int) -> tuple[int, str]:
    """Number of the 16 bits that are used, and the name of the conversion."""
    tags: Any = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    if tags.get(_BITS) == (12,):
        return 12, PACKED
    most = tags.get(_BRIGHTEST)
    most = most[0] if isinstance(most, tuple) and most else most
    if not isinstance(most, int) and picture.format in ("PNG", "TIFF"):
        most = brightest
    if isinstance(most, int) and 0 < brightest <= most < 1 << 12:
        return (8, EIGHT) if most < 1 << 8 else (12, TWELVE)
    return 16, SIXTEEN


def _profile(picture: Image.Image) -> tuple[bytes, str]:
    """The ICC profile that the file holds or describes; b"" for none and for declared sRGB."""
    info = picture.info
    embedded = info.get("icc_profile")
    if isinstance(embedded, bytes) and embedded:
        return embedded, PROFILE
    if picture.format != "PNG" or "srgb" in info or not ("gamma" in info or "chromaticity" in info):
        return b"", ""
    gamma, points = info.get("gamma", PLAIN_GAMMA), info.get("chromaticity", _SRGB)
    if abs(gamma / PLAIN_GAMMA - 1) < 0.02:
        gamma = None  # the curve of sRGB
    if gamma is None and max(abs(a - b) for a, b in zip(points, _SRGB, strict=True)) < 0.002:
        return b"", ""
    return _described(gamma, points), GAMMA


@functools.lru_cache(maxsize=64)
def _described(gamma: float | None, points: tuple[float, ...]) -> bytes:
    """An ICC profile of a gamma, None for sRGB's curve, and of chromaticities; b"x" for nonsense."""
    try:
        white, *primaries = (_xyz(points[i], points[i + 1]) for i in range(0, 8, 2))
        matrix = np.stack(primaries, 1)  # columns: XYZ of red, green, blue
        matrix = matrix * np.linalg.solve(matrix, white)
        cone = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
        columns = (np.linalg.inv(_BRADFORD) @ cone @ _BRADFORD @ matrix).T
        if gamma is not None:
            curve = struct.pack(">4s4xH2xi", b"para", 0, round(65536 / gamma))
        else:
            srgb = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
            curve = struct.pack(">4s4xH2x5i", b"para", 3, *(round(65536 * v) for v in srgb))
        tags = {b"wtpt": _point(_D50)}
        for sign, column in zip((b"r", b"g", b"b"), columns, strict=True):
            tags |= {sign + b"XYZ": _point(column), sign + b"TRC": curve}
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return b"x"
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + _point(_D50)[8:]
    return head.ljust(128, b"\0") + table + body


def _xyz(x: float, y: float) -> Numbers:
    """XYZ of a chromaticity at luminance 1."""
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _point(xyz: Numbers) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * float(v)) for v in xyz))


def _opened(profile: bytes) -> Any:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


@functools.lru_cache(maxsize=16)
def _space(profile: bytes) -> str | None:
    """The Pillow mode of a profile's colour space; None for others. Raises PyCMSError, OSError."""
    return _SPACES.get(_opened(profile).profile.xcolor_space)


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, space: str) -> Any:
    """The transform to sRGB. Raises PyCMSError, OSError for an unusable profile."""
    to = ImageCms.createProfile("sRGB")
    intent = ImageCms.Intent.PERCEPTUAL
    return ImageCms.buildTransform(_opened(profile), to, space, "RGB", intent)


@functools.lru_cache(maxsize=16)
def _is_srgb(profile: bytes, space: str) -> bool:
    if space == "CMYK":
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    if space == "L":
        colours = Image.fromarray(levels[None])
    else:
        lattice = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        colours = Image.fromarray(np.ascontiguousarray(lattice))
    turned = np.asarray(_applied(colours, profile, space), int)
    return int(np.abs(turned - np.asarray(colours.convert("RGB"), int)).max()) <= SAME


def _applied(picture: Image.Image, profile: bytes, space: str) -> Image.Image:
    """The picture in sRGB: RGB, or RGBA with its alpha."""
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else None
    if picture.mode != space:
        picture = picture.convert(space)
    made: Any = ImageCms.applyTransform(picture, _transform(profile, space))
    if alpha is not None:
        made.putalpha(alpha)
    result: Image.Image = made
    return result
