"""JSON as records, whatever its layout, read in bounded memory.

    lines      an object on each line (JSON lines), whatever the file is called
    values     objects one after the other, each over several lines
    array      [object, object ...], several after each other too
    table      one object that holds such an array under `data`, `rows`, `records`, `documents`,
               `examples` or `items`; what else it holds is passed over
    record     one object with the field of the text

All other JSON is none: a configuration, a tree, an array of numbers. A file that is damaged gives
the records before the damage; a line that is damaged is passed over.
"""

import codecs
import json
from collections.abc import Callable, Iterator
from typing import Any

from maquette.corpus.decompress import BLOCK, Contents
from maquette.corpus.document import Skipped
from maquette.corpus.formats import NOT_TEXT
from maquette.corpus.records import MARK, value

WHOLE = 32 << 20  # bytes of one record
TABLES = ("data", "rows", "records", "documents", "examples", "items")
SPACE = " \t\r\n"
BLANK = codecs.BOM_UTF8 + SPACE.encode()


def layout(
    open_again: Callable[[], Contents], text: str | None, *, lines: bool = False
) -> str | None:
    """The layout of a file's records; None where the file holds no records.

    open_again: the file from its start. text: the field that makes an object a record, where it is
    alone or in a table; None: any object is one. lines: what is nothing else is lines.
    """
    try:
        stream = _Stream(open_again())
        first = stream.peek()
        if first == "[":
            stream.skip()
            if stream.peek() == "{":
                return "array"
            return "lines" if lines else None
        if first != "{":
            return "lines" if lines else None
        longest = BLOCK if lines else WHOLE
        shown = (x for x in open_again().lines(longest) if x is None or x.strip(BLANK))
        line = next(shown, None)
        if lines and (line is None or _is_object(line)):
            return "lines"
        if _is_object(line):
            another = next(shown, b"")
            if another is None or another.lstrip().startswith(b"{"):
                return "lines"
            if another:
                return None
        return _of_one(stream, text) or ("lines" if lines else None)
    except (ValueError, RecursionError):
        return "lines" if lines else None


def _of_one(stream: "_Stream", text: str | None) -> str | None:
    """The layout of a file that begins with an object over several lines, or with a single object."""
    if stream.table(text):
        return "table"
    if stream.peek() == "{":
        return "values"
    record = text is None or has(stream.object, text)
    return "record" if record and not stream.peek() else None


def records(
    contents: Contents, how: str, source: str, text: str | None
) -> Iterator[tuple[Any, str] | Skipped]:
    """The records of a file, each with its line or number."""
    if how == "lines":
        yield from _lines(contents, source)
        return
    stream = _Stream(contents)
    number = 0
    try:
        if how == "array":
            stream.peek()
            stream.skip()
        elif how == "table":
            stream.peek()
            stream.table(text)
        ended = False
        while sign := stream.peek():
            if sign == "]" and how != "values":
                ended = True
                if how == "table":  # what else the object holds is passed over
                    break
            elif sign == "[" and ended:  # another array after it
                ended = False
            elif sign != ",":
                number += 1
                yield stream.value(), f"{source}:{number}"
                continue
            stream.skip()
        if how in ("array", "table") and not ended and not contents.fault:
            yield Skipped(source, "cut off: an array without its end")
    except UnicodeDecodeError:
        yield Skipped(f"{source}:{number}", f"{NOT_TEXT}: read up to there")
    except (ValueError, RecursionError):
        if not contents.fault:
            yield Skipped(f"{source}:{number}", "not JSON: read up to there")


def _lines(contents: Contents, source: str) -> Iterator[tuple[Any, str] | Skipped]:
    for number, line in enumerate(contents.lines(WHOLE), 1):
        where = f"{source}:{number}"
        if line is None:
            yield Skipped(where, f"a line longer than {WHOLE >> 20} MB")
        elif line.strip(BLANK):
            try:
                yield _parsed(line), where
            except UnicodeDecodeError:
                yield Skipped(where, NOT_TEXT)
            except (ValueError, RecursionError):
                yield Skipped(where, "not JSON")


def _is_object(line: bytes | None) -> bool:
    try:
        return line is not None and isinstance(_parsed(line), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(line: bytes) -> Any:
    """Raises UnicodeDecodeError, ValueError, or RecursionError for what is nested too deep."""
    return json.loads(line.decode().removeprefix(MARK))


class _Stream:
    """Values of JSON one after the other, from a file that is read a block at a time."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._at, self._ended, self._length = "", 0, False, 0
        self._more()
        self._text = self._text.removeprefix(MARK)
        self.object: dict[str, Any] = {}

    def _more(self, least: int = 1) -> bool:
        """Read `least` bytes or more; returns whether the file went on."""
        self._text, self._at = self._text[self._at :], 0
        read = [self._text]
        while least > 0 and not self._ended:
            block = self._contents.read(BLOCK)
            self._ended = not block
            read.append(self._decode(block, not block))
            least -= len(block)
        self._text = "".join(read)
        return len(read) > 1 and any(read[1:])

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended or not self._more():
                return ""

    def skip(self) -> None:
        """Skip the character that `peek` returned."""
        self._at += 1

    def value(self) -> Any:
        """The next JSON value. Raises ValueError for none, and for more than WHOLE bytes."""
        self.peek()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended or isinstance(value, dict | list):
                    self._length, self._at = end - self._at, end
                    return value
            except json.JSONDecodeError:
                if self._ended:
                    raise
            held = len(self._text) - self._at
            if held > WHOLE:
                raise ValueError(f"a value longer than {WHOLE} bytes")
            self._more(held)

    def table(self, text: str | None) -> bool:
        """Read an object up to an array of objects that have `text`, and stand inside of it.

        text: None for any objects. Where there is no such array: read to the object's end, and
        `object` then holds it. ValueError for one that is longer than WHOLE.
        """
        self.object = {}
        read = 0
        self.skip()  # {
        while self.peek() != "}":
            if self.peek() == ",":
                self.skip()
            key = self.value()
            if not isinstance(key, str) or self.peek() != ":":
                raise ValueError("no key")
            self.skip()
            if key in TABLES and self.peek() == "[":
                self.skip()
                if self.peek() == "{":
                    first = self.value()
                    self._at -= self._length
                    if text is None or has(first, text):
                        return True
                self._text, self._at = "[" + self._text[self._at :], 0
            self.object[key] = self.value()
            read += self._length
            if read > WHOLE:
                raise ValueError(f"an object longer than {WHOLE} bytes")
        self.skip()
        return False


def has(record: Any, text: str) -> bool:
    """Whether a value is an object with that field, a text or null."""
    try:
        return isinstance(record, dict) and isinstance(value(record, text), str | None)
    except KeyError:
        return False
