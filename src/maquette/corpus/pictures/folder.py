"""A folder of pictures, as people have them: in folders below folders, with captions in several places.

A picture's caption is that of a file beside it (picture_sidecars.py), else a row of a table in its folder or
one above (picture_tables.py). In a folder below the one that was named, which has neither, the folder's name
is caption and class. A file is a picture by the ending of its name; by its first bytes, where it has none.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import FIRST, Caption, fields_of, folder_caption
from maquette.corpus.pictures.foreign import FOREIGN_ENDINGS, HEAD, foreign_content, picture_content
from maquette.corpus.pictures.item import PICTURES, Location, Picture, captioned
from maquette.corpus.pictures.parquet import holds_pictures, table_rows
from maquette.corpus.pictures.shards import is_shard, shard
from maquette.corpus.pictures.sidecars import ENDINGS, TEXT_ENDINGS, Sidecars, is_empty
from maquette.corpus.pictures.tables import NoTable, Table, is_table, may_be_table, read_table
from maquette.corpus.read import IGNORED, File, Files

PARQUET = ".parquet"
NEITHER = "neither picture nor caption, by its name"
ALONE = "a caption without a picture"


def archive(file: File, columns: Mapping[str, str]) -> Iterator[Picture | Skipped]:
    """The pictures of a shard, or of a table that holds them."""
    if is_shard(file.path):
        yield from shard(file, fields_of(columns))
    else:
        yield from table_rows(file, columns)


class Folder:
    """The pictures of a folder and of those below it, in the order of their names."""

    def __init__(self, top: File, columns: Mapping[str, str]) -> None:
        self._top, self._columns, self._fields = top, columns, fields_of(columns)
        self._tables: list[Table] = []  # the nearest last
        self._adrift: dict[
            str, list[File]
        ] = {}  # tables of folders without pictures, by whose they are
        self._used: set[str] = set()  # their paths

    def __iter__(self) -> Iterator[Picture | Skipped]:
        self._look()
        listed: list[tuple[File, int]] = []
        for item, size, _ in Files((self._top,)).listing():
            if isinstance(item, Skipped):
                yield item
                continue
            if listed and os.path.dirname(item.path) != os.path.dirname(listed[0][0].path):
                yield from self._folder(listed)
                listed = []
            listed.append((item, size))
        if listed:
            yield from self._folder(listed)
        yield from self._leave("")

    def _look(self) -> None:
        """Find the tables in folders that have no pictures in them, nor below."""
        drawn: set[str] = set()
        tables: dict[str, list[str]] = {}
        for folder, folders, names in os.walk(self._top.path):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in IGNORED)
            names = sorted(name for name in names if not name.startswith("."))
            if any(_drawn(name) or is_shard(name) for name in names):
                above = folder
                while above not in drawn and len(above) >= len(self._top.path):
                    drawn.add(above)
                    above = os.path.dirname(above)
            tables[folder] = [name for name in names if may_be_table(name)]
        for folder, names in tables.items():
            above = folder
            while above not in drawn and above != self._top.path:
                above = os.path.dirname(above)
            if folder in drawn or above not in drawn:
                continue
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    inside = os.path.relpath(path, self._top.path)
                    file = File(path, str(Path(self._top.source, inside)), self._top.version)
                    self._adrift.setdefault(above, []).append(file)

    def _folder(self, listed: list[tuple[File, int]]) -> Iterator[Picture | Skipped]:
        """The files of one folder."""
        folder = os.path.dirname(listed[0][0].path)
        yield from self._leave(folder)
        yield from self._enter(folder)
        names = {file.path: os.path.basename(file.path) for file, _ in listed}
        drawn = {path for path, name in names.items() if _drawn(name) or _by_content(path)}
        files = [file for file, _ in listed if names[file.path].lower().endswith(ENDINGS)]
        beside = Sidecars((names[path] for path in drawn), files, self._fields)
        known = ({file.path for file in files} - beside.strays) | self._used
        tables = [file for file, _ in listed if may_be_table(names[file.path])]
        tables = [file for file in tables if file.path not in known]
        done, faults = self._open(tables, folder)
        yield from faults
        done |= known
        by_class = None if folder == self._top.path else folder_caption(os.path.basename(folder))
        if any(self._tables) or (by_class and beside.any()):
            by_class = None
        for file, size in listed:
            name = names[file.path]
            if file.path in drawn:
                yield from self._picture(file, size, beside, by_class)
            elif is_shard(name) or (name.lower().endswith(PARQUET) and file.path not in done):
                yield from archive(file, self._columns)
            elif file.path not in done:
                text = name.lower().endswith(TEXT_ENDINGS)
                yield Skipped(file.source, ALONE if text else NEITHER)

    def _picture(
        self, file: File, size: int, beside: Sidecars, by_class: Caption | None
    ) -> Iterator[Picture | Skipped]:
        name = os.path.basename(file.path)
        own, faults = beside.of(name)
        yield from faults
        row, fault = self._known(file.path)
        known = next(
            (caption for caption in (own, row, by_class) if caption and caption.text), None
        )
        if known and known is own and row and row.text not in ("", own.text):
            known = own._replace(converted=(*own.converted, FIRST))
        foreign = FOREIGN_ENDINGS.get(os.path.splitext(name)[1].lower())
        if foreign or (fault and not known):
            yield Skipped(file.source, foreign or fault or "")
        else:
            empty = own if is_empty(own) else row
            yield captioned(file.source, known or empty, Location(size, path=file.path))

    def _known(self, path: str) -> tuple[Caption | None, str | None]:
        """The caption of a picture in the nearest table, and the faults of rows that are not taken."""
        captions: list[Caption] = []
        faults: list[str] = []
        for table in reversed(self._tables):
            row = table.take(path)
            captions += [row.caption] if row.caption else []
            faults += [row.fault] if row.fault else []
        known = next(
            (caption for caption in captions if caption.text), captions[0] if captions else None
        )
        if known and any(caption.text not in ("", known.text) for caption in captions):
            known = known._replace(converted=(*known.converted, FIRST))
        return known, next(iter(faults), None)

    def _enter(self, folder: str) -> Iterator[Skipped]:
        """Open the tables that stand in folders without pictures and count for this one or one above."""
        for above in sorted(above for above in self._adrift if _within(folder, above)):
            files = self._adrift.pop(above)
            done, faults = self._open(files, above)
            self._used |= done
            yield from faults

    def _open(self, files: list[File], folder: str) -> tuple[set[str], list[Skipped]]:
        """Read tables that count for a folder; the paths of those that are some, and their faults."""
        done: set[str] = set()
        faults: list[Skipped] = []
        tables: list[Table] = []
        for file in files:
            parquet = file.path.lower().endswith(PARQUET)
            if parquet and holds_pictures(file.path, self._columns):
                continue
            sure = is_table(os.path.basename(file.path))
            try:
                captions, wrong = read_table(Path(file.path), file.source, self._fields, sure)
            except NoTable:
                continue
            done.add(file.path)
            faults += wrong
            tables.append(Table(folder, file.source, captions))
        self._tables += reversed(tables)  # the first in the order of names is the nearest
        return done, faults

    def _leave(self, folder: str) -> Iterator[Skipped]:
        """Close the tables of folders that this one is not in: what they still name is not there."""
        while self._tables and not _within(folder, self._tables[-1].folder):
            yield from self._tables.pop().left()


def _within(folder: str, above: str) -> bool:
    return f"{folder}/".startswith(f"{above.rstrip('/')}/")


def _drawn(name: str) -> bool:
    """Whether a file is a picture by its suffix, of a format that is read or not."""
    return name.lower().endswith((*PICTURES, *FOREIGN_ENDINGS))


def _by_content(path: str) -> bool:
    """Whether a file without a suffix is a picture."""
    if "." in os.path.basename(path):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return picture_content(head) or foreign_content(head) is not None
