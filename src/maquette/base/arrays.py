"""Arrays in one file, opened by memory map: the container of every binary artefact.

    bytes 0-7     magic: which artefact this is
    bytes 8-11    length of the header in bytes, uint32, little-endian
    bytes 12-     the header: JSON in ASCII, padded with spaces so that the arrays start at a
                  multiple of 64
    then          each array, little-endian and in C order, at a multiple of 64

The header says `format` (its version), `corpus` (the hash of the corpus it was made of), `bytes`
(the length of the file) and `arrays` ({name: {dtype, shape, offset}}, the offset counted from the
end of the header), beside what the artefact itself keeps there. A file is written aside and renamed,
so it is whole or not there; nothing in it is executed, whoever wrote it.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.base.files import give_usual_rights, sync

ALIGNED = 64
START = 12  # of the header
OURS = ("arrays", "bytes")
DTYPES = {np.dtype(kind).str for kind in ("|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8")}
DTYPES |= {"<f4", "<f8"}
Array = npt.NDArray[Any]


def write_arrays(
    path: Path, magic: bytes, header: Mapping[str, Any], arrays: Mapping[str, Array]
) -> None:
    """Replace `path` by a file of the arrays, in one step.

    magic: 8 bytes. header: plain values, `format` and `corpus` among them.
    """
    assert len(magic) == 8, "a magic has 8 bytes"
    assert {"format", "corpus"} <= header.keys() and not set(OURS) & header.keys()
    parts = {name: _little(array) for name, array in arrays.items()}
    table: dict[str, dict[str, Any]] = {}
    size = 0
    for name, part in parts.items():
        assert part.dtype.str in DTYPES, f"{name} is of {part.dtype}"
        table[name] = {"dtype": part.dtype.str, "shape": list(part.shape), "offset": size}
        size = _aligned(size + part.nbytes)
    encoded = _header(dict(header) | {"arrays": table}, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(magic + len(encoded).to_bytes(4, "little") + encoded)
            for part in parts.values():
                file.write(part.reshape(-1).view(np.uint8).data)
                file.write(bytes(_aligned(part.nbytes) - part.nbytes))
            file.flush()
            os.fsync(file.fileno())
        give_usual_rights(Path(aside))
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync(path.parent)


def open_arrays(
    path: Path, magic: bytes, format: int = 1
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header and the arrays of a file, read-only; their pages are read when they are used.

    Raises UserError where the file is not there, is something else, is of another format, or is
    not whole.
    """
    kind = magic.decode("ascii", "replace").strip()
    if not path.is_file():
        raise UserError(f"{path} is not there: build it again, or name another file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(START)
        if start[:8] != magic:
            raise UserError(f"{path} is not a file of kind {kind}: name one, or build it again")
        end = START + int.from_bytes(start[8:12], "little")
        damaged = UserError(f"{path} is damaged or cut off: build it again")
        if len(start) < START or end > size or end % ALIGNED:
            raise damaged
        try:
            header = json.loads(file.read(end - START))
        except ValueError as error:
            raise damaged from error
    if not isinstance(header, dict):
        raise damaged
    if header.get("format") != format:
        raise UserError(
            f"{path} is of format {header.get('format')}, this Maquette reads format {format}: "
            "build it again"
        )
    if header.get("bytes") != size or not isinstance(header.get("corpus"), str):
        raise damaged
    try:
        arrays = {
            str(name): _part(path, end, size, entry) for name, entry in header["arrays"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged from error
    return {name: value for name, value in header.items() if name not in OURS}, arrays


def check_corpus(path: Path, header: Mapping[str, Any], corpus: str, command: str) -> None:
    """Raise UserError where the file was made of another corpus than that of the hash `corpus`.

    command: what builds it again, as the user types it.
    """
    if header["corpus"] != corpus:
        raise UserError(f"{path} belongs to another corpus: build it again with {command}")


def _part(path: Path, start: int, size: int, entry: Mapping[str, Any]) -> Array:
    """One array. Raises ValueError where it is not inside the file."""
    dtype, shape, offset = str(entry["dtype"]), entry["shape"], entry["offset"]
    if dtype not in DTYPES or not all(type(n) is int and n >= 0 for n in [offset, *shape]):
        raise ValueError(entry)
    count = 1
    for n in shape:
        count *= n
    length = count * np.dtype(dtype).itemsize
    if start + offset + length > size or offset % ALIGNED:
        raise ValueError(entry)
    if not length:
        return _fixed(np.empty(shape, dtype))
    mapped = np.memmap(path, dtype, "r", offset=start + offset, shape=tuple(shape))
    return mapped.view(np.ndarray)


def _fixed(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _little(array: Array) -> Array:
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _header(header: dict[str, Any], arrays: int) -> bytes:
    """The JSON, padded; it holds the length of the file, which depends on its own."""
    length = START + len(json.dumps(header | {"bytes": 1 << 62}, allow_nan=False))
    end = _aligned(length)
    encoded = json.dumps(header | {"bytes": end + arrays}, allow_nan=False).encode("ascii")
    return encoded.ljust(end - START)
