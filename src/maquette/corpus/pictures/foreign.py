"""Picture formats by first bytes and suffix: those that are read, and those that must be converted.

A file whose name has no ending is looked at; formats that Pillow does not read are named with the way to
one that it does.
"""

from PIL import Image

HEIC = "HEIC: convert to JPEG (heif-convert IN.heic OUT.jpg, or magick IN.heic OUT.jpg)"
JPEG_XL = "JPEG XL: convert to PNG or JPEG (djxl IN.jxl OUT.png)"
AVIF = "AVIF: this Pillow does not read it: convert to PNG (avifdec IN.avif OUT.png), or install pillow 11.3"
JPEG_2000 = "JPEG 2000: convert to PNG (magick IN.jp2 OUT.png)"
RAW = "a camera's raw file: convert to JPEG (darktable-cli IN OUT.jpg)"
PSD = "PSD: save it as PNG"
SVG = "SVG: draw it as PNG (rsvg-convert IN.svg -o OUT.png)"
FOREIGN_ENDINGS = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs"), HEIC),
    ".jxl": JPEG_XL,
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf"), JPEG_2000),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2"), RAW),
    ".psd": PSD,
    ".svg": SVG,
}
"""suffixes of pictures that are not read, with the mend"""
HEAD = 64  # bytes that tell
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


def foreign_content(data: bytes) -> str | None:
    """The mend for a picture of a format that is not read, by its first bytes; None for others."""
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        Image.init()
        return None if "AVIF" in Image.OPEN else AVIF
    if brands & _HEIF_BRANDS:
        return HEIC
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return JPEG_XL
    if data.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return JPEG_2000
    return PSD if data.startswith(b"8BPS\0\x01") else None


def picture_content(data: bytes) -> bool:
    """Whether bytes begin as a picture does."""
    if data.startswith(_STARTS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return True
    return bool(_brands(data) & _AVIF_BRANDS) or foreign_content(data) is not None


def _brands(data: bytes) -> set[bytes]:
    """The brands of an ISO base media file, as HEIF and AVIF are."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), HEAD)
    return {data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))}
