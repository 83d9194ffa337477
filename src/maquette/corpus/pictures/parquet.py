"""Parquet tables of pictures: one picture per row, as Hugging Face writes them.

The picture is a column of bytes, or of {bytes, path}; beside it one of captions, of classes, or both.
Columns are known by the names in COLUMNS, whatever their case, or as a person names them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from maquette.base.errors import UserError
from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import COLUMNS, caption
from maquette.corpus.pictures.item import Location, Picture, captioned
from maquette.corpus.read import File

BATCH = 16 << 20  # bytes of a table's rows held at a time
_PICTURES = re.compile(r"^(dictionary<values=)?(large_)?binary|^struct<.*\bbytes: (large_)?binary")
NO_PICTURES = "no column of pictures"


def holds_pictures(path: str, columns: Mapping[str, str]) -> bool:
    """Whether a parquet file is a table of pictures; damaged files count as tables."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, ValueError, OSError):
        return True
    usual = (columns["image"].lower(),) if "image" in columns else COLUMNS["image"]
    return any(name.lower() in usual and _holds(schema, name) for name in schema.names)


def table_rows(file: File, columns: Mapping[str, str]) -> Iterator[Picture | Skipped]:
    """The pictures of a table. columns: names of its columns for image, caption and label."""
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
                at = {part: batch.schema.names.index(name) for part, name in chosen.items()}
                held = {part: _values(batch.column(i)) for part, i in at.items()}
                for row in range(batch.num_rows):
                    number += 1
                    cells = {part: values[row].as_py() for part, values in held.items()}
                    yield _from_row(f"{file.source}:{number}", cells, names)
    except UserError as error:
        yield Skipped(file.source, str(error))
    except (pa.ArrowException, ValueError, TypeError):
        yield Skipped(file.source, "a damaged parquet file")
    except OSError as error:
        yield Skipped(file.source, error.strerror or "a damaged parquet file")


def _values(column: Any) -> Any:
    """A column's values, text as bytes, as it may not be UTF-8; of {bytes, path}, the bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if str(column.type) in ("string", "large_string"):
        column = column.cast(pa.large_binary() if "large" in str(column.type) else pa.binary())
    column.validate(full=True)
    return column


def _chosen(schema: Any, columns: Mapping[str, str]) -> dict[str, str]:
    """The column of each part. Raises UserError without a column of pictures."""
    small = {name.lower(): name for name in reversed(schema.names)}  # the first of a name
    has = ", ".join(schema.names[:8])
    chosen: dict[str, str] = {}
    for part, name in columns.items():
        if name.lower() not in small:
            raise UserError(f"no column {name} (has {has})")
        chosen[part] = name if name in schema.names else small[name.lower()]
    for part, usual in COLUMNS.items():
        names = [small[name] for name in usual if small.get(name, "") not in ("", *chosen.values())]
        if part == "image":  # file names may stand beside them
            names.sort(key=lambda name: not _holds(schema, name))
        if part not in chosen and names:
            chosen[part] = names[0]
    if "image" not in chosen:
        raise UserError(f"{NO_PICTURES} (has {has}): name it by --columns image=...")
    if not _holds(schema, chosen["image"]):
        kind = str(_first(schema, chosen["image"]).type)
        raise UserError(f"column {chosen['image']} holds {kind[:40]}, not the bytes of pictures")
    return chosen


def _first(schema: Any, name: str) -> Any:
    """The field of a name; the first, where several have it."""
    return schema.field(schema.names.index(name))


def _holds(schema: Any, name: str) -> bool:
    """Whether a column holds the bytes of pictures, by its type."""
    return bool(_PICTURES.search(str(_first(schema, name).type)))


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
    return captioned(source, caption(row.get("caption"), label), Location(len(data), data))
