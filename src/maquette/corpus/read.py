"""Sources of documents: files and folders, a data set of the Hugging Face Hub, standard input.

    text       prose and source code; a long file is cut at line ends into documents of 8 MB
    records    .jsonl, .ndjson, .json that holds records (json_records.py says which layouts), and the
               rows of .parquet, .arrow, .feather: objects with a text (records.py); the rows of .csv and
               .tsv where the field of the text is named, which are prose else
    pages      .html and .pdf: the text extracted

All may be compressed (.gz, .zst, .bz2, .xz). What cannot be read is yielded as `Skipped` and
nothing else is lost. Reading streams: memory does not grow with a file, save for a PDF's text and one
batch of an arrow file. Files and folders whose names begin with a dot are left out, and so are
folders of caches and installed packages.
"""

import datetime
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from maquette.base.errors import UserError
from maquette.corpus import delimited
from maquette.corpus.decompress import Contents, plain, unpacked
from maquette.corpus.document import Document, Skipped, Source
from maquette.corpus.formats import NOT_TEXT, Unreadable, page, pdf
from maquette.corpus.json_records import WHOLE, layout
from maquette.corpus.json_records import records as json_records
from maquette.corpus.records import MARK, Fields, Records, cut, nth, pieces

PART = 64 << 20  # bytes of the files that one worker reads
RECORDS, JSON = (".jsonl", ".ndjson"), ".json"
TABLES = (".parquet", ".arrow", ".feather")
ROWS = (".csv", ".tsv")
PAGES = (".html", ".htm", ".xhtml")
CODE = frozenset(
    """.py .pyi .c .h .cc .cpp .hpp .cu .rs .go .java .kt .js .jsx .ts .tsx .rb .pl .php .sh .bash
    .zsh .lua .r .jl .hs .ml .scala .swift .cs .sql .css .scss .vue .cmake .mk .toml .yaml .yml .ini
    .cfg .json .xml .proto .tcl .vim .el .lisp .clj .ex .exs .erl .f90 .m .asm .s""".split()
)
FULL = (errno.ENOSPC, errno.EDQUOT)
IGNORED = frozenset(["__pycache__", "node_modules", "site-packages", "dist-packages"])


class File(NamedTuple):
    """A file or folder to read.

    source: name of its documents. version: identity of its content in place of size and time (a data
    set's revision, a hash); the documents of such a file have no date. fields: the fields of its
    records that hold text and date.
    """

    path: str
    source: str
    version: str = ""
    fields: Fields = Fields()


class Entry(NamedTuple):
    """An entry of a listing: a file, or the reason that it cannot be read."""

    item: File | Skipped
    bytes: int = 0
    changed: int = 0  # nanoseconds


@dataclass(frozen=True)
class Part:
    """Some of the files of a listing."""

    items: tuple[File | Skipped, ...]

    def __iter__(self) -> Iterator[Document | Skipped]:
        return _read(self.items)


@dataclass(frozen=True)
class Files:
    """Every readable file of some files and folders, in the order of their names."""

    tops: tuple[File, ...]

    def __iter__(self) -> Iterator[Document | Skipped]:
        return _read(entry.item for entry in self.listing())

    @property
    def paths(self) -> tuple[Path, ...]:
        """The sources as the user named them."""
        return tuple(Path(top.path) for top in self.tops)

    def listing(self) -> Iterator[Entry]:
        """The entries to read, in a fixed order."""
        for top in self.tops:
            yield from _list(top)

    def parts(self, size: int = PART) -> list[Source]:
        """The same documents in the same order, cut between files into parts of about `size` bytes.

        Parts are small to pickle and can be read side by side.
        """
        parts: list[Source] = []
        items: list[File | Skipped] = []
        held = 0
        for entry in self.listing():
            if items and held + entry.bytes > size:
                parts.append(Part(tuple(items)))
                items, held = [], 0
            items.append(entry.item)
            held += entry.bytes
        return [*parts, Part(tuple(items))] if items else parts

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.listing())

    def fingerprint(self) -> str:
        """A hash of names, sizes and times: the same for as long as the files are."""
        digest = hashlib.sha256()
        for entry in self.listing():
            item = entry.item
            if isinstance(item, File) and item.version:
                entry = Entry(item._replace(path=""))
            digest.update(repr(entry).encode())
        return digest.hexdigest()


