"""What a user names, as pictures with captions: folders, WebDataset shards, parquet tables.

    folder    its picture files, in all folders below; the caption from NAME.txt beside NAME.jpg, or from
              a table (picture_captions.py) in that folder or one above; in a folder below the one named,
              which has neither, the folder's name is class and caption. Shards and tables in it are read
    shard     .tar (.tar.gz, .tar.zst, .tgz): a WebDataset (picture_shards.py)
    parquet   a row a picture: a column of bytes, or of {bytes, path} as Hugging Face writes, and one of
              captions, of classes, or both. hf://DATASET gives the parquet files of a data set

What cannot be read is yielded as `Skipped` and nothing else is lost. Reading streams in a fixed order:
memory grows with the files of one folder and with one table of captions. A picture is a place in a
file where that will do, so that the worker that decodes it reads it too. Left out: zip archives.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.document import Skipped
from maquette.corpus.picture_captions import (
    CLASSES,
    TABLES,
    TEXTS,
    Caption,
    caption,
    read_table,
)
from maquette.corpus.picture_item import LONGEST_TEXT, PICTURES, Picture, Place, captioned
from maquette.corpus.picture_shards import is_shard, shard
from maquette.corpus.read import File, Files, files

PARQUET = ".parquet"
COLUMNS = {
    "image": ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes"),
    "caption": (*TEXTS, "captions", "sentence", "txt"),
    "label": (*CLASSES, "cls", "fine_label"),
}
BATCH = 16 << 20  # bytes of a table's rows held at a time


def pictures(
    sources: Sequence[str | Path], columns: Mapping[str, str] | None = None
) -> Iterator[Picture | Skipped]:
    """Every picture of some folders, shards and tables. columns: names of a parquet table's columns.

    Raises UserError for a source that is not there, at once.
    """
    unknown = sorted(set(columns or {}) - set(COLUMNS))
    if unknown:
        raise WrongUse(f"there is no column for {unknown[0]}: name image, caption or label")
    tops: list[File] = []
    for name in map(str, sources):
        if name.startswith("hf://"):
            tops += files([name]).tops
        else:
            tops.append(_top(name))
    return _all(tops, dict(columns or {}))


def _top(name: str) -> File:
    path = Path(name).expanduser()
    mend = "name a folder of pictures, a .tar shard or a .parquet table"
    if not path.exists():
        raise UserError(f"{path} does not exist: {mend}")
    if path.is_file() and not is_shard(path.name) and path.suffix.lower() != PARQUET:
        raise WrongUse(f"{path} is one file: {mend}")
    (top,) = files([path]).tops
    return top


def _all(tops: Iterable[File], columns: dict[str, str]) -> Iterator[Picture | Skipped]:
    for top in tops:
        if os.path.isdir(top.path):
            yield from _Folder(top, columns)
        else:
            yield from _archive(top, columns)


def _archive(file: File, columns: dict[str, str]) -> Iterator[Picture | Skipped]:
    """A shard or a table."""
    if is_shard(file.path):
        yield from shard(file)
    else:
        yield from _rows(file, columns)


class _Folder:
    """The pictures of a folder and of those below it."""

    def __init__(self, top: File, columns: dict[str, str]) -> None:
        self._top, self._columns = top, columns
        self._tables: list[
            tuple[str, str, dict[str, Caption]]
        ] = []  # folder, source, rows not used

    def __iter__(self) -> Iterator[Picture | Skipped]:
        listed: list[tuple[File, int]] = []
        for item, size, _ in Files((self._top,)).listing():
            if isinstance(item, Skipped):
                yield item
                continue
            if listed and os.path.dirname(item.path) != os.path.dirname(listed[0][0].path):
                yield from self._folder(listed)
                listed = []
            listed.append((item, size))
        if listed:
            yield from self._folder(listed)
        yield from self._leave("")

    def _folder(self, listed: list[tuple[File, int]]) -> Iterator[Picture | Skipped]:
        """The files of one folder, in the order of their names."""
        folder = os.path.dirname(listed[0][0].path)
        yield from self._leave(folder)
        rest: list[tuple[File, int, str, str]] = []  # with stem and ending
        for file, size in listed:
            name = os.path.basename(file.path)
            if name.lower() in TABLES:
                rows, faults = read_table(Path(file.path), file.source)
                yield from faults
                self._tables.append((folder, file.source, rows))
            else:
                stem, ending = os.path.splitext(name)
                rest.append((file, size, stem, ending.lower()))
        drawn = {stem for _, _, stem, ending in rest if ending in PICTURES}
        written = {
            stem: file for file, _, stem, ending in rest if ending == ".txt" and stem in drawn
        }
        by_class = not (self._tables or written) and folder != self._top.path
        for file, size, stem, ending in rest:
            if ending in PICTURES:
                known = self._known(file.path)
                if stem in written:
                    known = _read_caption(written[stem])
                elif by_class:
                    known = caption(None, os.path.basename(folder))
                yield captioned(file.source, known, Place(size, path=file.path))
            elif ending == PARQUET or is_shard(file.path):
                yield from _archive(file, self._columns)
            elif ending == ".txt":
                if stem not in drawn:
                    yield Skipped(file.source, "a caption without a picture")
            else:
                yield Skipped(file.source, "neither picture nor caption, by its name")

    def _known(self, path: str) -> Caption | None:
        """What the tables say of a file, the nearest first; each names a file once."""
        known = None
        for folder, _, rows in reversed(self._tables):
            known = known or rows.get(os.path.relpath(path, folder))
            rows.pop(os.path.relpath(path, folder), None)
        return known

    def _leave(self, folder: str) -> Iterator[Skipped]:
        """Close the tables of folders that this one is not in: what they still name is not there."""
        while self._tables and not f"{folder}/".startswith(f"{self._tables[-1][0].rstrip('/')}/"):
            _, source, rows = self._tables.pop()
            for name in rows:
                yield Skipped(f"{source}: {name}", "named in a table of captions, not there")


def _read_caption(file: File) -> Caption | None:
    try:
        with open(file.path, "rb") as text:
            return caption(text.read(LONGEST_TEXT))
    except OSError:
        return None


def _rows(file: File, columns: dict[str, str]) -> Iterator[Picture | Skipped]:
    """The rows of a parquet table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(file.path, "rb") as opened:
            table = pq.ParquetFile(opened, buffer_size=1 << 20)
            chosen = _chosen(table.schema_arrow, columns)
            names = _class_names(table.schema_arrow, chosen.get("label"))
            groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
            whole = sum(group.total_byte_size for group in groups)
            size = min(max(1, BATCH * table.metadata.num_rows // max(1, whole)), 1 << 10)
            number = 0
            for batch in table.iter_batches(size, columns=list(chosen.values()), use_threads=False):
                held = {part: _values(batch.column(name)) for part, name in chosen.items()}
                for row in range(batch.num_rows):
                    number += 1
                    found = {part: values[row].as_py() for part, values in held.items()}
                    yield _from_row(f"{file.source}:{number}", found, names)
    except UserError as error:
        yield Skipped(file.source, str(error))
    except (pa.ArrowException, ValueError, TypeError):
        yield Skipped(file.source, "a damaged parquet file")
    except OSError as error:
        yield Skipped(file.source, error.strerror or "a damaged parquet file")


def _values(column: Any) -> Any:
    """Text as bytes: it need not be UTF-8, whatever the table says. Of {bytes, path}, the bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    if str(column.type) in ("string", "large_string"):
        column = column.cast(pa.large_binary() if "large" in str(column.type) else pa.binary())
    column.validate(full=True)
    return column


def _chosen(schema: Any, columns: dict[str, str]) -> dict[str, str]:
    """The column of each part. Raises UserError without one of pictures."""
    for name in columns.values():
        if name not in schema.names:
            raise UserError(f"no column {name} (has {', '.join(schema.names[:8])})")
    chosen = dict(columns)
    for part, usual in COLUMNS.items():
        names = [name for name in usual if name in schema.names and name not in chosen.values()]
        if part not in chosen and names:
            chosen[part] = names[0]
    if "image" not in chosen:
        has = ", ".join(schema.names[:8])
        raise UserError(f"no column of pictures (has {has}): name it by --columns image=...")
    kind = str(schema.field(chosen["image"]).type)
    if not re.search(
        r"^(dictionary<values=)?(large_)?binary|^struct<.*\bbytes: (large_)?binary", kind
    ):
        raise UserError(f"column {chosen['image']} holds {kind[:40]}, not the bytes of pictures")
    return chosen


def _class_names(schema: Any, column: str | None) -> list[str]:
    """The names that Hugging Face keeps for a column of class numbers."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _from_row(source: str, row: dict[str, Any], names: list[str]) -> Picture | Skipped:
    data, label = row["image"], row.get("label")
    if isinstance(label, int) and 0 <= label < len(names):
        label = names[label]
    if not isinstance(data, bytes):
        return Skipped(source, "no bytes in the row (a path alone is not followed)")
    return captioned(source, caption(row.get("caption"), label), Place(len(data), data))
