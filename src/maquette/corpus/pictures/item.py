"""A picture that is not read yet: the location of its bytes, its caption and its class."""

from typing import NamedTuple

from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import EMPTY, Caption

PICTURES = tuple(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .ppm .pgm .avif .mpo".split()
)
NO_CAPTION = "no caption"


class Location(NamedTuple):
    """Location of a picture's bytes: `data`, or `size` bytes at `offset` of the file `path`."""

    size: int
    data: bytes | None = None
    path: str = ""
    offset: int = 0

    def read(self) -> bytes:
        """The bytes; fewer than `size` where the file ends."""
        if self.data is not None:
            return self.data
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Picture(NamedTuple):
    """A picture that is not read yet, with caption and class.

    source: where it was found, so that a person finds it again. label: the name of its class.
    converted: what was done to the caption.
    """

    source: str
    caption: str
    label: str | None
    converted: tuple[str, ...]
    location: Location


def captioned(source: str, known: Caption | None, location: Location) -> Picture | Skipped:
    """The picture with its caption, or the reason that it has none."""
    if known is None or not known.text:
        return Skipped(source, EMPTY if known and EMPTY in known.converted else NO_CAPTION)
    printable = Skipped(source, "").source
    return Picture(printable, known.text, known.label, known.converted, location)
