"""Records to documents: text and provenance.

    text       the field `text`, or the one that is named (a.b for b inside of a)
    source     `source`, `url` or `id`; else the file and the number of the record
    date       `date`, or the one that is named: ISO 8601, a year, a day as 20200131, or seconds,
               thousandths, millionths or billionths of one since 1970 by their size
    licence    `licence` or `license`; title: `title`; component: `component` or the Pile's
               `meta.pile_set_name`

A value of another kind is left out and the rest is kept. What is left out is said, as `Skipped`.
"""

import codecs
import datetime
import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from maquette.corpus.decompress import Contents
from maquette.corpus.document import Document, Skipped
from maquette.corpus.formats import NOT_TEXT

LONGEST = 8 << 20  # bytes of one document
NO_RECORDS = frozenset(
    "dataset_infos dataset_info dataset_dict state config metadata tokenizer package".split()
)  # of .json files, which describe a data set
SHOWN, NAME = 8, 40  # fields named where there is no text, and characters of a name
KINDS = 16  # sets of fields named of one file
UNDATED = "a date that is none: kept without it"
SECONDS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3), (10**8, 1))
EPOCH = datetime.date(1970, 1, 1)
PILE = "pile_set_name"  # the Pile keeps the component in the column `meta`
MARK = "\N{BYTE ORDER MARK}"
NAME_IT = ": name one with --text-field"


class Fields(NamedTuple):
    """The fields of a record that hold its text and its date."""

    text: str = "text"
    date: str = "date"


def value(record: dict[str, Any], name: str) -> Any:
    """The value of a field; a.b is b inside of a, unless there is a field a.b. Raises KeyError."""
    if name in record:
        return record[name]
    first, dot, rest = name.partition(".")
    if not dot or not isinstance(record.get(first), dict):
        raise KeyError(name)
    return value(record[first], rest)


class Records:
    """Turns the records of one file into documents.

    component: component of all documents; None: each record's own. Reasons name a bounded number of sets
    of fields, whatever the file holds.
    """

    def __init__(self, component: str | None, fields: Fields) -> None:
        self._component, self._fields = component, fields
        self._known: set[str] = set()

    def __call__(self, record: Any, where: str) -> Iterator[Document | Skipped]:
        """The documents of a record: several where its text is long."""
        name = self._fields.text
        if not isinstance(record, dict):
            yield Skipped(where, "no object")
            return
        try:
            text = value(record, name)
        except KeyError:
            yield Skipped(where, self._missing(record))
            return
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError:
                yield Skipped(where, NOT_TEXT)
                return
        if text is not None and not isinstance(text, str):
            yield Skipped(where, f"'{name}' is no text but {_kind(text)}")
            return
        if not text or text.isspace():
            yield Skipped(where, f"no '{name}'")
            return
        try:
            date, dated = date_of(value(record, self._fields.date))
        except KeyError:
            date, dated = None, True
        if not dated:
            yield Skipped(where, UNDATED)
        yield from cut(
            text,
            self._component or _component(record),
            next((w for n in ("source", "url", "id") if (w := word(record.get(n)))), where),
            date,
            word(record.get("licence")) or word(record.get("license")),
            word(record.get("title")),
        )

    def _missing(self, record: dict[str, Any]) -> str:
        reason = missing(self._fields.text, list(record))
        if reason not in self._known and len(self._known) >= KINDS:
            return f"no field '{self._fields.text}'"
        self._known.add(reason)
        return reason


def missing(name: str, has: list[str]) -> str:
    """Message: the record has no text, and how to name its field."""
    names = ", ".join(str(n)[:NAME] for n in has[:SHOWN]) + (" ..." if len(has) > SHOWN else "")
    return f"no field '{name}' (has {names or 'none'}{NAME_IT})"


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "another kind")


def _component(record: dict[str, Any]) -> str:
    meta = record.get("meta")
    named = meta.get(PILE) if isinstance(meta, dict) else None
    return word(record.get("component")) or word(named) or "records"


def word(value: Any) -> str | None:
    """A provenance value as text, from text, a number or a list of texts; None for all else."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list):
        value = ", ".join(w for inner in value if isinstance(inner, str) and (w := inner))
    if isinstance(value, str):
        return value or None
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if known and math.isfinite(value) else None


def date_of(value: Any) -> tuple[str | None, bool]:
    """A date as text, and whether it is valid; an absent date is valid."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if value is None or value == "" or value != value:
        return None, True
    if isinstance(value, str):
        return value, True
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat(), True
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None, False
    if isinstance(value, float) and not value.is_integer() and abs(value) < SECONDS[-1][0]:
        return None, False
    try:
        return _numbered(int(value)), True
    except (ValueError, OverflowError):
        return None, False


def _numbered(number: int) -> str:
    """The date of a number: a year, a day as 20200131, or a time since 1970, by its size."""
    if 1000 <= number <= 9999:
        return str(number)
    for least, unit in SECONDS:
        if abs(number) >= least:
            return (EPOCH + datetime.timedelta(days=number // (unit * 86400))).isoformat()
    return datetime.date.fromisoformat(f"{number:08d}").isoformat()


def cut(
    text: str, component: str, source: str, date: str | None, licence: str | None, title: str | None
) -> Iterator[Document]:
    """One document, or several where the text is longer than LONGEST."""
    text = text.removeprefix(MARK)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs, which JSON may hold
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        data = text.encode()
    texts = [text] if len(data) <= LONGEST else pieces(Contents(io.BytesIO(data)))
    for number, piece in enumerate(texts):
        if piece and not piece.isspace():
            yield Document(piece, component, nth(source, number), date, licence, title)


def nth(source: str, number: int) -> str:
    """The name of a piece of a document."""
    return f"{source}#{number}" if number else source


def pieces(contents: Contents) -> Iterator[str]:
    """Text in pieces of at most LONGEST bytes, cut after a line end where there is one.

    Raises UnicodeDecodeError for what is not UTF-8.
    """
    rest = contents.read(LONGEST)
    while len(rest) == LONGEST:
        text, used = codecs.utf_8_decode(rest[: rest.rfind(b"\n") + 1 or LONGEST], "strict", False)
        yield text
        rest = rest[used:] + contents.read(used)
    yield codecs.utf_8_decode(rest, "strict", not contents.fault)[0]
