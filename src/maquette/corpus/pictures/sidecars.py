"""Captions in a file of their own beside each picture.

    NAME.jpg.txt  NAME.jpg.caption  NAME.jpg.json        of that picture alone
    NAME.txt      NAME.caption      NAME.caption.txt     NAME.json

The first that holds a caption counts, in this order; a .json file goes first where a person has named its
field. It is a record: img2dataset's, kohya's, any with a field of captions. Where no file of exactly that
name is a picture's, case and normal form do not matter.
"""

import os
from collections.abc import Iterable, Iterator

from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import (
    EMPTY,
    LONGEST_TEXT,
    Caption,
    Fields,
    caption,
    folded,
    parsed,
    record_caption,
)
from maquette.corpus.read import File

TEXT_ENDINGS = (".txt", ".caption")
ENDINGS = (*TEXT_ENDINGS, ".json")
WORDS = (".caption", ".captions", ".text", ".prompt")  # before .txt or .json
NO_FIELD = "a .json file beside a picture, without a caption"
NO_RECORD = "a .json file beside a picture that is damaged, or no record"


class Sidecars:
    """The captions beside the pictures of one folder.

    names: names of its pictures. files: files that may be captions; `strays`: files of no picture.
    """

    def __init__(self, names: Iterable[str], files: Iterable[File], fields: Fields) -> None:
        self._fields = fields
        self._of: dict[str, list[File]] = {}  # by the exact name of a picture, or its stem
        self._like: dict[str, list[File]] = {}  # by a folded one
        self.strays: set[str] = set()  # paths
        self._bad: set[str] = set()
        known = {part for name in names for part in (name, os.path.splitext(name)[0])}
        alike = {folded(part) for part in known}
        for file in files:
            bare = os.path.splitext(os.path.basename(file.path))[0]
            short, word = os.path.splitext(bare)
            tries = (bare, short) if word.lower() in WORDS else (bare,)
            exact = next((name for name in tries if name in known), None)
            like = next((folded(name) for name in tries if folded(name) in alike), None)
            if exact is not None:
                self._of.setdefault(exact, []).append(file)
            elif like is not None:
                self._like.setdefault(like, []).append(file)
            else:
                self.strays.add(file.path)

    def any(self) -> bool:
        """Whether any file holds a caption."""
        held = [file for files in (*self._of.values(), *self._like.values()) for file in files]
        return any(file.path.lower().endswith(TEXT_ENDINGS) for file in held) or any(
            map(self._says, held)
        )

    def _says(self, file: File) -> bool:
        """Whether a .json file has a field of captions."""
        try:
            return record_caption(parsed(_bytes(file)) or {}, self._fields) is not None
        except OSError:
            return False

    def of(self, name: str) -> tuple[Caption | None, list[Skipped]]:
        """The caption of a picture, empty or None where there is none; and the faults."""
        empty: Caption | None = None
        faults: list[Skipped] = []
        for file in self._files(name):
            try:
                known = self._read(file, name, faults)
            except OSError as error:
                faults.append(Skipped(file.source, error.strerror or "cannot be read"))
                continue
            if known and known.text:
                return known, faults
            empty = known or empty
        return empty, faults

    def _files(self, name: str) -> Iterator[File]:
        stem = os.path.splitext(name)[0]
        held = [self._of.get(name), self._like.get(folded(name))]
        if stem != name:
            held += [self._of.get(stem), self._like.get(folded(stem))]
        ordered = [sorted(files or (), key=_order) for files in held]
        flat = [file for files in ordered for file in files]
        if self._fields.named:
            flat.sort(key=lambda file: not file.path.lower().endswith(".json"))
        return iter(flat)

    def _read(self, file: File, picture: str, faults: list[Skipped]) -> Caption | None:
        if not file.path.lower().endswith(".json"):
            return caption(_bytes(file))
        record = parsed(_bytes(file))
        known = record_caption(record, self._fields) if record else None
        if known and known.text == picture:  # Google's takeout has the file's name for a title
            known = None
        if known is None and file.path not in self._bad:
            self._bad.add(file.path)
            faults.append(Skipped(file.source, NO_RECORD if record is None else NO_FIELD))
        return known


def _order(file: File) -> tuple[int, str]:
    ending = os.path.splitext(file.path.lower())[1]
    return ENDINGS.index(ending), os.path.basename(file.path)


def _bytes(file: File) -> bytes:
    with open(file.path, "rb") as opened:
        return opened.read(LONGEST_TEXT)


def is_empty(known: Caption | None) -> bool:
    """Whether a caption is there and is empty."""
    return known is not None and EMPTY in known.converted
