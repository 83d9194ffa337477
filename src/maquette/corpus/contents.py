"""The bytes of a file, inflated where its name ends in .gz or .zst, in bounded memory.

The compressed side is read 512 bytes at a time: a gzip stream grows at most 1032-fold and a zstd block of
4 bytes holds at most 128 kB, so that no step inflates to more than 16 MB, whatever the file holds.
Members and frames that follow each other are read as one, as gzip and zstd write them.
"""

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import zstandard

BLOCK = 1 << 20  # bytes read at a time
STEP = 1 << 9  # bytes inflated at a time
CODINGS = (".gz", ".zst")


class Contents:
    """Reads what a file holds up to where it is sound.

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
            data = self._file.read(STEP)
            if not data:
                if self._inflater:
                    self.fault = f"cut off: {self._coding} data without its end"
                break
            try:
                self._inflate(data)
            except (zlib.error, zstandard.ZstdError):
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

    def _inflate(self, data: bytes) -> None:
        while data:
            if self._inflater is None:
                data = data.lstrip(b"\0")  # some writers pad with zeros
                if not data:
                    return
                self._inflater = _inflater(self._coding)
            self._held += self._inflater.decompress(data)
            data = self._inflater.unused_data
            if self._inflater.eof:
                self._inflater = None


def _inflater(coding: str) -> Any:
    if coding == "gz":
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    return zstandard.ZstdDecompressor().decompressobj()


def plain(name: str) -> str:
    """A file's name in small letters, without the ending that says how it is compressed."""
    name = name.lower()
    return next((name.removesuffix(c) for c in CODINGS if name.endswith(c)), name)
