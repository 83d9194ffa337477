"""The container GGUF: typed metadata, a table of tensors, their data, aligned (llama.cpp's file format).

    "GGUF"  version  tensors  entries | entries: key, type, value | tensors: name, dimensions, type, offset
    padding | data, each tensor at a multiple of the alignment

Read from the specification (ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian. Dimensions stand
fastest first, that is in the opposite order of torch's. Reading trusts nothing: every count, length and
offset is held against the bytes that are left before anything is made of it. Left out: arrays of arrays,
big-endian files, models cut into several files.
"""

import contextlib
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.serving.gguf_blocks import BLOCKS, block_type

MAGIC = b"GGUF"
VERSION, READABLE = 3, (2, 3)
ALIGNMENT, WIDEST = 32, 1 << 20
DIMENSIONS = 4
STRING, ARRAY, BOOL = 8, 9, 7
UINT32, FLOAT32, INT32, UINT8 = 4, 6, 5, 0
NUMBERS = dict(enumerate("B b H h I i f ?".split())) | {10: "Q", 11: "q", 12: "d"}
"""letters of `struct` of the types of numbers"""
NUMPY = {"B": "u1", "b": "i1", "H": "u2", "h": "i2", "I": "u4", "i": "i4", "f": "f4", "?": "u1",
         "Q": "u8", "q": "i8", "d": "f8"}  # fmt: skip
