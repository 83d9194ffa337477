"""Tables of text, `.csv` and `.tsv`: one record per row, fields named by the first row.

Quotes are as in RFC 4180. In a table of tabs whose quotes do not match (GLUE's and its like) they are
letters. A row of more cells than the first is named and passed over: which of them belong together
nobody knows. A row of fewer has no value in the last fields.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maquette.corpus.decompress import Contents, plain
from maquette.corpus.document import Skipped
from maquette.corpus.formats import Unreadable

LARGEST = 1 << 30  # bytes of a table or a text in memory


def rows(path: Path, source: str) -> Iterator[tuple[dict[str, Any], str] | Skipped]:
    """The rows of a table, each with its line. Raises Unreadable, and UnicodeDecodeError."""
    csv.field_size_limit(LARGEST)
    delimiter = "\t" if plain(path.name).endswith(".tsv") else ","
    text = decoded(path)
    letters = delimiter == "\t" and not _whole(_reader(text, delimiter, csv.QUOTE_MINIMAL))
    reader = _reader(text, delimiter, csv.QUOTE_NONE if letters else csv.QUOTE_MINIMAL)
    try:
        head: list[str] = next(reader, [])
        for cells in reader:
            where = f"{source}:{reader.line_num}"
            if len(cells) > len(head):
                separator = "a tab" if delimiter == "\t" else "a comma"
                yield Skipped(
                    where,
                    f"{len(cells)} cells, the first row has {len(head)}: quote what holds {separator}",
                )
            elif any(cells):
                yield dict(zip(head, cells, strict=False)), where
    except csv.Error as error:
        raise Unreadable(f"line {reader.line_num}: {error}") from error


def decoded(path: Path) -> str:
    """A whole file, inflated. Raises Unreadable where it is cut off or longer than LARGEST."""
    with path.open("rb") as file:
        contents = Contents(file, path.name)
        data = contents.read(LARGEST + 1)
    if contents.fault or len(data) > LARGEST:
        raise Unreadable(contents.fault or f"longer than {LARGEST >> 30} GB")
    return data.decode("utf-8-sig")


def _reader(text: str, delimiter: str, quoting: Any) -> Any:
    return csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )


def _whole(reader: Any) -> bool:
    """Whether every quote is closed where it should be."""
    try:
        for _ in reader:
            pass
    except csv.Error:
        return False
    return True
