"""What people write beside their pictures: captions, and the tables that name file and caption.

A caption is one line of Unicode. Text that is not UTF-8 is taken for Windows-1252, as what most such
files hold; a long one is cut. Tables are read as they are commonly written:

    captions.jsonl, metadata.jsonl   an object a line: {"file_name": "a.jpg", "text": "...", "label": "..."}
    captions.csv, metadata.csv       the same as columns under a head, or file and caption without one
    captions.json                    an object from file to caption, or a list of objects as above

`metadata` is what Hugging Face's imagefolder reads. Left out: several captions of one picture (the
first counts), and COCO's annotation files.
"""

import codecs
import csv
import json
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maquette.base.errors import UserError
from maquette.corpus.contents import Contents
from maquette.corpus.document import Skipped

TABLES = ("captions.json", "captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
FILES = ("file_name", "file", "filename", "image", "picture", "path", "name")
TEXTS = ("text", "caption", "prompt")
CLASSES = ("label", "class")
LONGEST = 4096  # characters of a caption
LONGEST_LINE = 1 << 20  # bytes of a line of a table
WHOLE = 256 << 20  # bytes of a table that is read as one
NOT_UTF8, CUT = "caption not UTF-8: read as Windows-1252", f"caption cut to {LONGEST:,} characters"
NOT_A_TABLE = "no table of file names and captions"


class Caption(NamedTuple):
    """A caption, the class it comes with, and what was done to the text."""

    text: str
    label: str | None = None
    converted: tuple[str, ...] = ()


def decoded(data: bytes) -> tuple[str, bool]:
    """Text of bytes, and whether they were no Unicode."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), False
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), True


def caption(text: Any, label: Any = None) -> Caption:
    """A caption of what a file, a record or a column holds; "" where that is no text.

    Blanks and line ends become single spaces. A list gives its first text, and a caption that is
    not there is the class.
    """
    converted: list[str] = []
    if isinstance(text, list | tuple):
        text = next((one for one in text if isinstance(one, str | bytes)), None)
    if isinstance(text, bytes):
        text, foreign = decoded(text)
        converted += [NOT_UTF8] * foreign
    line = _one_line(text) if isinstance(text, str) else ""
    if len(line) > LONGEST:
        line = line[:LONGEST].rstrip()
        converted.append(CUT)
    name = class_name(label)
    return Caption(line or name or "", name, tuple(converted))


def class_name(label: Any) -> str | None:
    """The name of a class, from text or a whole number."""
    if isinstance(label, bytes):
        label = decoded(label)[0]
    if isinstance(label, bool) or not isinstance(label, str | int):
        return None
    return _one_line(str(label))[:LONGEST] or None


def _one_line(text: str) -> str:
    """Halves of surrogate pairs, which JSON may hold, cannot be written."""
    line = " ".join(text.replace("\0", " ").split())
    return line if line.isascii() else line.encode("utf-8", "replace").decode()


def named(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that there is, None without any."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def read_table(path: Path, source: str) -> tuple[dict[str, Caption], list[Skipped]]:
    """Caption by file, relative to the table's folder, and what in the table could not be read."""
    found: dict[str, Caption] = {}
    faults: list[Skipped] = []
    try:
        with path.open("rb") as file:
            read = {".json": _whole, ".jsonl": _lines, ".csv": _columns}[path.suffix.lower()]
            for item in read(Contents(file), source):
                if isinstance(item, Skipped):
                    faults.append(item)
                elif item[0] in found:
                    faults.append(Skipped(f"{source}: {item[0]}", "a second caption of a picture"))
                else:
                    found[item[0]] = item[1]
    except UserError as error:
        faults.append(Skipped(source, str(error)))
    except OSError as error:
        faults.append(Skipped(source, error.strerror or "cannot be read"))
    return found, faults


Row = tuple[str, Caption]


def _row(record: Any, where: str, foreign: bool) -> Row | Skipped:
    file = named(record, FILES) if isinstance(record, dict) else None
    if not isinstance(file, str) or not file.strip():
        return Skipped(where, "a record without a file name")
    made = caption(named(record, TEXTS), named(record, CLASSES))
    return _key(file), made._replace(converted=(*made.converted, *[NOT_UTF8] * foreign))


def _key(file: str) -> str:
    return posixpath.normpath(file.strip().replace("\\", "/"))


def _whole(contents: Contents, source: str) -> Iterator[Row | Skipped]:
    data = contents.read(WHOLE + 1)
    if len(data) > WHOLE:
        raise UserError(f"a .json table of more than {WHOLE >> 20} MB (.jsonl has no limit)")
    text, foreign = decoded(data)
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError("not JSON") from error
    if isinstance(records, dict):
        if not all(isinstance(value, str | list) for value in records.values()):
            raise UserError(NOT_A_TABLE)
        records = [{"file": file, "text": value} for file, value in records.items()]
    elif not isinstance(records, list):
        raise UserError(NOT_A_TABLE)
    for number, record in enumerate(records, 1):
        yield _row(record, f"{source}:{number}", foreign)


def _lines(contents: Contents, source: str) -> Iterator[Row | Skipped]:
    for number, line in enumerate(contents.lines(LONGEST_LINE), 1):
        where = f"{source}:{number}"
        if line is None:
            yield Skipped(where, f"a line longer than {LONGEST_LINE >> 20} MB")
        elif line.strip():
            text, foreign = decoded(line)
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                yield Skipped(where, "not JSON")
            else:
                yield _row(record, where, foreign)


def _columns(contents: Contents, source: str) -> Iterator[Row | Skipped]:
    """Separated by commas, semicolons or tabs, as the first line is."""
    foreign: list[bool] = [False]

    def lines() -> Iterator[str]:
        for line in contents.lines(LONGEST_LINE):
            text, foreign[0] = decoded(line or b"")
            if "\0" in text:
                raise UserError("a table in UTF-16: save it as UTF-8")
            yield text + "\n"

    text = lines()
    first = next(text, "")
    separator = next((sign for sign in ",;\t" if sign in first), ",")
    try:
        written = next(csv.reader([first], delimiter=separator), [])
    except csv.Error as error:
        raise UserError(NOT_A_TABLE) from error
    head = [name.strip().lower() for name in written]
    rows = csv.reader(text, delimiter=separator)
    bare = not (set(head) & set(FILES) and set(head) & {*TEXTS, *CLASSES})
    if bare and len(head) != 2:
        raise UserError(NOT_A_TABLE)
    if bare:
        yield _row(dict(zip(("file", "text"), written, strict=True)), f"{source}:1", foreign[0])
        head = ["file", "text"]
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Skipped(f"{source}:{rows.line_num + 1}", f"not CSV ({error})")
            continue
        if row is None:
            return
        if row:
            where = f"{source}:{rows.line_num + 1}"
            yield _row(dict(zip(head, row, strict=False)), where, foreign[0])
