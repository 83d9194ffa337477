"""Evaluation sets from files: what a corpus is searched for, and what a model is scored on."""

import json
from collections.abc import Sequence
from pathlib import Path

from maquette.base.errors import UserError

ENDINGS = (".jsonl", ".txt")


def read_tasks(paths: Sequence[str | Path]) -> dict[str, list[str]]:
    """Examples by file, in the order of their names.

    .jsonl: a record a line, with `text`, or `question` and `answer` (joined by a space). .txt: the
    whole file is one example. A folder: all such files in it. Raises UserError for anything else.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file())
            if not inside:
                raise UserError(f"{path} holds no {' or '.join(ENDINGS)} file: name another folder")
            files += inside
        elif path.suffix in ENDINGS and path.is_file():
            files.append(path)
        else:
            raise UserError(
                f"{path} is no task: name a {' or '.join(ENDINGS)} file, or a folder of them"
            )
    return {str(path): _examples(path) for path in files}


def _examples(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: convert it, or name another") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name another") from error
    if path.suffix == ".txt":
        examples = [text] if text.strip() else []
    else:
        lines = enumerate(text.split("\n"), 1)
        examples = [_example(f"{path}:{number}", line) for number, line in lines if line.strip()]
    if not examples:
        raise UserError(f"{path} holds no examples: name a file with text")
    return examples


def _example(where: str, line: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}): write an object on each line") from error
    if isinstance(record, dict):
        for names in (("text",), ("question", "answer")):
            parts = [record.get(name) for name in names]
            if all(isinstance(part, str) for part in parts):
                text = " ".join(map(str, parts))
                if not text.strip():
                    raise UserError(f"{where} is empty: write a text, or remove the line")
                return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    raise UserError(f'{where} has neither "text" nor "question" and "answer": name the fields so')
