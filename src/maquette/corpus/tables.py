"""The rows of parquet, arrow and feather files as records, in batches, by Arrow.

Columns are read one by one, so that one that is odd does not cost the others: of several columns of
a name the first is read; a value that Python has no like for (a time of day in nanoseconds, a date
beyond the calendar) is `UNREAD`. What cannot be read at all raises `Unreadable` with the reason.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maquette.corpus.formats import Unreadable
from maquette.corpus.records import PILE, Fields, missing

BATCH = 16 << 20  # bytes of rows held at a time
COLUMNS = ("source", "url", "id", "licence", "license", "title", "component")
UNREAD = object()


def rows(path: Path, fields: Fields = Fields()) -> Iterator[dict[str, Any]]:  # noqa: B008
    """The rows as records of the text's field and the fields of provenance."""
    from pyarrow import types

    def columns(schema: Any) -> list[str]:
        names = list(schema.names)
        text = _root(names, fields.text)
        if text is None:
            raise Unreadable(missing(fields.text, names))
        kind = _stored(schema.types[names.index(text)])
        if text == fields.text and not _holds_text(kind):
            raise Unreadable(f"column '{text}' holds {str(kind)[:80]}, not text")
        date = _root(names, fields.date) or fields.date
        wanted = [n for n in dict.fromkeys([text, *COLUMNS, date]) if n in names]
        meta = schema.types[names.index("meta")] if "meta" in names else None
        pile = meta is not None and types.is_struct(meta) and meta.get_field_index(PILE) >= 0
        if pile and "meta" not in wanted:
            wanted.append("meta")
        return wanted

    yield from _rows(path, columns)


def all_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows with all their columns."""
    yield from _rows(path, lambda schema: list(dict.fromkeys(schema.names)))


def repeated(path: Path) -> list[str]:
    """The names that several columns of a table have."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path), "rb") as file:
            names = list(_opened(path, file).names)
    except (pa.ArrowException, OSError):
        return []
    return sorted({n for n in names if names.count(n) > 1})


def _root(names: Sequence[str], field: str) -> str | None:
    """The column that holds a field, or the struct that the field is inside of."""
    first = field.partition(".")[0]
    return field if field in names else first if first in names else None


def _stored(kind: Any) -> Any:
    """The type of the values of a dictionary or an extension."""
    while hasattr(kind, "storage_type") or hasattr(kind, "value_type"):
        if hasattr(kind, "storage_type"):
            kind = kind.storage_type
        elif hasattr(kind, "index_type"):
            kind = kind.value_type
        else:
            break
    return kind


def _holds_text(kind: Any) -> bool:
    return str(kind).removeprefix("large_").startswith(("string", "binary", "null", "fixed_size_b"))


def _rows(path: Path, columns: Any) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    ending = path.suffix.lower()[1:]
    try:
        with pa.OSFile(str(path), "rb") as file:
            read = _parquet if ending == "parquet" else _arrow
            for batch in read(file, columns):
                yield from _records(batch)
    except pa.ArrowNotImplementedError as error:
        raise Unreadable(f"a type of column that Arrow {pa.__version__} does not read") from error
    except pa.ArrowException as error:
        raise Unreadable(f"damaged {ending} file") from error
    except OSError as error:
        if error.errno is None:  # Arrow's own, not the system's
            raise Unreadable(f"damaged {ending} file") from error
        raise


def _opened(path: Path, file: Any) -> Any:
    """The schema of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == ".parquet":
        return pq.ParquetFile(file).schema_arrow
    opened = pa.ipc.open_file if _seekable(file) else pa.ipc.open_stream
    return opened(file).schema


def _parquet(file: Any, columns: Any) -> Iterator[Any]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file, buffer_size=1 << 20)
    wanted = columns(table.schema_arrow)
    whole = sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
    size = BATCH * table.metadata.num_rows // max(1, whole)
    yield from table.iter_batches(
        batch_size=min(max(1, size), 1 << 13), columns=wanted, use_threads=False
    )


def _seekable(file: Any) -> bool:
    """Whether it is Arrow's file format, which is feather's too, and not its stream format."""
    begins: bool = file.read(6) == b"ARROW1"
    file.seek(0)
    return begins


def _arrow(file: Any, columns: Any) -> Iterator[Any]:
    import pyarrow as pa

    seekable = _seekable(file)
    opened = pa.ipc.open_file if seekable else pa.ipc.open_stream
    names = list(opened(file).schema.names)
    fields = sorted(names.index(name) for name in columns(opened(_again(file)).schema))
    options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    reader = opened(_again(file), options=options)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if seekable else reader
    for batch in batches:
        size = max(1, BATCH * batch.num_rows // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)


def _again(file: Any) -> Any:
    file.seek(0)
    return file


def _records(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch: of columns of one name the first."""
    names = list(batch.schema.names)
    first = dict.fromkeys(names)
    values = [_values(batch.column(names.index(name))) for name in first]
    return [dict(zip(first, row, strict=True)) for row in zip(*values, strict=True)]


def _values(column: Any) -> list[Any]:
    """A column as Python's values; strings that are not UTF-8 stay bytes. Damage raises ArrowInvalid."""
    import pyarrow as pa

    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):  # before Python is asked for nanoseconds
        try:
            column = column.cast(pa.date32(), safe=False)
        except pa.ArrowInvalid:  # a zone that this machine does not know: the day in UTC
            column = column.view(pa.timestamp(column.type.unit)).cast(pa.date32(), safe=False)
    try:
        column.validate(full=True)
        values: list[Any] = column.to_pylist()
        return values
    except pa.ArrowInvalid:
        bare = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
        if bare is None:
            raise
        column = column.view(bare)
        column.validate(full=True)
        return [_decoded(value) for value in column.to_pylist()]
    except (ValueError, OverflowError, TypeError, NotImplementedError):
        return [_value(scalar) for scalar in column]


def _decoded(value: bytes | None) -> Any:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, TypeError, NotImplementedError):
        return UNREAD