def files(sources: Iterable[str | Path], *, text: str = "text", date: str = "date") -> Files:
    """The sources a user names, checked for being there. text, date: the fields of records.

    A source is a file, a folder, `hf://DATASET[/path][@split]` (downloaded into the Hub's cache), or
    `-` for standard input (read to its end). Raises UserError for what is not there.
    """
    tops: list[File] = []
    for name in map(str, sources):
        if name == "-":
            from maquette.corpus.remote import standard_input

            tops.append(File(*standard_input()))
        elif name.startswith("hf://"):
            from maquette.corpus.remote import hub

            tops += (File(*file) for file in hub(name))
        else:
            tops.append(_top(name))
    return Files(tuple(top._replace(fields=Fields(text, date)) for top in tops))


def _top(name: str) -> File:
    path = Path(os.path.expanduser(name))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name a file or a folder with text") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read ({why}): name another file or folder") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is no file and no folder: '-' reads standard input")
    return File(str(path.absolute()), _shown(str(path)))


def _shown(name: str) -> str:
    """A file name decoded as UTF-8, whatever the locale."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def walk(top: Path) -> Iterator[Path]:
    """The files under `top` that can be read, in a fixed order."""
    for entry in _list(File(str(top), str(top))):
        if isinstance(entry.item, File):
            yield Path(entry.item.path)


def _list(top: File) -> Iterator[Entry]:
    """A file, or the entries of a folder; links to folders are not followed, so that none comes twice."""
    if not os.path.isdir(top.path):
        yield _entry(top)
        return
    failed: list[OSError] = []
    empty = True
    for folder, folders, names in os.walk(top.path, onerror=failed.append):
        where = Path(top.source, _shown(folder[len(top.path) :].lstrip("/")))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in IGNORED)
        links = [f for f in folders if os.path.islink(os.path.join(folder, f))]
        for name in sorted([*links, *(n for n in names if not n.startswith("."))]):
            empty = False
            yield _entry(
                File(os.path.join(folder, name), str(where / _shown(name)), top.version, top.fields)
            )
    for error in failed:
        inside = _shown(str(error.filename)[len(top.path) :].lstrip("/"))
        yield Entry(Skipped(str(Path(top.source, inside)), _reason(error)))
    if empty and not failed:
        yield Entry(Skipped(top.source, "no files found"))


def _entry(file: File) -> Entry:
    """The entry of a regular file; others are not opened: a pipe would wait for a writer for ever."""
    try:
        status = os.stat(file.path)
    except OSError as error:
        if error.errno == errno.ELOOP or os.path.islink(file.path):
            return Entry(Skipped(file.source, "a link that leads nowhere"))
        return Entry(Skipped(file.source, _reason(error)))
    if stat.S_ISDIR(status.st_mode):
        return Entry(Skipped(file.source, "a link to a folder: not followed"))
    if not stat.S_ISREG(status.st_mode):
        return Entry(Skipped(file.source, "a pipe, socket or device"))
    return Entry(file, status.st_size, status.st_mtime_ns)


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read"
    if isinstance(error, FileNotFoundError):
        return "gone before it was read"
    return error.strerror or type(error).__name__


def _read(items: Iterable[File | Skipped]) -> Iterator[Document | Skipped]:
    for item in items:
        if isinstance(item, Skipped):
            yield item
        else:
            yield from _read_file(Path(item.path), item.source, None, not item.version, item.fields)


def read_file(
    path: Path, source: str, component: str | None = None, *, dated: bool = True
) -> Iterator[Document | Skipped]:
    """The documents of one file. dated: those of text and pages carry the day of its last change."""
    yield from _read_file(path, source, component, dated, Fields())


def _read_file(
    path: Path, source: str, component: str | None, dated: bool, fields: Fields
) -> Iterator[Document | Skipped]:
    empty = True
    try:
        for item in _documents(path, source, component, dated, fields):
            empty = False
            yield item
    except UnicodeDecodeError:
        yield Skipped(source, NOT_TEXT)
    except Unreadable as error:
        yield Skipped(source, str(error))
    except OSError as error:
        if error.errno in FULL:  # our disk's, where it is unpacked
            raise
        yield Skipped(source, _reason(error))
    except MemoryError:
        raise
    except Exception as error:  # a library's, over a file that nobody thought of
        yield Skipped(source, f"cannot be read ({type(error).__name__})")
    else:
        if empty:
            yield Skipped(source, "empty")


def _documents(
    path: Path, source: str, component: str | None, dated: bool, fields: Fields
) -> Iterator[Document | Skipped]:
    status = path.stat()
    if not status.st_size:
        return
    date = _day(status.st_mtime) if dated else None
    name = plain(path.name)
    if name.endswith((*TABLES, ".pdf")):
        with unpacked(path) as (whole, fault):
            if fault:
                yield Skipped(source, fault)
            elif name.endswith(".pdf"):
                yield from _pdf(whole, source, component, date)
            else:
                yield from _rows(whole, source, component, fields)
        return
    if name.endswith(ROWS) and fields.text != Fields().text:
        documents = Records(component, fields)
        for row in delimited.rows(path, source):
            if isinstance(row, Skipped):
                yield row
            else:
                yield from documents(*row)
        return
    if name.endswith((*RECORDS, JSON)):
        how = _layout(path, fields, lines=name.endswith(RECORDS))
        if how is not None:
            with path.open("rb") as file:
                contents = Contents(file, path.name)
                yield from _records(contents, how, source, component, fields)
                if contents.fault:
                    yield Skipped(source, contents.fault)
            return
    with path.open("rb") as file:
        contents = Contents(file, path.name)
        if name.endswith(PAGES):
            yield from _page(contents, source, component, date)
        else:
            code = os.path.splitext(name)[1] in CODE
            yield from _text(contents, source, component or ("code" if code else "prose"), date)
        if contents.fault:
            yield Skipped(source, contents.fault)


def _day(seconds: float) -> str | None:
    try:
        return datetime.date.fromtimestamp(seconds).isoformat()
    except (OSError, OverflowError, ValueError):  # a clock that was wrong by millennia
        return None


def _text(
    contents: Contents, source: str, component: str, date: str | None
) -> Iterator[Document | Skipped]:
    for number, piece in enumerate(pieces(contents)):
        if "\0" in piece:
            raise Unreadable(NOT_TEXT)
        text = piece if number else piece.removeprefix(MARK)
        if text and not text.isspace():
            yield Document(text, component, nth(source, number), date)


def _page(
    contents: Contents, source: str, component: str | None, date: str | None
) -> Iterator[Document | Skipped]:
    data = contents.read(WHOLE + 1)
    if len(data) > WHOLE:
        raise Unreadable(f"a page longer than {WHOLE >> 20} MB")
    if data:
        text, title = page(data)
        yield from cut(text, component or "prose", source, date, None, title)


def _pdf(
    path: Path, source: str, component: str | None, date: str | None
) -> Iterator[Document | Skipped]:
    with path.open("rb") as file:
        text, title, damaged = pdf(file)
    yield from cut(text, component or "prose", source, date, None, title)
    for number in damaged:
        yield Skipped(f"{source}#page={number}", "damaged page")


def _rows(
    path: Path, source: str, component: str | None, fields: Fields
) -> Iterator[Document | Skipped]:
    from maquette.corpus.tables import repeated, rows

    documents = Records(component, fields)
    for number, row in enumerate(rows(path, fields), 1):
        yield from documents(row, f"{source}:{number}")
    for name in repeated(path):
        if name in (fields.text, fields.date):
            yield Skipped(source, f"several columns '{name}': the first was read")


def _layout(path: Path, fields: Fields, lines: bool) -> str | None:
    """The layout of a JSON file's records; None: it holds no records."""
    opened: list[BinaryIO] = []

    def again() -> Contents:
        opened.append(path.open("rb"))
        return Contents(opened[-1], path.name)

    try:
        return layout(again, fields.text, lines=lines)
    finally:
        for file in opened:
            file.close()


def _records(
    contents: Contents, how: str, source: str, component: str | None, fields: Fields
) -> Iterator[Document | Skipped]:
    documents = Records(component, fields)
    for item in json_records(contents, how, source, fields.text):
        if isinstance(item, Skipped):
            yield item
        else:
            yield from documents(*item)
