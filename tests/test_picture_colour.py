"""Colours as a browser shows them: profiles, gamma, deep grey; what cannot be applied is counted."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from maquette.corpus.pictures.colour import (
    BROKEN,
    EIGHT,
    FOREIGN,
    GAMMA,
    PACKED,
    PROFILE,
    SIXTEEN,
    TRANSPARENT,
    TWELVE,
    WHITE_IS_ZERO,
)
from maquette.corpus.pictures.decode import NoPicture, decode, decode_whole

SRGB_CURVE = struct.pack(
    ">4s4xH2x5i", b"para", 3, *(round(65536 * v) for v in (2.4, 0.94787, 0.05213, 0.0774, 0.04045))
)
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
"""XYZ of the primaries of Display P3 under D50, as Apple's profile has them"""


def icc(space: bytes, tags: dict[bytes, bytes], kind=b"mntr", connection=b"XYZ ") -> bytes:
    """A profile of the second version."""
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249))} | tags
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x02400000, kind, space, connection)
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + xyz((0.9642, 1, 0.8249))[8:]
    return head.ljust(128, b"\0") + table + body


def xyz(values) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * v) for v in values))


def gamma(value: float) -> bytes:
    return struct.pack(">4s4xH2xi", b"para", 0, round(65536 * value))


def matrix(primaries=P3, curve=SRGB_CURVE) -> bytes:
    tags = {sign + b"XYZ": xyz(v) for sign, v in zip((b"r", b"g", b"b"), primaries, strict=True)}
    return icc(b"RGB ", tags | {sign + b"TRC": curve for sign in (b"r", b"g", b"b")})


