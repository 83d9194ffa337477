"""Tables of captions as people have them, read row by row as records.

    .csv .tsv .txt .token   columns under a head, or file and caption without one; separated by commas,
                            semicolons, tabs or bars. Flickr8k's captions.txt and token file, Flickr30k's
                            results.csv
    .jsonl .ndjson          an object a line, as Hugging Face's metadata.jsonl
    .json                   a list of objects; an object from file to caption, or to an object (kohya's);
                            COCO's images and annotations; Karpathy's images with sentences
    .parquet                columns, as Hugging Face's metadata.parquet

A row with more columns than the head, by commas in its caption, is put together where the caption is the
last column, and is named as a fault elsewhere. Quotes are taken as RFC 4180 has them; where they do not
match, for letters.
"""

import csv
import io
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maquette.base.errors import UserError
from maquette.corpus.decompress import Contents
from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import NOT_UTF8, Fields, decoded
from maquette.corpus.pictures.item import PICTURES

DELIMITED = (".csv", ".tsv", ".tab", ".txt", ".token")
LINES = (".jsonl", ".ndjson")
ENDINGS = (*DELIMITED, *LINES, ".json", ".parquet")
SEPARATORS = "\t,;|"
LONGEST_LINE = 1 << 20  # bytes of a line of a table
LONG_LINE = f"a line longer than {LONGEST_LINE >> 20} MB"
WHOLE = 256 << 20  # bytes of a table that is read as one
LONGEST_CELL = 1 << 13  # characters of a cell in quotes that goes over several lines
LISTS = ("images", "annotations", "data", "rows", "items", "records", "samples", "captions")
NOT_A_TABLE = "no table of file names and captions"
NO_FILES = "no column of file names"
JOINED = "caption with the table's separator in it: put together"
UNMATCHED = "quotes in a table that do not match: taken for letters"
LONG = "a row of more columns than the table has (a separator in a text without quotes)"
SHORT = "a row of fewer columns than the table has"


class Row(NamedTuple):
    """A row: its location, its fields, and its conversions."""

    where: str
    record: Mapping[str, Any]
    converted: tuple[str, ...] = ()


def rows(path: Path, source: str, fields: Fields) -> Iterator[Row | Skipped]:
    """The rows of a table, and what in it could not be read. Raises UserError where it is none."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        yield from _parquet(path, source, fields)
        return
    with path.open("rb") as file:
        contents = Contents(file)
        if ending == ".json":
            yield from _whole(contents, source, fields)
        elif ending in LINES:
            yield from _lines(contents, source)
        else:
            yield from _Delimited(contents, source, fields)


def file_key(name: str) -> str:
    """A file's name without the number of its caption, as in Flickr8k's `a.jpg#0`."""
    name = name.strip()
    start, sign, number = name.rpartition("#")
    return start if sign and number.isdigit() and is_picture(start) else name


def is_picture(name: str) -> bool:
    """Whether a name has the suffix of a picture."""
    return name.strip().lower().endswith(PICTURES)


def _whole(contents: Contents, source: str, fields: Fields) -> Iterator[Row | Skipped]:
    data = contents.read(WHOLE + 1)
    if len(data) > WHOLE:
        raise UserError(f"a .json table of more than {WHOLE >> 20} MB (.jsonl has no limit)")
    text, foreign = decoded(data)
    del data
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("not JSON") from error
    for number, record in enumerate(_records(value, fields), 1):
        where = f"{source}:{number}"
        if isinstance(record, dict):
            yield Row(where, record, (NOT_UTF8,) * foreign)
        else:
            yield Skipped(where, "a record without a file name")


def _records(value: Any, fields: Fields) -> Iterator[Any]:
    """The records of a document of JSON. Raises UserError where it is no table."""
    if isinstance(value, list):
        return iter(value)
    if not isinstance(value, dict):
        raise UserError(NOT_A_TABLE)
    images, notes = value.get("images"), value.get("annotations")
    if isinstance(images, list) and isinstance(notes, list) and images:
        return _coco(images, notes, fields.image[0])
    for name in LISTS:
        held = value.get(name)
        if isinstance(held, list) and held and all(isinstance(item, dict) for item in held):
            return iter(held)
    values, file, caption = list(value.values()), fields.image[0], fields.caption[0]
    if all(isinstance(item, str | list) for item in values):
        return ({file: key, caption: text} for key, text in value.items())
    if all(isinstance(item, dict) for item in values):
        return ({**record, file: key} for key, record in value.items())
    raise UserError(NOT_A_TABLE)


def _coco(images: list[Any], notes: list[Any], file: str) -> Iterator[dict[str, Any]]:
    """COCO's captions: annotations name their image by its number."""
    names = {image.get("id"): image.get("file_name") for image in images if isinstance(image, dict)}
    for note in notes:
        if isinstance(note, dict):
            number = note.get("image_id")
            known = names.get(number) if isinstance(number, str | int) else None
            yield {**note, **({file: known} if known is not None else {})}


