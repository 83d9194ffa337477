"""Evaluation sets from files, for contamination search and for scoring.

    .jsonl, .ndjson, .json   records (json_records.py), lm-evaluation-harness' logs of samples among them
    .csv, .tsv               a record a row, its fields named by the first
    .parquet, .arrow         a record a row
    .txt                     one example

Each may be compressed. An example is the text of its record: `text`, or what well-known sets call
their parts (PARTS), joined: context, question, and the answer, where a number or a letter names one
of the choices that choice; else all choices. Messages are joined. An example without any text stays in
its place, empty: it is too short to tell.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.corpus import delimited
from maquette.corpus.decompress import Contents, plain, unpacked
from maquette.corpus.document import Skipped
from maquette.corpus.formats import Unreadable
from maquette.corpus.json_records import layout, records
from maquette.corpus.read import FULL
from maquette.corpus.records import NAME, NO_RECORDS, SHOWN, value
from maquette.corpus.tables import UNREAD

JSON, TABLES, ROWS = (
    (".jsonl", ".ndjson", ".json"),
    (".parquet", ".arrow", ".feather"),
    (".csv", ".tsv"),
)
ENDINGS = (*JSON, *TABLES, *ROWS, ".txt")
CONTEXTS = "context passage article story premise ctx background support sentence1 sentence document".split()
QUESTIONS = """question question_stem query problem prompt goal instruction input hypothesis
sentence2 stem""".split()  # fmt: skip
CHOICES = "choices options endings answers_choices".split()
ANSWERS = """answer answers target solution canonical_solution output completion response
answerKey gold label correct_answer""".split()  # fmt: skip
PARTS = {"context": CONTEXTS, "question": QUESTIONS, "choices": CHOICES, "answer": ANSWERS}
NUMBERED = [("sol1", "sol2"), ("option1", "option2"), ("choice1", "choice2"), ("ending0", "ending1",
             "ending2", "ending3"), ("mc_answer1", "mc_answer2"), ("A", "B", "C", "D")]  # fmt: skip
MESSAGES = ("messages", "conversations", "conversation", "turns")


def read_tasks(paths: Sequence[str | Path], field: str | None = None) -> dict[str, list[str]]:
    """Examples by file, in the order of their names. A folder: all files in it that can be read.

    field: the one that holds the text of a record; several with commas, a.b for b inside of a; None:
    the usual ones. Raises UserError for anything else, and says which fields there are.
    """
    names = None if field is None else [name.strip() for name in field.split(",")]
    return {str(path): _examples(path, names) for path in task_files(paths)}


def task_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that are named, and those in the folders that are. Raises UserError for anything else."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if _known(p) and p.is_file() and not _describes(p)
            )
            if not inside:
                raise UserError(f"{path} holds no {' or '.join(ENDINGS)} file: name another folder")
            files += inside
        elif _known(path) and path.is_file():
            files.append(path)
        else:
            raise UserError(
                f"{path} is no task: name a {' or '.join(ENDINGS)} file, or a folder of them"
            )
    return files


def _known(path: Path) -> bool:
    return plain(path.name).endswith(ENDINGS)


def _describes(path: Path) -> bool:
    """Whether a .json holds metadata or results of a data set, and no example."""
    stem, ending, _ = plain(path.name).rpartition(".json")
    return bool(ending) and (stem in NO_RECORDS or stem.startswith("results_"))


def _examples(path: Path, names: list[str] | None) -> list[str]:
    with readable(path):
        if plain(path.name).endswith(".txt"):
            text = delimited.decoded(path)
            examples = [text] if text.strip() else []
        else:
            examples = []
            for record, where in file_records(path):
                for question in questions(record):
                    examples.append(_example(question, where, names))
    if not any(text.strip() for text in examples):
        raise UserError(f"{path} holds no examples: name a file with text")
    return examples


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into a UserError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: convert it, or name another") from error
    except Unreadable as error:
        raise UserError(f"{path}: {error}: name another") from error
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UserError(f"{path} cannot be read ({error.strerror}): name another") from error


def file_records(path: Path) -> Iterator[tuple[Any, str]]:
    """Every record of a file, with its location."""
    name = plain(path.name)
    if name.endswith(TABLES):
        from maquette.corpus.tables import all_rows

        with unpacked(path) as (whole, fault):
            if fault:
                raise Unreadable(fault)
            yield from ((row, f"{path}:{n}") for n, row in enumerate(all_rows(whole), 1))
        return
    if name.endswith(ROWS):
        for row in delimited.rows(path, str(path)):
            if isinstance(row, Skipped):
                raise UserError(f"{row.source} has {row.reason}")
            yield row
        return
    with path.open("rb") as first, path.open("rb") as second, path.open("rb") as file:
        again = iter([first, second])
        lines = not name.endswith(".json")
        how = layout(lambda: Contents(next(again), path.name), None, lines=lines)
        contents = Contents(file, path.name)
        for item in records(contents, how or "lines", str(path), None):
            if isinstance(item, Skipped):
                raise UserError(f"{item.source} is {item.reason}: write an object on each line")
            yield item
    if contents.fault:
        raise Unreadable(contents.fault)


def questions(record: Any) -> Iterator[Any]:
    """A record, or the questions inside of one, as SQuAD's files have them."""
    if not isinstance(record, dict) or not isinstance(record.get("paragraphs"), list):
        yield record
        return
    for paragraph in record["paragraphs"]:
        held = paragraph if isinstance(paragraph, dict) else {}
        for question in held.get("qas") or [{}]:
            yield held | (question if isinstance(question, dict) else {})


