"""The records of a task: local files by split, as `dataset_path` and `dataset_kwargs` name them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maquette.corpus.delimited import decoded
from maquette.corpus.tasks import file_records, readable
from maquette.evaluation.tasks.config import TaskConfig

KINDS = ("json", "csv", "parquet", "text")

Record = Mapping[str, Any]


def read_splits(config: TaskConfig) -> dict[str, list[tuple[Record, str]]]:
    """The records of every split, each with its place. Raises UserError for data that is not there."""
    if config.dataset_path not in KINDS:
        config.fault(
            "dataset_path",
            f"is {config.dataset_path}, which is no local data: save it as a file, and write json, csv, "
            "parquet or text with dataset_kwargs: {data_files: {test: FILE}}",
        )
    files = config.dataset_kwargs.get("data_files")
    if isinstance(files, str | list):
        files = {"train": files}  # as the library datasets names the split of a single file
    if not isinstance(files, dict) or not files:
        config.fault("dataset_kwargs", "names no data_files: write {data_files: {test: FILE}}")
    splits: dict[str, list[tuple[Record, str]]] = {}
    for split, named in files.items():
        splits[split] = []
        for name in named if isinstance(named, list) else [named]:
            splits[split] += _records(config, _found(config, str(name)))
    return splits


def _found(config: TaskConfig, name: str) -> Path:
    """A file beside the task's file, or in the working folder."""
    given = Path(name).expanduser()
    beside = Path(config.place).parent / given
    for path in (beside, given):
        if path.is_file():
            return path
    config.fault(
        "dataset_kwargs", f"names {name}, which is not there: name a file beside the task's"
    )


def _records(config: TaskConfig, path: Path) -> list[tuple[Record, str]]:
    with readable(path):
        if config.dataset_path == "text":
            lines = decoded(path).splitlines()
            return [({"text": line}, f"{path}:{n}") for n, line in enumerate(lines, 1)]
        found: list[tuple[Record, str]] = []
        for record, where in file_records(path):
            if not isinstance(record, dict):
                config.fault(
                    "dataset_kwargs", f"names data that is no object at {where}: write columns"
                )
            found.append((record, where))
    return _typed(found) if config.dataset_path == "csv" else found


def _typed(rows: list[tuple[Record, str]]) -> list[tuple[Record, str]]:
    """A table's columns as numbers, where every cell of a column is one."""
    columns = dict.fromkeys(name for row, _ in rows for name in row)
    ways: dict[str, Any] = {}
    for name in columns:
        for way in (int, float):
            try:
                for row, _ in rows:
                    way(row[name])
            except (ValueError, KeyError, TypeError):
                continue
            ways[name] = way
            break
    return [
        ({n: ways[n](v) if n in ways else v for n, v in row.items()}, where) for row, where in rows
    ]