def _lines(contents: Contents, source: str) -> Iterator[Row | Skipped]:
    for number, line in enumerate(contents.lines(LONGEST_LINE), 1):
        where = f"{source}:{number}"
        if line is None:
            yield Skipped(where, LONG_LINE)
        elif line.strip():
            text, foreign = decoded(line)
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                yield Skipped(where, "not JSON")
                continue
            if isinstance(record, dict):
                yield Row(where, record, (NOT_UTF8,) * foreign)
            else:
                yield Skipped(where, "a record without a file name")


def _parquet(path: Path, source: str, fields: Fields) -> Iterator[Row | Skipped]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pa.OSFile(str(path), "rb") as opened:
            table = pq.ParquetFile(opened)
            used = {*fields.image, *fields.caption, *fields.label}
            names = [name for name in table.schema_arrow.names if name.strip().lower() in used]
            if not any(name.strip().lower() in fields.image for name in names):
                raise UserError(NOT_A_TABLE)
            if len(names) < 2:
                raise UserError(no_captions(table.schema_arrow.names, fields))
            number = 0
            for batch in table.iter_batches(1 << 12, columns=names, use_threads=False):
                held = dict(zip(batch.schema.names, map(_values, batch.columns), strict=True))
                for i in range(batch.num_rows):
                    number += 1
                    yield Row(f"{source}:{number}", {name: held[name][i] for name in held})
    except UserError:
        raise
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise UserError("a damaged parquet file") from error


