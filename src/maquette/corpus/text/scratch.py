"""The documents that a build has read: parts of the sources, each a complete folder or none.

    text.bin          the documents' UTF-8, one after the other
    table.parquet     a row per document: component, source, title, date, licence, sha256, bytes
    signatures.bin    MinHash signatures, where near-duplicates are looked for
    attributes.parquet, dropped.parquet    what cleaning found, and what it left out
    part.json         counts, skipped files

A part depends on its source and the options alone, so parts are read side by side, in any order, and
a build that was killed goes on from the parts that are there.
"""

import hashlib
import mmap
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from maquette.base.files import directory_aside, read_json, write_json
from maquette.corpus.document import Document, Skipped, Source

ROWS = 4096  # written at a time
SKIPS_NAMED = 1000
OPEN = 64  # parts whose text is mapped at a time
TEXT, TABLE, SIGNATURES = "text.bin", "table.parquet", "signatures.bin"
ATTRIBUTES, DROPPED, PART = "attributes.parquet", "dropped.parquet", "part.json"
DESCRIBED = [(name, pa.string()) for name in ("component", "source", "title", "date", "licence")]
SCHEMA = pa.schema(
    [
        *DESCRIBED,
        ("sha256", pa.binary(32)),
        ("bytes", pa.int64()),
    ]
)
LEFT_OUT = pa.schema(
    [
        ("component", pa.string()),
        ("source", pa.string()),
        ("bytes", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
FOUND = pa.schema(
    [
        ("component", pa.string()),
        ("source", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("score", pa.float32()),
        ("rule", pa.string()),
    ]
)
Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class ReadTask:
    """One part to read into `folder`; `clean` are the rules of each component, "" for the rest."""

    folder: Path
    source: Source
    clean: dict[str, tuple[str, ...]]
    signatures: bool


def read_part(task: ReadTask) -> dict[str, Any]:
    """Read a part, unless it is there; returns its counts."""
    if (task.folder / PART).exists():
        counts: dict[str, Any] = read_json(task.folder / PART)
        return counts
    with directory_aside(task.folder) as folder, _Writer(folder, task) as writer:
        for item in task.source:
            writer.add(item)
        counts = writer.finish()
        write_json(folder / PART, counts)
    return counts


class _Writer:
    """Writes the files of one part, document by document."""

    def __init__(self, folder: Path, task: ReadTask) -> None:
        self._task = task
        self._text = (folder / TEXT).open("wb")
        self._table = _Rows(folder / TABLE, SCHEMA)
        self._dropped = _Rows(folder / DROPPED, LEFT_OUT)
        self._found = _Rows(folder / ATTRIBUTES, FOUND)
        self._signatures: BinaryIO | None = None
        if task.signatures:
            self._signatures = (folder / SIGNATURES).open("wb")
        self._documents = self._bytes = 0
        self._reasons: Counter[str] = Counter()
        self._foreign: Counter[str] = Counter()
        self._skipped: list[Skipped] = []

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._text, self._table, self._dropped, self._found, self._signatures):
            if file is not None:
                file.close()

    def add(self, item: Document | Skipped) -> None:
        if isinstance(item, Skipped):
            self._reasons[item.reason] += 1
            if len(self._skipped) < SKIPS_NAMED or self._reasons[item.reason] == 1:
                self._skipped.append(item)
            return
        text = self._cleaned(item)
        if text is None:
            return
        data = text.encode("utf-8", "replace")
        self._text.write(data)
        self._table.add(
            {
                "component": item.component,
                "source": item.source,
                "title": item.title,
                "date": item.date,
                "licence": item.licence,
                "sha256": hashlib.sha256(data).digest(),
                "bytes": len(data),
            }
        )
        if self._signatures is not None:
            from maquette.corpus.text.near_duplicates import signature
            from maquette.corpus.text.ngram_hashes import as_bytes

            self._signatures.write(signature(as_bytes(data)).tobytes())
        self._documents += 1
        self._bytes += len(data)

    def _cleaned(self, item: Document) -> str | None:
        rules = self._task.clean.get(item.component, self._task.clean.get("", ()))
        if not rules:
            return item.text
        from maquette.corpus.text.clean import FOREIGN, apply, attributes

        origin = {"component": item.component, "source": item.source}
        spans = attributes(item.text, rules, item.component)
        for a in spans:
            group, _, code = a.rule.partition(":")
            self._foreign[code] += group == FOREIGN
            spot = {"start": a.start, "end": a.end, "score": a.score, "rule": a.rule}
            self._found.add(origin | spot)
        applied = apply(item.text, spans, rules)
        if applied.text is None or not applied.text.strip():
            size = {"bytes": len(item.text.encode("utf-8", "replace"))}
            detail = {"detail": applied.dropped_by or "nothing is left"}
            self._dropped.add(origin | size | {"reason": "cleaning"} | detail)
            return None
        return applied.text

    def finish(self) -> dict[str, Any]:
        return {
            "documents": self._documents,
            "bytes": self._bytes,
            "dropped": self._dropped.written,
            "attributes": self._found.written,
            "foreign": dict(+self._foreign),
            "skipped_reasons": dict(self._reasons),
            "skipped_named": [{"source": s.source, "reason": s.reason} for s in self._skipped],
        }


class _Rows:
    """A parquet file written a few thousand rows at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, [dict[str, Any]() for _ in range(0)]
        self._file = pq.ParquetWriter(path, schema)
        self.written = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self.written += 1
        if len(self._rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()

    def close(self) -> None:
        self._flush()
        self._file.close()


class Scratch:
    """The documents of all parts in their order, memory-mapped; numbered from 0."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts = list(parts)
        columns = ["sha256", "bytes", "component", "date"]
        tables = [pq.read_table(part / TABLE, columns=columns) for part in self.parts]
        self.firsts = np.cumsum([0] + [len(t) for t in tables])
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        self.sizes: npt.NDArray[np.int64] = table["bytes"].to_numpy()
        self.digests: list[bytes] = table["sha256"].to_pylist()
        self.components = table["component"].dictionary_encode().to_pylist()
        self.dates: list[str | None] = table["date"].to_pylist()
        self._starts = [
            np.cumsum([0, *t["bytes"].to_numpy()]) for t in tables
        ]  # within each part's text
        self._maps: OrderedDict[int, mmap.mmap | bytes] = OrderedDict()  # a few: each holds a file

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def text(self, document: int) -> bytes:
        """The UTF-8 of a document."""
        part = int(np.searchsorted(self.firsts, document, side="right")) - 1
        local = document - int(self.firsts[part])
        start, end = self._starts[part][local : local + 2].tolist()
        return self._mapped(part)[start:end]

    def _mapped(self, part: int) -> "mmap.mmap | bytes":
        if part not in self._maps:
            self._maps[part] = _map(self.parts[part] / TEXT)
            if len(self._maps) > OPEN:
                self._maps.popitem(last=False)
        self._maps.move_to_end(part)
        return self._maps[part]

    def texts(self) -> Iterator[bytes]:
        """All documents in order."""
        return (self.text(i) for i in range(len(self)))

    def rows(self, part: int) -> pa.Table:
        """The whole table of one part."""
        return pq.read_table(self.parts[part] / TABLE)

    def signatures(self) -> npt.NDArray[Any]:
        """(documents, bins), in the type of `near.signature`."""
        from maquette.corpus.text.near_duplicates import signature

        empty = signature(np.zeros(0, np.uint8))
        raw = [np.fromfile(part / SIGNATURES, empty.dtype) for part in self.parts]
        return np.concatenate([*raw, empty[:0]]).reshape(-1, len(empty))


def without(text: bytes, ranges: Ranges) -> bytes:
    """The text without the given byte ranges (sorted, disjoint)."""
    if not ranges:
        return text
    pieces, at = [], 0
    for start, end in ranges:
        pieces.append(text[at:start])
        at = end
    return b"".join([*pieces, text[at:]])


def _map(path: Path) -> "mmap.mmap | bytes":
    with path.open("rb") as file:
        if not path.stat().st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