def inks() -> bytes:
    """CMYK by a table of its 16 corners: each full ink takes light, and some of its own colour."""
    corners = bytearray()
    for corner in range(16):
        c, m, y, k = (corner >> 3 & 1, corner >> 2 & 1, corner >> 1 & 1, corner & 1)
        light = max(0, 255 - 70 * c - 80 * m - 20 * y - 230 * k)
        corners += bytes((light, 128 - 40 * c + 70 * m, 128 - 45 * c + 60 * y))
    table = struct.pack(">4s4x4B", b"mft1", 4, 3, 2, 0)
    table += struct.pack(">9i", *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table += bytes(range(256)) * 4 + bytes(corners) + bytes(range(256)) * 3
    return icc(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")


def saved(picture: Image.Image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def plain(colour, mode="RGB") -> Image.Image:
    return Image.new(mode, (16, 16), colour)


def lattice() -> Image.Image:
    y, x = np.mgrid[0:16, 0:16] * 17
    return Image.fromarray(np.stack([x, y, 255 - (x + y) // 2], -1).astype(np.uint8))


def shown(data: bytes) -> tuple[np.ndarray, list[str]]:
    pixels, done = decode(data, 16)
    assert (decode_whole(data, 1 << 20) == pixels).all()
    return pixels.astype(int), done


def by_littlecms(picture: Image.Image, profile: bytes) -> np.ndarray:
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(picture, own, srgb, outputMode="RGB"), int)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_colours_of_a_profile_are_those_that_littlecms_shows(kind):
    if kind == "AVIF" and "AVIF" not in (Image.init(), Image.OPEN)[1]:
        pytest.skip("this Pillow reads no AVIF")
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    data = saved(lattice(), kind, icc_profile=matrix(), **options)
    pixels, done = shown(data)
    assert done == [PROFILE]
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    assert (pixels == by_littlecms(stored, matrix())).all()
    assert np.abs(pixels - np.asarray(stored, int)).max() > 20


def test_a_known_colour_of_display_p3_is_red():
    pixels, _ = shown(saved(plain((234, 51, 35)), icc_profile=matrix()))
    assert np.abs(pixels - (255, 0, 0)).max() <= 2


def test_a_profile_of_srgb_changes_no_byte():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    primaries = (
        (0.43607, 0.22249, 0.01392),
        (0.38515, 0.71687, 0.09708),
        (0.14307, 0.06061, 0.7141),
    )
    for profile in (own, matrix(primaries)):
        pixels, done = shown(saved(lattice(), icc_profile=profile))
        assert (pixels == np.asarray(lattice())).all()
        assert done == []


def test_a_profile_reaches_every_mode():
    profile = matrix()
    wanted = by_littlecms(plain((0, 200, 40)), profile)[0, 0]
    clear = plain((0, 200, 40, 255), "RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 8, 16))
    pixels, done = shown(saved(clear, icc_profile=profile))
    assert done == [TRANSPARENT, PROFILE]
    assert (pixels[:, 8:] == wanted).all() and (pixels[:, :8] == 255).all()
    pixels, done = shown(saved(plain((0, 200, 40)).quantize(4), icc_profile=profile))
    assert done == ["palette", PROFILE] and np.abs(pixels - wanted).max() <= 2
    bright = icc(b"GRAY", {b"kTRC": gamma(1.0)})
    for grey in (plain(55, "L"), Image.fromarray(np.full((16, 16), 55 << 8, np.uint16))):
        pixels, done = shown(saved(grey, icc_profile=bright))
        assert done[-1] == PROFILE and np.abs(pixels - 128).max() <= 2  # linear 0.216


def test_inks_with_a_profile_are_converted_by_it():
    picture = Image.merge("CMYK", [*lattice().split(), plain(30, "L")])
    for kind, options in (("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        data = saved(picture, kind, icc_profile=inks(), **options)
        stored = Image.open(io.BytesIO(data))
        pixels, done = shown(data)
        assert done == ["CMYK", PROFILE]
        assert (pixels == by_littlecms(stored, inks())).all()
        assert np.abs(pixels - np.asarray(stored.convert("RGB"), int)).max() > 40


@pytest.mark.parametrize(
    ("picture", "profile", "reason"),
    [
        (lattice(), b"no profile at all", BROKEN),
        (lattice(), matrix()[:200], BROKEN),
        (lattice(), icc(b"RGB ", {}), BROKEN),
        (lattice(), inks(), FOREIGN),
        (lattice(), icc(b"GRAY", {b"kTRC": gamma(1.0)}), FOREIGN),
        (lattice(), icc(b"Lab ", {}), FOREIGN),
    ],
    ids=range(6),
)
def test_a_profile_that_cannot_be_used_is_counted_and_the_picture_kept(picture, profile, reason):
    pixels, done = shown(saved(picture, icc_profile=profile))
    assert done == [reason]
    assert (pixels == np.asarray(picture)).all()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with these behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(*points: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in points)))


def encoded(linear: np.ndarray) -> np.ndarray:
    """sRGB levels of light in [0, 1], by IEC 61966-2-1."""
    low, high = 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high) * 255


@pytest.mark.parametrize("value", [1.0, 0.55556])
def test_the_gamma_of_a_png_is_applied(value):
    for picture in (lattice(), lattice().convert("L")):
        pixels, done = shown(with_chunks(saved(picture), gama(value)))
        wanted = encoded((np.asarray(picture.convert("RGB")) / 255) ** (1 / value))
        assert done == [GAMMA]
        assert np.abs(pixels - wanted).max() <= 1.5


def test_the_primaries_of_a_png_are_applied():
    data = with_chunks(
        saved(plain((234, 51, 35))), chrm(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    )
    pixels, done = shown(data)
    assert done == [GAMMA]
    assert np.abs(pixels - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(0.45455), chrm(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)),
        (gama(1.0), chunk(b"sRGB", b"\0")),
        (gama(0.45455),),
    ],
    ids=range(3),
)
def test_what_a_png_says_of_srgb_changes_no_byte(chunks):
    pixels, done = shown(with_chunks(saved(lattice()), *chunks))
    assert done == []
    assert (pixels == np.asarray(lattice())).all()


@pytest.mark.parametrize("chunks", [(gama(0),), (chrm(*[0.0] * 8),)], ids=range(2))
def test_nonsense_of_a_png_about_its_colours_is_counted(chunks):
    pixels, done = shown(with_chunks(saved(lattice()), *chunks))
    assert done == [BROKEN]
    assert (pixels == np.asarray(lattice())).all()


def tiff(values: np.ndarray, order: str, bits=16, photometric=1, extra=()) -> bytes:
    """Grey of 16 bits, or of 12 that are packed, uncompressed."""
    if bits == 12:
        pairs = values.astype(np.uint32).reshape(-1, 2)
        both = pairs[:, 0] << 12 | pairs[:, 1]
        body = np.stack([both >> 16 & 255, both >> 8 & 255, both & 255], -1).astype("u1").tobytes()
    else:
        body = values.astype(f"{order}u2").tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8),
            (277, 1), (278, height), (279, len(body)), *extra]  # fmt: skip
    directory = struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(body)) + body + directory + b"\0" * 4


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)  # levels of 8 bits


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("values", "bits", "photometric", "extra", "done"),
    [
        (RAMP * 257, 16, 1, (), [SIXTEEN]),
        (RAMP * 257, 16, 0, (), [SIXTEEN, WHITE_IS_ZERO]),
        (RAMP * 16, 12, 1, (), [PACKED]),
        (RAMP * 16, 12, 0, (), [PACKED, WHITE_IS_ZERO]),
        (RAMP * 16, 16, 1, (), [TWELVE]),
        (RAMP * 16, 16, 0, (), [TWELVE, WHITE_IS_ZERO]),
        (RAMP, 16, 1, (), [EIGHT]),
        (RAMP * 16, 16, 1, ((281, 4095),), [TWELVE]),
    ],
    ids=range(8),
)
def test_deep_grey_of_a_tiff_keeps_its_levels(order, values, bits, photometric, extra, done):
    pixels, named = shown(tiff(values, order, bits, photometric, extra))
    wanted = RAMP.astype(int) if photometric else 255 - RAMP.astype(int)
    assert named == done
    assert np.abs(pixels - wanted[..., None]).max() <= 1


