"""Files and folders as documents: text, source code, and records (.jsonl, .jsonl.gz, .jsonl.zst).

A record is an object with `text`, and, if it likes, `source` (or `url`, `id`), `date`, `licence`
and `component` (or the Pile's `meta.pile_set_name`). What cannot be read is yielded as `Skipped`
and nothing else is lost. Reading streams: a long file is cut at line ends into documents of
8 MB. Left out, for now: HTML extraction, PDF, parquet.
"""

import datetime
import gzip
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from maquette.base.errors import UserError
from maquette.corpus.document import Document, Skipped

LONGEST = 8 << 20  # bytes of one document
CODE = frozenset(
    [
        ".py",
        ".pyi",
        ".c",
        ".h",
        ".cc",
        ".cpp",
        ".hpp",
        ".cu",
        ".rs",
        ".go",
        ".java",
        ".kt",
        ".js",
        ".jsx",
        ".ts",
        ".tsx",
        ".rb",
        ".pl",
        ".php",
        ".sh",
        ".bash",
        ".zsh",
        ".lua",
        ".r",
        ".jl",
        ".hs",
        ".ml",
        ".scala",
        ".swift",
        ".cs",
        ".sql",
        ".css",
        ".scss",
        ".html",
        ".vue",
        ".cmake",
        ".mk",
        ".toml",
        ".yaml",
        ".yml",
        ".ini",
        ".cfg",
        ".json",
        ".xml",
        ".proto",
        ".tcl",
        ".vim",
        ".el",
        ".lisp",
        ".clj",
        ".ex",
        ".exs",
        ".erl",
        ".f90",
        ".m",
        ".asm",
        ".s",
    ]
)
IGNORED = frozenset(["__pycache__", "node_modules", "site-packages", "dist-packages"])


@dataclass(frozen=True)
class Files:
    """Every readable file of some files and folders, in the order of their names."""

    paths: tuple[Path, ...]

    def __iter__(self) -> Iterator[Document | Skipped]:
        for top in self.paths:
            for path in walk(top):
                yield from read_file(path, str(path))


def files(sources: Iterable[str | Path]) -> Files:
    """The sources a user names, checked for being there."""
    paths = tuple(Path(source).expanduser() for source in sources)
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: name a file or a folder with text")
    return Files(paths)


def walk(top: Path) -> Iterator[Path]:
    """Files under `top` in a fixed order; hidden ones and caches are left out."""
    if top.is_file():
        yield top
        return
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in IGNORED)
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path


def read_file(
    path: Path, source: str, component: str | None = None
) -> Iterator[Document | Skipped]:
    """The documents of one file."""
    try:
        if records(path.name):
            yield from _read_records(path, source, component)
            return
        component = component or ("code" if path.suffix.lower() in CODE else "prose")
        date = datetime.date.fromtimestamp(path.stat().st_mtime).isoformat()
        with _open(path) as file:
            for number, text in enumerate(_pieces(file)):
                part = f"{source}#{number}" if number else source
                if text.strip():
                    yield Document(text, component, part, date)
                elif number == 0:
                    yield Skipped(source, "empty")
    except UnicodeDecodeError:
        yield Skipped(source, "not text in UTF-8")
    except (OSError, EOFError, zstandard.ZstdError) as error:
        yield Skipped(source, str(error.args[-1]) if error.args else type(error).__name__)


def records(name: str) -> bool:
    """Whether a file of that name holds one JSON object a line."""
    return name.lower().removesuffix(".gz").removesuffix(".zst").endswith((".jsonl", ".ndjson"))


def _open(path: Path) -> BinaryIO:
    name = path.name.lower()
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if name.endswith(".zst"):
        return io.BufferedReader(zstandard.open(path, "rb"))
    return path.open("rb")


def _pieces(file: BinaryIO) -> Iterator[str]:
    """Decode a file in pieces of at most LONGEST bytes, cut after a line end where there is one.

    An empty file is one empty piece. Raises UnicodeDecodeError for what is not text.
    """
    rest = file.read(LONGEST)
    while len(rest) == LONGEST:
        cut = rest.rfind(b"\n") + 1 or _character_end(rest)
        yield _decode(rest[:cut])
        rest = rest[cut:] + file.read(cut)
    yield _decode(rest)


def _decode(data: bytes) -> str:
    if b"\0" in data:
        raise UnicodeDecodeError("utf-8", data[:1], 0, 1, "binary")
    return data.decode()


def _character_end(piece: bytes) -> int:
    """Where the last whole UTF-8 character ends."""
    end = len(piece)
    while end > len(piece) - 4 and piece[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if end and piece[end - 1] & 0x80 else len(piece)


def _read_records(path: Path, source: str, component: str | None) -> Iterator[Document | Skipped]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{source}:{number}"
            try:
                record = json.loads(line)
            except ValueError:
                yield Skipped(where, "not JSON")
                continue
            text = record.get("text") if isinstance(record, dict) else None
            if not isinstance(text, str) or not text.strip():
                yield Skipped(where, "no 'text'")
                continue
            yield Document(
                text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
                component or _component(record),
                str(record.get("source") or record.get("url") or record.get("id") or where),
                _word(record, "date"),
                _word(record, "licence") or _word(record, "license"),
            )


def _component(record: dict[str, Any]) -> str:
    meta = record.get("meta")
    named = meta.get("pile_set_name") if isinstance(meta, dict) else None
    return str(record.get("component") or named or "records")


def _word(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    return None if value is None else str(value)
