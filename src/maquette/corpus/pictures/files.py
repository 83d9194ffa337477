"""Sources of pictures with captions: folders, WebDataset shards, parquet tables.

    folder    its picture files, in all folders below (picture_folder.py); the caption from a file beside
              the picture, a table, or the folder's name. Shards and tables of pictures in it are read
    shard     .tar (.tar.gz, .tar.zst, .tgz): a WebDataset (picture_shards.py)
    parquet   a row a picture (picture_parquet.py). hf://DATASET gives the parquet files of a data set

What cannot be read is yielded as `Skipped` and nothing else is lost. Reading streams in a fixed order:
memory grows with the files of one folder and with the tables of captions that count for it. A picture is a
place in a file where that will do, so that the worker that decodes it reads it too. Left out: zip archives.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from maquette.base.errors import UserError, WrongUse
from maquette.corpus.document import Skipped
from maquette.corpus.pictures.captions import COLUMNS
from maquette.corpus.pictures.folder import PARQUET, Folder, archive
from maquette.corpus.pictures.item import Picture
from maquette.corpus.pictures.shards import is_shard
from maquette.corpus.read import File, files


def pictures(
    sources: Sequence[str | Path], columns: Mapping[str, str] | None = None
) -> Iterator[Picture | Skipped]:
    """Every picture of some folders, shards and tables.

    columns: names of the columns of tables, and of the fields of records, for image, caption and label.
    Raises UserError for a source that is not there, at once.
    """
    unknown = sorted(set(columns or {}) - set(COLUMNS))
    if unknown:
        raise WrongUse(f"there is no column for {unknown[0]}: name image, caption or label")
    tops: list[File] = []
    for name in map(str, sources):
        if name.startswith("hf://"):
            tops += files([name]).tops
        else:
            tops.append(_top(name))
    return _all(tops, dict(columns or {}))


def _top(name: str) -> File:
    path = Path(name).expanduser()
    mend = "name a folder of pictures, a .tar shard or a .parquet table"
    if not path.exists():
        raise UserError(f"{path} does not exist: {mend}")
    if path.is_file() and not is_shard(path.name) and path.suffix.lower() != PARQUET:
        raise WrongUse(f"{path} is one file: {mend}")
    (top,) = files([path]).tops
    return top


def _all(tops: Iterable[File], columns: Mapping[str, str]) -> Iterator[Picture | Skipped]:
    for top in tops:
        if os.path.isdir(top.path):
            yield from Folder(top, columns)
        else:
            yield from archive(top, columns)