def test_the_brightest_level_that_a_tiff_names_is_believed():
    pixels, done = shown(tiff(RAMP * 16, "<", extra=((281, 65535),)))
    assert done == [SIXTEEN]
    assert pixels.max() == 15


def test_deep_grey_of_a_png_keeps_its_levels():
    for factor, done in ((257, SIXTEEN), (16, TWELVE), (1, EIGHT)):
        pixels, named = shown(saved(Image.fromarray(RAMP * factor)))
        assert named == [done]
        assert (pixels == RAMP[..., None]).all()
    black = Image.fromarray(RAMP * 0)
    assert shown(saved(black))[1] == [SIXTEEN]


def test_a_level_of_deep_grey_that_is_not_seen_is_white():
    data = with_chunks(saved(Image.fromarray(RAMP * 257)), chunk(b"tRNS", b"\0\0"))
    pixels, done = shown(data)
    assert done == [SIXTEEN, TRANSPARENT]
    assert (pixels[0, 0] == 255).all() and (pixels[0, 1] == 1).all()


def test_deep_colour_of_a_png_keeps_its_high_byte():
    deep = (np.asarray(lattice()).astype(">u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    head = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    pixels, _ = shown(data + chunk(b"IEND", b""))
    assert (pixels == np.asarray(lattice())).all()


def test_deep_data_that_pillow_does_not_read_is_named():
    jpeg = bytearray(saved(lattice(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 4
    jpeg[at] = 12
    with pytest.raises(NoPicture, match="JPEG of 12 bits a sample: save it with 8"):
        decode(bytes(jpeg), 16)
    with pytest.raises(NoPicture, match="TIFF of a kind that is not read"):
        decode(tiff(RAMP, "<", 16, 1, ((339, 9),)), 16)


def heif(*brands: bytes) -> bytes:
    body = brands[0] + b"\0" * 4 + b"".join(brands[1:])
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + b"\0" * 200


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (heif(b"heic", b"mif1", b"heic"), "HEIC: convert to JPEG"),
        (heif(b"mif1", b"heic"), "HEIC: convert to JPEG"),
        (b"\xff\x0a" + b"\0" * 99, "JPEG XL: convert to PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 99, "JPEG XL: convert to PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 99, "JPEG 2000: convert to PNG"),
        (b"8BPS\0\x01" + b"\0" * 99, "PSD: save it as PNG"),
    ],
)
def test_formats_that_are_not_read_are_named_with_the_way_out(data, reason):
    with pytest.raises(NoPicture, match=reason):
        decode(data, 16)


def test_without_a_decoder_of_avif_the_way_out_is_named(monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    monkeypatch.setattr("maquette.corpus.pictures.decode._formats", lambda: ["PNG"])
    with pytest.raises(NoPicture, match="AVIF: this Pillow does not read it"):
        decode(heif(b"avif", b"mif1"), 16)
