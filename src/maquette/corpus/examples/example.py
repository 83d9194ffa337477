"""Examples: a prompt and its target answer, and how examples are read from records.

One shape for all that tunes a model or asks one: supervised tuning and self-instruct (prompt, answer),
conversations (history), preferences (rejected: DPO, Rafailov et al. 2023), cloze patterns and few-shot
tasks (choices, answer_index: PET, lm-evaluation-harness), rationales that are kept where the answer is
right (STaR).

Records come from the files that evaluation sets come from (tasks.py), and from .yaml: a list of
objects. What well-known sets call their parts is known; `fields` names the parts of others.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.corpus.records import value
from maquette.corpus.tasks import (
    ANSWERS,
    CHOICES,
    CONTEXTS,
    MESSAGES,
    QUESTIONS,
    answer_of,
    choices_of,
    content_of,
    field_list,
    file_records,
    first_of,
    joined,
    questions,
    readable,
    task_files,
)
from maquette.worlds.questions.registry import question_world, question_worlds

COUNT = 10_000  # examples that a world makes, where nothing else is said
SHOWN = 16  # examples before a question that has its own
YAML = (".yaml", ".yml")
PARTS = ("prompt", "answer", "rejected", "choices", "messages", "source", "licence")
"""parts of an example that `fields` can name"""
ASSISTANT = frozenset("assistant gpt model bot chatbot".split())
"""roles whose messages are answers"""
SOURCES = ("source", "url", "id")
LICENCES = ("licence", "license")


@dataclass(frozen=True)
class Example:
    """A prompt and its answer, with further fields.

    rejected: an answer that is worse. choices: answers to choose from; answer_index: index of
    the right choice. history: earlier exchanges of the conversation, each a prompt and
    its answer. source: where the example was read. heldout: whether it is kept for evaluation; None: its
    prompt's hash says so. licence: an SPDX identifier, or the words found.
    """

    prompt: str
    answer: str
    rejected: str | None = None
    choices: tuple[str, ...] = ()
    answer_index: int | None = None
    history: tuple[tuple[str, str], ...] = ()
    source: str = ""
    heldout: bool | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        if self.answer_index is not None and not 0 <= self.answer_index < len(self.choices):
            raise ValueError(f"answer_index {self.answer_index} of {len(self.choices)} choices")

    @property
    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """The whole conversation: every prompt with its answer."""
        return (*self.history, (self.prompt, self.answer))

    def digest(self) -> bytes:
        """SHA-256 of all but the source: the example's identity for deduplication."""
        return _digest([self.exchanges, self.rejected, self.choices])

    def prompt_digest(self) -> bytes:
        """SHA-256 of the prompt with its history: examples of one prompt are held out together."""
        return _digest([self.history, self.prompt])


def read_examples(
    paths: Sequence[str | Path], fields: Mapping[str, str] | None = None, count: int = COUNT
) -> Iterator[Example]:
    """Examples of files and folders, in the order of their names, and of worlds of questions by name.

    fields: the field of a record that holds a part (`PARTS`): a.b for b inside of a; several with commas
    are joined by line ends. count: of the examples that each world makes. Raises WrongUse for an
    unknown part, UserError for a record that is no example, with its place.
    """
    fields = dict(fields or {})
    for part in fields:
        if part not in PARTS:
            raise WrongUse(f"unknown part {part} of an example{did_you_mean(part, PARTS)}")
    for path_given in map(Path, paths):
        if not path_given.exists() and str(path_given) in question_worlds():
            yield from world_examples(str(path_given), count)
            continue
        named = path_given.suffix in YAML and path_given.is_file()
        for path in [path_given] if named else task_files([path_given]):
            if path.name.endswith(".txt"):
                raise UserError(f"{path} holds no records: write objects with prompt and answer")
            with readable(path):
                for record, where in _yaml_records(path) if named else file_records(path):
                    for question in questions(record):
                        yield example_of(question, where, fields)


def world_examples(name: str, count: int, seed: int = 0) -> Iterator[Example]:
    """The first `count` examples of the training side of a world of questions: what its task never asks.

    Where a question has examples of its own, the first of them stand before it, as its task shows them.
    """
    world = question_world(name)
    after = world.fields.get("fewshot_delimiter", "\n\n")
    for one in world.stream(count, seed, "train"):
        index = one.choices.index(one.answer) if one.choices else None
        before = "".join(f"{question} {answer}{after}" for question, answer in one.shown[:SHOWN])
        yield Example(before + one.question, one.answer, None, one.choices, index, source=name)