def _example(record: Any, where: str, names: list[str] | None) -> str:
    if not isinstance(record, dict):
        raise UserError(f"{where} is no object: write one with the fields of an example")
    if names is None:
        text = _usual(record)
    else:
        parts = []
        for name in names:
            try:
                parts.append(value(record, name))
            except KeyError as error:
                raise UserError(f"{where} has no field '{name}': {_fields(record)}") from error
        text = joined(parts)
    if text is None:
        raise UserError(f"{where} has no field that is known: {_fields(record)}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _fields(record: dict[str, Any]) -> str:
    return (
        f"it has {field_list(record)}; name what holds the text with --text-field NAME,NAME "
        "(corpus build: --evaluation-field)"
    )


def field_list(record: dict[str, Any]) -> str:
    """The names of a record's fields, cut where they are many or long."""
    return ", ".join(str(name)[:NAME] for name in list(record)[:SHOWN]) or "none"


def _usual(record: dict[str, Any]) -> str | None:
    """The text of a record whose fields have usual names; None where none has."""
    if "text" in record:
        return joined(record["text"])
    for name in MESSAGES:
        if isinstance(record.get(name), list):
            return joined([content_of(message) for message in record[name]])
    if isinstance(record.get("doc"), dict):  # lm-evaluation-harness' log of a sample
        inside = _usual(record["doc"])
        return joined(record.get("arguments")) if inside is None else inside
    parts = {part: first_of(record, names) for part, names in PARTS.items()}
    if parts["context"] is None and parts["question"] is None:
        return None
    question = parts["question"]
    if isinstance(question, dict):  # ARC: {"stem": ..., "choices": ...}
        parts["choices"] = parts["choices"] or first_of(question, CHOICES)
        question = question.get("stem")
    choices, labels = choices_of(record, parts["choices"])
    answer = answer_of(parts["answer"], choices, labels)
    return joined([parts["context"], question, choices if answer is None else answer])


def first_of(record: dict[str, Any], names: Sequence[str]) -> Any:
    """The first of the fields that is there, in any case; as it is written first."""
    known = {str(n).lower(): v for n, v in record.items() if v is not None} | record
    return next((v for n in names if (v := known.get(n)) is not None), None)


def content_of(message: Any) -> Any:
    """The text of a message, or its parts that are text."""
    if not isinstance(message, dict):
        return message
    content = first_of(message, ("content", "value", "text"))
    if isinstance(content, list):  # parts, some of them pictures
        return [part.get("text") for part in content if isinstance(part, dict)]
    return content


def choices_of(record: dict[str, Any], value: Any) -> tuple[list[str], list[str]]:
    """The choices of a question, and their labels."""
    labels: Any = None
    if isinstance(value, dict):  # ARC: {"text": [...], "label": [...]}
        value, labels = value.get("text"), value.get("label")
    if value is None:
        group = next((g for g in NUMBERED if all(isinstance(record.get(n), str) for n in g)), ())
        value = [record[name] for name in group]
    if isinstance(value, list) and value and all(isinstance(c, dict) for c in value):
        labels = [c.get("label") for c in value]
        value = [c.get("text") for c in value]
    if value and "option1" in record and not isinstance(labels, list):  # WinoGrande counts from 1
        labels = [str(n + 1) for n in range(len(value))]
    texts = [str(c) for c in value] if isinstance(value, list) else []
    if not isinstance(labels, list) or len(labels) != len(texts):
        labels = [chr(ord("A") + n) for n in range(min(len(texts), 26))]
    return texts, [str(label) for label in labels]


def answer_of(value: Any, choices: list[str], labels: list[str]) -> Any:
    """The text of the answer; None where there is none."""
    if isinstance(value, dict):  # SQuAD: {"text": [...], "answer_start": [...]}
        value = value.get("text")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = [answer.get("text") for answer in value[:1]]
    elif isinstance(value, list):
        value = value[:1]
    if not choices or isinstance(value, list):
        return value
    if str(value) in labels:
        return choices[labels.index(str(value))]
    number = str(value)
    return choices[int(number)] if number.isdigit() and int(number) < len(choices) else value


def joined(parts: Any) -> str:
    """Everything that is text in some parts, joined by spaces."""
    if isinstance(parts, str):
        return parts
    if isinstance(parts, dict):
        parts = list(parts.values())
    if isinstance(parts, list | tuple):
        return " ".join(text for part in parts if (text := joined(part)))
    if isinstance(parts, bytes):
        return parts.decode("utf-8", "replace")
    return "" if parts is None or parts is UNREAD or isinstance(parts, bool) else str(parts)