LONGEST = 60  # characters of a value in a message
ENTRY, INFO = 8 + 4 + 1, 8 + 4 + 4 + 8  # bytes that an entry and a tensor's row take at least

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TensorInfo:
    """One row of the table of tensors.

    shape: in torch's order, slowest first. type: name of the block type. offset: bytes from the begin of
    the data.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return BLOCKS[self.type].bytes_of(prod(self.shape))


class GGUFReader:
    """A GGUF file, whose tensors are read from the disk when they are asked for.

    Raises UserError, in one line, for what is no GGUF file, is cut short, or claims more than it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise UserError(f"{path} is empty: it is no GGUF file")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): name a GGUF file"
            ) from error
        try:
            self._read()
        except BaseException:
            self._map.close()
            raise

    def _read(self) -> None:
        cursor = _Cursor(self._map, self.path)
        if cursor.take(4) != MAGIC:
            raise UserError(f"{self.path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        version = cursor.number("I")
        if version not in READABLE:
            known = " and ".join(map(str, READABLE))
            raise UserError(f"{self.path} is GGUF of version {version}: Maquette reads {known}")
        tensors, entries = cursor.number("Q"), cursor.number("Q")
        cursor.check(entries * ENTRY + tensors * INFO, f"{tensors} tensors and {entries} entries")
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = cursor.string()
            if key in self.metadata:
                raise UserError(f"{self.path} has {shown(key)} twice: it is damaged")
            self.metadata[key] = cursor.value(cursor.number("I"))
        self.tensors: dict[str, TensorInfo] = {}
        for _ in range(tensors):
            info = self._info(cursor)
            if info.name in self.tensors:
                raise UserError(
                    f"{self.path} has the tensor {shown(info.name)} twice: it is damaged"
                )
            self.tensors[info.name] = info
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not _is_whole(alignment) or not 8 <= alignment <= WIDEST or alignment & (alignment - 1):
            raise UserError(
                f"{self.path} has an alignment of {shown(alignment)}: it is damaged (a power of two)"
            )
        self._data = aligned(cursor.at, alignment)
        used = self._data
        for info in sorted(self.tensors.values(), key=lambda info: info.offset):
            begin = self._data + info.offset
            if info.offset % alignment or begin < used:
                raise UserError(
                    f"{self.path}: the tensor {shown(info.name)} lies at {info.offset}, in another one or "
                    f"beside the alignment: it is damaged"
                )
            used = begin + info.size
        if used > len(self._map):
            raise UserError(
                f"{self.path} is cut short: its tensors end at {used:,} bytes, the file at "
                f"{len(self._map):,}: copy it again"
            )

    def _info(self, cursor: "_Cursor") -> TensorInfo:
        name = cursor.string()
        dimensions = cursor.number("I")
        if not 1 <= dimensions <= DIMENSIONS:
            raise UserError(
                f"{self.path}: the tensor {shown(name)} has {dimensions} dimensions: it is damaged"
            )
        shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
        kind = block_type(cursor.number("I"), f"{self.path}: the tensor {shown(name)}")
        if not prod(shape):
            raise UserError(f"{self.path}: the tensor {shown(name)} has no elements: it is damaged")
        if shape[-1] % BLOCKS[kind].weights:
            raise UserError(
                f"{self.path}: the tensor {shown(name)} has rows of {shape[-1]}, which {kind} cannot hold: "
                f"it is damaged"
            )
        return TensorInfo(name, shape, kind, cursor.number("Q"))

    def bytes_of(self, info: TensorInfo) -> Bytes:
        """The data of a tensor as it stands in the file, without a copy."""
        view = np.frombuffer(self._map, np.uint8, info.size, self._data + info.offset)
        return view

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the file; views that are still held keep it open."""
        with contextlib.suppress(BufferError):
            self._map.close()


class _Cursor:
    """A place in the bytes of a header."""

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self._content, self._path, self.at = content, path, 0

    def check(self, size: int, claim: str) -> None:
        """Raise UserError where fewer than `size` bytes are left."""
        if size > len(self._content) - self.at:
            raise UserError(
                f"{self._path} is cut short or damaged: it claims {claim}, and "
                f"{len(self._content) - self.at:,} bytes are left"
            )

    def take(self, size: int) -> bytes:
        self.check(size, f"{size:,} bytes")
        self.at += size
        return self._content[self.at - size : self.at]

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        """A value of a type: a number, a string, a list of strings, an array of numbers."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner == STRING:
                self.check(8 * count, f"a list of {count:,} strings")
                return [self.string() for _ in range(count)]
            if inner in NUMBERS:
                letter = NUMBERS[inner]
                return np.frombuffer(
                    self.take(count * struct.calcsize("<" + letter)), "<" + NUMPY[letter]
                )
        raise UserError(f"{self._path} has a value of type {kind}, which GGUF does not know")


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Iterable[tuple[str, tuple[int, ...], str]],
    data: Iterable[Bytes],
) -> int:
    """Write a GGUF file, one tensor in memory at a time; returns its size in bytes.

    metadata: int is written as uint32, float as float32, and lists by their first element; numpy arrays keep
    their type. tensors: name, shape in torch's order and block type of each. data: their bytes, in that
    order.
    """
    rows, offset = [], 0
    for name, shape, kind in tensors:
        rows.append(TensorInfo(name, shape, kind, offset))
        offset = aligned(offset + rows[-1].size, ALIGNMENT)
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(rows), len(metadata)))
        for key, value in metadata.items():
            file.write(_string(key) + _value(value))
        for row in rows:
            kind_number = BLOCKS[row.type].number
            shape = row.shape[::-1]
            file.write(_string(row.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            file.write(struct.pack("<IQ", kind_number, row.offset))
        begin = _pad(file)
        for row, content in zip(rows, data, strict=True):
            assert file.tell() == begin + row.offset and content.nbytes == row.size, row.name
            file.write(content.tobytes())
            _pad(file)
        return file.tell()


def _pad(file: BinaryIO) -> int:
    file.write(b"\0" * (aligned(file.tell(), ALIGNMENT) - file.tell()))
    return file.tell()


def shown(value: Any) -> str:
    """A value of a file as a message has it: in one line, and cut short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def aligned(at: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-at // alignment) * alignment


def _string(text: str) -> bytes:
    content = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content


def _value(value: Any) -> bytes:
    """The type and the bytes of a value."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, np.ndarray):
        kind = {"f4": FLOAT32, "i4": INT32, "u1": UINT8, "u4": UINT32}[value.dtype.str[1:]]
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + value.tobytes()
    assert isinstance(value, list), f"{type(value).__name__} has no type in GGUF"
    head = struct.pack("<IIQ", ARRAY, STRING, len(value))
    return head + b"".join(map(_string, value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