def example_of(record: Any, where: str, fields: Mapping[str, str] | None = None) -> Example:
    """The example of a record; see `read_examples`. where: location of the record, for messages."""
    fields = fields or {}
    if not isinstance(record, dict):
        raise UserError(f"{where} is no object: write one with a prompt and an answer")
    source = _part(record, "source", fields, where, SOURCES)
    source = where if source is None or source == "" else _text(source)
    licence = _text(_part(record, "licence", fields, where, LICENCES))
    conversation = _part(record, "messages", fields, where, MESSAGES)
    rejected = _part(record, "rejected", fields, where, ("rejected",))
    answer = _part(record, "answer", fields, where, ("chosen", *ANSWERS))
    if _is_conversation(answer):  # a preference between conversations
        conversation, answer = answer, None
    if _is_conversation(conversation) and "prompt" not in fields:
        *history, (prompt, answer) = _exchanges(conversation, where)
        return Example(
            prompt, answer, _last(rejected, where), history=tuple(history), source=source,
            licence=licence,
        )  # fmt: skip
    options, labels = choices_of(record, _part(record, "choices", fields, where, CHOICES))
    question = _part(record, "prompt", fields, where, ())
    if question is None:
        question = _question(record)
        if isinstance(question[-1], dict):  # ARC: {"stem": ..., "choices": ...}
            inner = question.pop()
            if not options:
                options, labels = choices_of(record, first_of(inner, CHOICES))
            question.append(inner.get("stem"))
    prompt = "\n".join(text for part in question if (text := _text(part)))
    text = _text(answer_of(answer, options, labels))
    if not text:
        known = "an answer that is empty" if answer is not None else "no answer"
        raise UserError(f"{where} has {known}: {_mend(record)}")
    if not prompt:
        raise UserError(f"{where} has no prompt: {_mend(record)}")
    choices = tuple(map(_text, options))
    index = choices.index(text) if text in choices else None
    return Example(
        prompt, text, _last(rejected, where), choices, index, source=source, licence=licence
    )


def _part(
    record: dict[str, Any],
    part: str,
    fields: Mapping[str, str],
    where: str,
    usual: Sequence[str],
) -> Any:
    """The value of the named field, or of the first usual field that is there."""
    if part not in fields:
        return first_of(record, usual)
    names = [name.strip() for name in fields[part].split(",")]
    try:
        values = [value(record, name) for name in names]
    except KeyError as error:
        raise UserError(
            f"{where} has no field '{error.args[0]}' ({part}): it has {field_list(record)}"
        ) from error
    if part == "prompt":
        return values
    return values[0] if len(values) == 1 else "\n".join(map(_text, values))


def _question(record: dict[str, Any]) -> list[Any]:
    """The parts of a prompt whose fields have usual names."""
    if isinstance(record.get("instruction"), str):  # Alpaca: of its input
        return [record["instruction"], record.get("input")]
    return [first_of(record, CONTEXTS), first_of(record, QUESTIONS)]


def _is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and not {"role", "from"}.isdisjoint(first)


def _exchanges(messages: list[Any], where: str) -> list[tuple[str, str]]:
    """Prompts and answers of a conversation; a system message stands before the first prompt."""
    exchanges: list[tuple[str, str]] = []
    texts: list[str] = []
    for message in messages:
        role = first_of(message, ("role", "from")) if isinstance(message, dict) else None
        if not isinstance(role, str):
            raise UserError(f"{where} has a message without a role: write role and content")
        content = _text(content_of(message))
        if role.lower() not in ASSISTANT:
            texts.append(content)
        elif not content:
            raise UserError(f"{where} has an empty message of the {role}: leave it out")
        else:
            exchanges.append(("\n\n".join(filter(None, texts)), content))
            texts = []
    if texts or not exchanges:
        raise UserError(f"{where} does not end with a message of the assistant: leave it out")
    return exchanges


def _last(rejected: Any, where: str) -> str | None:
    """The rejected answer: text, or the last message of a conversation."""
    if _is_conversation(rejected):
        return _exchanges(rejected, where)[-1][1]
    return None if rejected is None else _text(rejected)


def _text(value: Any) -> str:
    """A value as encodable text, "" where it is white space alone."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON has it
    text = joined(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text if text.strip() else ""


def _mend(record: dict[str, Any]) -> str:
    return (
        f"it has {field_list(record)}; name the fields with --fields prompt=NAME,answer=NAME, "
        "or leave it out"
    )


def _yaml_records(path: Path) -> Iterator[tuple[Any, str]]:
    """The objects of a list in YAML."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list):
        raise UserError(f"{path} holds no list: write one of objects, each with prompt and answer")
    yield from ((record, f"{path}:{number}") for number, record in enumerate(content, 1))


def _digest(parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()