def _values(column: Any) -> list[Any]:
    """A column's values, text as bytes, as it may not be UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if str(column.type) in ("string", "large_string"):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def no_captions(names: Iterable[str], fields: Fields) -> str:
    """Message: a table of files has no captions, with the columns that it has."""
    has = ", ".join(itertools.islice(names, 8))
    if fields.named:
        return f"no column {fields.caption[0]} (has {has})"
    return f"no column of captions (has {has}): name it by --columns caption=..."


class _Delimited:
    """The rows of a delimited text file."""

    def __init__(self, contents: Contents, source: str, fields: Fields) -> None:
        self._source, self._fields = source, fields
        self._read = contents.lines(LONGEST_LINE)
        self._ahead: deque[tuple[int, str, bool]] = deque()  # lines that were looked at
        self._number = 0

    def __iter__(self) -> Iterator[Row | Skipped]:
        first = self._line()
        while first is not None and not first[1].strip():
            first = self._line()
        if first is None or "\r" in first[1]:
            raise UserError(NOT_A_TABLE)
        second = first[1].strip().lower()
        if second.startswith("sep=") and len(second) == 5:  # Excel's first line
            first = self._line() or first
        self._separator, head = self._shape(first[1])
        if head is None:  # it is a row
            self._ahead.appendleft(first)
            head = [self._fields.image[0], self._fields.caption[0]]
        while head and not head[-1]:
            head.pop()
        self._head = head
        texts = [name for name in self._fields.caption if name in head]
        self._joins = head[-1:] == texts[:1]
        while (line := self._line()) is not None:
            if line[1] == LONG_LINE:
                yield Skipped(f"{self._source}:{line[0]}", LONG_LINE)
            elif line[1].strip():
                yield self._row(*line)

    def _line(self) -> tuple[int, str, bool] | None:
        """The next line: number, text, and whether it is not UTF-8."""
        if self._ahead:
            return self._ahead.popleft()
        for line in self._read:
            self._number += 1
            if line is None:
                return self._number, LONG_LINE, False
            text, foreign = decoded(line)
            if "\0" in text or line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UserError("a table in UTF-16: save it as UTF-8")
            return self._number, text.removesuffix("\r"), foreign
        return None

    def _shape(self, line: str) -> tuple[str, list[str] | None]:
        """Separator and header; None for a table without a header. Raises UserError where it is no table."""
        fields, partly, nameless = self._fields, None, ""
        texts = {*fields.caption, *fields.label}
        for separator in SEPARATORS:
            cells = [cell.strip() for cell in _cells(line, separator) or line.split(separator)]
            head = [cell.lower() for cell in cells]
            if set(head) & set(fields.image) and len(head) > 1:
                if set(head) & texts:
                    return separator, head
                partly = partly or (separator, head)  # whose caption's column has another name
            elif set(head) & texts and len(head) > 1:
                nameless = ", ".join(head[:8])
            if len(cells) > 1 and is_picture(file_key(cells[0])):
                return separator, None
        if partly:
            return partly
        cells = _cells(line, ",") or []
        if len(cells) == 2 and not set(map(str.lower, cells)) & {*texts, *fields.image}:
            return ",", None
        raise UserError(
            f"{NO_FILES} (has {nameless}): name it by --columns image=..."
            if nameless
            else NOT_A_TABLE
        )

    def _row(self, number: int, text: str, foreign: bool) -> Row | Skipped:
        where = f"{self._source}:{number}"
        done = [NOT_UTF8] * foreign
        separator, width = self._separator, len(self._head)
        cells = self._quoted(text)
        if cells is None:
            cells = text.split(separator)
            done.append(UNMATCHED)
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        if len(cells) > width:
            if not self._joins:
                return Skipped(where, LONG)
            if UNMATCHED not in done:  # with the blanks behind the separators
                exact = _cells(text, separator, False) or cells
                cells = exact[: len(cells)]
            cells = [*cells[: width - 1], separator.join(cells[width - 1 :])]
            done.append(JOINED)
        if len(cells) < width:
            row = dict(zip(self._head, cells, strict=False))
            if not any(name in row for name in (*self._fields.caption, *self._fields.label)):
                return Skipped(where, SHORT)
            done.append(SHORT)
        return Row(where, dict(zip(self._head, cells, strict=False)), tuple(done))

    def _quoted(self, text: str) -> list[str] | None:
        """The cells of a line, or of several lines for a quoted cell; None where quotes do not match."""
        cells = _cells(text, self._separator)
        if cells is None:  # a quote behind a blank may be a letter
            cells = _cells(text, self._separator, False)
        if cells is not None or text.count('"') % 2 == 0:
            return cells
        more: list[tuple[int, str, bool]] = []
        while len(text) < LONGEST_CELL and (line := self._line()) is not None:
            more.append(line)
            text += "\n" + line[1]
            if text.count('"') % 2 == 0:
                cells = _cells(text, self._separator)
                if cells is not None:
                    return cells
        self._ahead.extendleft(reversed(more))
        return None


def _cells(text: str, separator: str, skip: bool = True) -> list[str] | None:
    """The cells of a row; None where its quotes do not match. skip: blanks behind separators."""
    try:
        lines = io.StringIO(text, newline="")
        read = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=skip)
        return next(read, [])
    except csv.Error:
        return None
