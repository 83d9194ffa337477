"""Captions and classes of pictures, from text, records and the names of folders.

A caption is one line of Unicode. Text that is not UTF-8 is taken for Windows-1252, as what most such
files hold; a long one is cut. A record (an object of JSON, a row of a table) is asked for its fields in
the order of FILES, TEXTS and CLASSES, whatever the case of their names; the first that holds something
counts. Of several captions of a picture the first counts, and the rest is counted.
"""

import codecs
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

FILES = tuple(
    """file_name filename file image image_name image_path image_file img img_path picture filepath
    file_path path name image_id""".split()
)
TEXTS = tuple(
    """text caption captions prompt description sentence sentences comment raw alt_text alt txt title
    tags""".split()
)
CLASSES = ("label", "class")
COLUMNS = {
    "image": ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes"),
    "caption": TEXTS,
    "label": (*CLASSES, "cls", "fine_label"),
}
"""usual names of the columns of a table that holds pictures"""
LONGEST = 4096  # characters of a caption
LONGEST_TEXT = 64 * LONGEST  # bytes of a caption's file, or of a member beside a picture
NOT_UTF8, CUT = "caption not UTF-8: read as Windows-1252", f"caption cut to {LONGEST:,} characters"
FIRST = "the first of several captions"
EMPTY = "an empty caption"
REPEATS = "kohya's number of repeats taken off a folder's name"
_REPEATS = re.compile(r"[1-9]\d{0,2}_(?=.*[^\W\d_])")


class Caption(NamedTuple):
    """A caption, its class, and the conversions of its text."""

    text: str
    label: str | None = None
    converted: tuple[str, ...] = ()


class Fields(NamedTuple):
    """Names of the fields of records, the first that counts first.

    named: whether a person gave the caption's.
    """

    image: tuple[str, ...] = FILES
    caption: tuple[str, ...] = TEXTS
    label: tuple[str, ...] = CLASSES
    named: bool = False


USUAL = Fields()


def fields_of(columns: Mapping[str, str]) -> Fields:
    """The usual names, where `columns` (image, caption, label) gives no other."""
    named_fields = {part: (name.strip().lower(),) for part, name in columns.items()}
    return Fields(**named_fields, named="caption" in named_fields)


def decoded(data: bytes) -> tuple[str, bool]:
    """Bytes as text, and whether they were not UTF-8."""
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
    """The caption in the content of a file, a record or a column; "" where that is no text.

    Blanks and line ends become single spaces. A list, of texts or of records, gives its first text, and
    a caption that is not there is the class.
    """
    converted: list[str] = []
    if isinstance(text, list | tuple):
        texts = [member for member in map(_member, text) if isinstance(member, str | bytes)]
        converted += [FIRST] * (len(set(texts)) > 1)
        text = texts[0] if texts else None
    if isinstance(text, bytes):
        text, foreign = decoded(text)
        converted += [NOT_UTF8] * foreign
    line = _one_line(text) if isinstance(text, str) else ""
    if len(line) > LONGEST:
        line = line[:LONGEST].rstrip()
        converted.append(CUT)
    name = class_name(label)
    if not line and not name and isinstance(text, str):
        converted.append(EMPTY)
    return Caption(line or name or "", name, tuple(converted))


def _member(value: Any) -> Any:
    """The text of a list's member; also of {"raw": "..."}, as in Karpathy's tables."""
    return named(value, TEXTS) if isinstance(value, dict) else value


def class_name(label: Any) -> str | None:
    """The name of a class, from text or a whole number."""
    if isinstance(label, bytes):
        label = decoded(label)[0]
    if isinstance(label, bool) or not isinstance(label, str | int):
        return None
    return _one_line(str(label))[:LONGEST] or None


def folder_caption(name: str) -> Caption:
    """The caption and class of a folder's name; kohya's `10_sks dog` loses the repeats."""
    name = unicodedata.normalize("NFC", name)
    repeat = _REPEATS.match(name)
    made = caption(None, name[repeat.end() :] if repeat else name)
    return made._replace(converted=(REPEATS,)) if repeat else made


def record_caption(record: Mapping[str, Any], fields: Fields) -> Caption | None:
    """The caption and class of a record; None where it has no field for either."""
    text, label = named(record, fields.caption), named(record, fields.label)
    return None if text is None and label is None else caption(text, label)


def parsed(data: bytes) -> dict[str, Any] | None:
    """The record of a JSON file; None where it holds no object."""
    try:
        record = json.loads(decoded(data)[0])
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _one_line(text: str) -> str:
    """A text on one line, without halves of surrogate pairs, which JSON may hold."""
    line = " ".join(text.replace("\0", " ").split())
    return line if line.isascii() else line.encode("utf-8", "replace").decode()


def named(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that is not empty, else the first that is there; None without any."""
    small = {name.strip().lower(): value for name, value in record.items()}
    if isinstance(small.get("tags"), list):  # all of them are one caption
        small["tags"] = ", ".join(tag for tag in small["tags"] if isinstance(tag, str))
    there = [small[name] for name in names if small.get(name) is not None]
    return next((value for value in there if not _blank(value)), there[0] if there else None)


def _blank(value: Any) -> bool:
    return (isinstance(value, str | bytes) and not value.strip()) or value in ([], {})


def folded(name: str) -> str:
    """A file's name for comparison: one normal form (macOS decomposes accents) and one case."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
