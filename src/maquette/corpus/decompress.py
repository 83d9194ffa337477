"""The bytes of a file, inflated where its name ends in .gz, .zst, .bz2 or .xz, in bounded memory.

The compressed side is read 512 bytes at a time: a gzip stream grows at most 1032-fold and a zstd block of
4 bytes holds at most 128 kB, so that no step inflates to more than 16 MB, whatever the file holds; bzip2
and xz are asked for so much at most. A zstd window may be as large as the format's long mode allows,
2 GB, and so may an xz dictionary: both are taken as far as a file fills them.
Members and frames that follow each other are read as one, as gzip, zstd, bzip2 and xz write them.
"""

import bz2
import lzma
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

BLOCK = 1 << 20  # bytes read at a time
STEP = 1 << 9  # bytes inflated at a time
GROWN = 16 << 20  # bytes that a step of bzip2 or xz grows to
WINDOW = 1 << 31  # bytes that a stream may refer back to: `zstd --long=31`
UNPACKED = 4 << 30  # bytes of what is unpacked into a file, to be read from its end
CODINGS = (".gz", ".zst", ".bz2", ".xz")
DAMAGE = (zlib.error, zstandard.ZstdError, lzma.LZMAError, OSError, ValueError, MemoryError)


class Contents:
    """Reads a file up to its first damage.

    A compressed file that is damaged or cut off ends there, and `fault` then says so: nothing that
    could be read is lost.
    """

    def __init__(self, file: BinaryIO, name: str = "") -> None:
        self.fault: str | None = None
        self._file = file
        self._coding = next((c[1:] for c in CODINGS if name.lower().endswith(c)), "")
        self._inflater: Any = None  # zlib's or zstandard's: both tell where a stream ends
        self._held = bytearray()

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end."""
        if not self._coding:
            return self._file.read(size)
        while len(self._held) < size and not self.fault:
            waiting = self._inflater is not None and not getattr(
                self._inflater, "needs_input", True
            )
            data = b"" if waiting else self._file.read(STEP)
            if not data and not waiting:
                if self._inflater:
                    self.fault = f"cut off: {self._coding} data without its end"
                break
            try:
                self._inflate(data, waiting)
            except DAMAGE:
                self.fault = f"damaged {self._coding} data"
        data = bytes(self._held[:size])
        del self._held[:size]
        return data

    def lines(self, longest: int) -> Iterator[bytes | None]:
        """The lines without their ends; None for one that is longer than `longest` bytes."""
        held = b""
        dropped = False
        while block := self.read(BLOCK):
            first, *lines = block.split(b"\n")
            held = b"" if dropped else held + first
            for line in lines:
                yield None if dropped or len(held) > longest else held
                held, dropped = line, False
            dropped = dropped or len(held) > longest
        if held or dropped:
            yield None if dropped else held

    def _inflate(self, data: bytes, waiting: bool) -> None:
        """Inflate `data`, or more of the input given before."""
        while data or waiting:
            if self._inflater is None:
                data = data.lstrip(b"\0")  # some writers pad with zeros
                if not data:
                    return
                self._inflater = _inflater(self._coding)
            if self._coding in ("bz2", "xz"):
                self._held += self._inflater.decompress(data, GROWN)
            else:
                self._held += self._inflater.decompress(data)
            waiting = False
            data = self._inflater.unused_data if self._inflater.eof else b""
            if self._inflater.eof:
                self._inflater = None


def _inflater(coding: str) -> Any:
    if coding == "gz":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    if coding == "bz2":
        return bz2.BZ2Decompressor()
    if coding == "xz":
        return lzma.LZMADecompressor(memlimit=WINDOW + GROWN)
    return zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()


def plain(name: str) -> str:
    """A file's name in lower case, without its compression suffix."""
    name = name.lower()
    return next((name.removesuffix(c) for c in CODINGS if name.endswith(c)), name)


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, str | None]]:
    """A seekable file: the file itself, or its inflated content with the fault that ended it.

    The inflated file is removed on leaving. More than UNPACKED bytes count as a fault.
    """
    name = plain(path.name)
    if name == path.name.lower():
        yield path, None
        return
    with tempfile.TemporaryDirectory(prefix="maquette-") as folder, path.open("rb") as file:
        whole = Path(folder, f"unpacked{Path(name).suffix}")
        contents = Contents(file, path.name)
        with whole.open("wb") as out:
            size = 0
            while block := contents.read(BLOCK):
                size += len(block)
                if size > UNPACKED:
                    yield whole, f"more than {UNPACKED >> 30} GB when unpacked"
                    return
                out.write(block)
        yield whole, contents.fault
