"""Text out of pages of HTML, PDF and tables, by libraries: resiliparse, PDFium and Arrow.

    HTML     the main content without navigation (Bevendorff et al. 2018, "Elastic ChatNoir"), and
             the title; the encoding as the HTML standard finds it, but valid UTF-8 is UTF-8
    PDF      the text of its pages in reading order as PDFium finds it, and the title
    tables   the rows of parquet, arrow and feather files as records, in batches

What cannot be read raises `Unreadable` with the reason. Left out: text in pictures (no OCR).
"""

import codecs
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

NOT_TEXT = "not text in UTF-8"
BATCH = 16 << 20  # bytes of a table's rows held at a time
DEEPEST = 512  # as Chromium's parser; the extraction goes back over the levels for each level
NESTED = re.compile(r"<(/?)(article|div|ol)\b", re.IGNORECASE)
DECLARED = re.compile(rb"\s*<\?xml[^>]{1,100}encoding\s*=\s*[\"']([\w.:-]+)")
MARKS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
HYPHEN = re.compile("[\x02\ufffe]")  # what PDFium writes for a hyphen that only broke the line
COLUMNS = ("text", "source", "url", "id", "date", "licence", "license", "title", "component")
PILE = "pile_set_name"  # the Pile keeps the component in the column `meta`
_pdfium = threading.Lock()  # PDFium is not thread-safe


class Unreadable(Exception):
    """A file that gives no more text; its message is the reason."""


def page(data: bytes) -> tuple[str, str | None]:
    """Text and title of a page of HTML."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    html = _decode(data)
    if "\0" in html:
        raise Unreadable(NOT_TEXT)
    _refuse_deep(html)
    tree = HTMLTree.parse(html)
    text = extract_plain_text(tree, preserve_formatting=True, main_content=True)
    if not text or text.isspace():
        raise Unreadable("no text in the page")
    return text, " ".join((tree.title or "").split()) or None


def _decode(data: bytes) -> str:
    """https://html.spec.whatwg.org/#determining-the-character-encoding, valid UTF-8 first."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if b"\x1b" not in data:  # ISO-2022-JP is ASCII to the eye of UTF-8
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    declared = DECLARED.match(data)
    named = map_encoding_to_html5(declared[1].decode()) if declared else None
    return str(bytes_to_str(data, named or detect_encoding(data, from_html_meta=True) or "utf-8"))


def _refuse_deep(html: str) -> None:
    """The extraction's time and output grow with the square of the depth of these elements."""
    tags = NESTED.findall(html)
    if len(tags) <= DEEPEST:
        return
    depth: Counter[str] = Counter()
    for closes, name in tags:
        depth[name] = max(0, depth[name] + (-1 if closes else 1))
        if depth[name] > DEEPEST:
            raise Unreadable(f"elements nested deeper than {DEEPEST}")


def pdf(file: BinaryIO) -> tuple[str, str | None, list[int]]:
    """Text and title of a PDF, and the numbers of the pages that are damaged."""
    import pypdfium2

    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            encrypted = "password" in str(error)
            raise Unreadable("encrypted PDF" if encrypted else "damaged PDF") from error
        try:
            texts, damaged = [], []
            for number in range(len(document)):
                try:
                    texts.append(document[number].get_textpage().get_text_bounded())
                except pypdfium2.PdfiumError:
                    damaged.append(number + 1)
            title = document.get_metadata_value("Title")
        finally:
            document.close()
    text = HYPHEN.sub("", "\n\n".join(t for t in texts if t)).replace("\r\n", "\n")
    if not text or text.isspace():
        raise Unreadable("no text in the PDF (a scan?)")
    return text.replace("\0", ""), " ".join(title.split()) or None, damaged


def rows(path: Path, date: str = "date") -> Iterator[dict[str, Any]]:
    """The rows of a table with a column `text`, as records; `date` names the column of dates."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path), "rb") as file:
            read = _parquet if path.suffix.lower() == ".parquet" else _arrow
            for batch in read(file, date):
                yield from _records(_dated(batch, date))
    except pa.ArrowException as error:
        raise Unreadable(f"damaged {path.suffix.lower()[1:]} file") from error
    except OSError as error:
        if error.errno is None:  # Arrow's own, not the system's
            raise Unreadable(f"damaged {path.suffix.lower()[1:]} file") from error
        raise


def _parquet(file: Any, date: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file, buffer_size=1 << 20)
    columns = _columns(table.schema_arrow, date)
    whole = sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
    size = BATCH * table.metadata.num_rows // max(1, whole)
    yield from table.iter_batches(
        batch_size=min(max(1, size), 1 << 13), columns=columns, use_threads=False
    )


def _arrow(file: Any, date: str) -> Iterator[Any]:
    """Arrow's file format, which is feather's too, or its stream format."""
    import pyarrow as pa

    seekable = file.read(6) == b"ARROW1"
    file.seek(0)
    opened = pa.ipc.open_file if seekable else pa.ipc.open_stream
    schema = opened(file).schema
    wanted = {name.partition(".")[0] for name in _columns(schema, date)}
    fields = [i for i, name in enumerate(schema.names) if name in wanted]
    options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
    file.seek(0)
    reader = opened(file, options=options)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if seekable else reader
    for batch in batches:
        size = max(1, BATCH * batch.num_rows // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)


def _columns(schema: Any, date: str) -> list[str]:
    """The columns to read; raises Unreadable where there is no text."""
    import pyarrow as pa

    names = schema.names
    if "text" not in names:
        has = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        raise Unreadable(f"no column 'text' (has {has})")
    kind = schema.field("text").type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not str(kind).removeprefix("large_").startswith(("string", "binary", "null")):
        raise Unreadable(f"column 'text' holds {kind}, not text")
    columns = [name for name in dict.fromkeys([*COLUMNS, date]) if name in names]
    if "meta" in names and pa.types.is_struct(meta := schema.field("meta").type):
        columns += [f"meta.{PILE}"] if meta.get_field_index(PILE) >= 0 else []
    return columns


def _dated(batch: Any, date: str) -> Any:
    """Times become days, before Python is asked for nanoseconds."""
    import pyarrow as pa

    table = pa.Table.from_batches([batch])
    index = table.schema.get_field_index(date)
    if index >= 0 and pa.types.is_timestamp(table.schema.types[index]):
        table = table.set_column(index, date, table.column(index).cast(pa.date32(), safe=False))
    return table


def _records(table: Any) -> list[dict[str, Any]]:
    """The rows; where a string is not UTF-8, that of `text` stays bytes. Damage raises ArrowInvalid."""
    import pyarrow as pa

    try:
        table.validate(full=True)
        return list(table.to_pylist())
    except pa.ArrowInvalid:
        fields = [f.with_type(pa.binary()) if f.type == pa.string() else f for f in table.schema]
        table = table.cast(pa.schema(fields))
        table.validate(full=True)
        return [{k: _string(v, k) for k, v in row.items()} for row in table.to_pylist()]


def _string(value: Any, name: str) -> Any:
    if isinstance(value, bytes) and name != "text":
        return value.decode("utf-8", "replace")
    return value
