"""Tables of captions beside pictures, and the row of each picture.

A row names its picture by a path: relative to the table's folder, without folders, with the folders of
another machine, without an ending (kohya's), in another case or normal form. The path that is exact
counts first; else the row whose path ends as the picture's does, or the picture's as the row's. Where
several rows do, none is taken. A row is one picture's.

A table counts for the pictures of its folder and of those below, the nearest table first. One in a folder
without pictures counts for those of the folder above, as COCO's `annotations` beside `train2017`.
"""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from maquette.base.errors import UserError
from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import (
    USUAL,
    Caption,
    Fields,
    decoded,
    folded,
    named,
    record_caption,
)
from maquette.corpus.pictures.item import PICTURES
from maquette.corpus.pictures.rows import (
    ENDINGS,
    NO_FILES,
    NOT_A_TABLE,
    Row,
    file_key,
    is_picture,
    no_captions,
    rows,
)

NAMES = ("captions", "metadata", "meta", "results")
"""prefixes of names of tables that count as tables whatever they hold"""
SECOND = "a second caption of a picture"
NOT_THERE = "named in a table of captions, not there"
SHARED = "fits a row of a table that another picture of its name has"
TWICE = "fits several rows of a table"


class NoTable(Exception):
    """A file that is no table of captions, neither by name nor by content."""


def may_be_table(name: str) -> bool:
    """Whether a file may be a table of captions, by its suffix."""
    return name.lower().endswith(ENDINGS)


def is_table(name: str) -> bool:
    """Whether a file is meant for a table of captions, by its name."""
    stem, ending = os.path.splitext(name.lower())
    return ending in ENDINGS and ending != ".txt" and stem.startswith(NAMES)


def read_table(
    path: Path, source: str, fields: Fields = USUAL, sure: bool = True
) -> tuple[dict[str, Caption], list[Skipped]]:
    """The caption of each file that a table names, and the faults of its rows.

    sure: whether it is a table by its name. Raises NoTable for no table, neither by name nor by content.
    """
    captions: dict[str, Caption] = {}
    faults: list[Skipped] = []
    try:
        _fill(captions, faults, rows(path, source, fields), fields, source, sure)
    except UserError as error:
        no_columns = str(error).startswith("no column") and not str(error).startswith(NO_FILES)
        if not sure and not captions and not no_columns:
            raise NoTable from error
        faults.append(Skipped(source, str(error)))
    except OSError as error:
        faults.append(Skipped(source, error.strerror or "cannot be read"))
    return captions, faults


def _fill(
    captions: dict[str, Caption],
    faults: list[Skipped],
    read: Iterator[Row | Skipped],
    fields: Fields,
    source: str,
    sure: bool,
) -> None:
    first: Row | None = None
    any_caption = False  # whether any row has a field of captions
    for row in read:
        file = "" if isinstance(row, Skipped) else _file(row, fields)
        named = bool(file) and fields.image != USUAL.image  # by a person
        if not (sure or first or named or is_picture(file_key(file))):
            raise UserError(NOT_A_TABLE)
        if isinstance(row, Skipped):
            faults.append(row)
            continue
        if not file:
            faults.append(Skipped(row.where, "a record without a file name"))
            continue
        first = first or row
        key = posixpath.normpath(file_key(file).replace("\\", "/"))
        known = record_caption(row.record, fields)
        any_caption = any_caption or known is not None
        if key in captions and captions[key].text:
            faults.append(Skipped(f"{source}: {key}", SECOND))
        else:
            known = known or Caption("")
            captions[key] = known._replace(converted=(*known.converted, *row.converted))
    if first and not any_caption:
        captions.clear()
        raise UserError(no_captions(first.record, fields))
    if not sure and not first:
        raise UserError(NOT_A_TABLE)


def _file(row: Row, fields: Fields) -> str:
    """The file that a row names, "" where it names none."""
    name = named(row.record, fields.image)
    name = decoded(name)[0] if isinstance(name, bytes) else name
    return name.strip() if isinstance(name, str) else ""


class Found(NamedTuple):
    """The row of a picture in a table. fault: why a possible row is not taken."""

    caption: Caption | None = None
    fault: str | None = None


class Table:
    """The rows of a table, looked up by picture.

    folder: the folder whose pictures the table is for.
    """

    def __init__(self, folder: str, source: str, captions: dict[str, Caption]) -> None:
        self.folder, self.source = folder, source
        self._captions, self._left = captions, dict.fromkeys(captions, False)
        self._by_name: dict[str, list[str]] | None = None
        self._shared: set[str] = set()  # rows that were taken by the end of their path

    def __bool__(self) -> bool:
        return bool(self._captions)

    def left(self) -> Iterator[Skipped]:
        """The rows that no picture took."""
        for name in self._left:
            yield Skipped(f"{self.source}: {name}", NOT_THERE)

    def take(self, path: str) -> Found:
        """The row of the picture at `path`."""
        own = os.path.relpath(path, self.folder).replace(os.sep, "/")
        if own in self._captions:
            self._left.pop(own, None)
            return Found(self._captions[own])
        keys = [key for key in self._alike(own) if not self._other(key, path)]
        if len(keys) > 1:
            length = max(map(_depth, keys))
            keys = [key for key in keys if _depth(key) == length]
        if len(keys) > 1:
            return Found(fault=TWICE)
        if not keys:
            return Found()
        if keys[0] not in self._left:
            return Found(fault=SHARED if keys[0] in self._shared else None)
        self._left.pop(keys[0])
        self._shared.add(keys[0])
        return Found(self._captions[keys[0]])

    def _alike(self, own: str) -> list[str]:
        """The rows whose path may be that of a picture, which is `own` from the table's folder."""
        if self._by_name is None:
            self._by_name = {}
            for key in self._captions:
                self._by_name.setdefault(_stem(key), []).append(key)
        return [key for key in self._by_name.get(_stem(own), ()) if _same_end(key, own)]

    def _other(self, key: str, path: str) -> bool:
        """Whether there is another file that a row names exactly."""
        exact = os.path.join(self.folder, key)
        try:
            return not os.path.samefile(exact, path)
        except (OSError, ValueError):
            return False


def _depth(key: str) -> int:
    return key.count("/")


def _stem(path: str) -> str:
    """The last part of a path without a picture's suffix, folded."""
    name = folded(path.rpartition("/")[2])
    stem, ending = os.path.splitext(name)
    return stem if ending in PICTURES else name


def _same_end(key: str, own: str) -> bool:
    """Whether one path is the end of the other; a name without a picture's suffix fits any suffix."""
    ours, theirs = folded(own).split("/"), folded(key).split("/")
    if not is_picture(theirs[-1]):
        ours[-1] = _stem(ours[-1])
    shorter = min(len(ours), len(theirs))
    return ours[-shorter:] == theirs[-shorter:]
