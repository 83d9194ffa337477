"""Patterns and verbalisers: a classification as a text that goes on with a word (Schick and Schütze 2021).

    patterns:
      - "{prompt} All in all, it was {word}"
      - "Review of {title}: {prompt}\\nVerdict: {word}"
    words:
      positive: [great, good]
      negative: terrible

A pattern has fields of a record in braces ({prompt} is what every example has) and ends with {word}, for a
decoder reads from left to right; {{ and }} are braces. `words` is the verbaliser: a word, or several, for
every label. Spaces before {word} belong to the word, for tokens begin with them.
"""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.corpus.examples.example import Example, example_of
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.tasks import file_records, questions, readable, task_files

WORD = "word"
FIELDS = ("patterns", "words")
MOST_LABELS = 100


@dataclass(frozen=True)
class LabelledText:
    """A text to classify.

    fields: its parts by name, `prompt` among them. label: name of its class, None where that is not known.
    source: where it was read.
    """

    fields: Mapping[str, str]
    label: str | None
    source: str

    @property
    def prompt(self) -> str:
        return self.fields["prompt"]


@dataclass(frozen=True)
class Pattern:
    """A template of fields that ends with {word}. Raises WrongUse for any other."""

    text: str

    def __post_init__(self) -> None:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.text)]
        except ValueError as error:
            raise WrongUse(
                f"the pattern {self.text!r} is broken ({error}): write {{{{ for a brace"
            ) from error
        used = [name for name in names if name is not None]
        if used.count(WORD) != 1 or not self.text.endswith("{word}"):
            raise WrongUse(
                f"the pattern {self.text!r} does not end with {{word}}, once: a decoder reads from left "
                "to right, so write such as '{prompt} It was {word}'"
            )
        if len(used) == 1:
            raise WrongUse(
                f"the pattern {self.text!r} holds no field of a text: write such as {{prompt}}"
            )

    def context(self, text: LabelledText) -> str:
        """What stands before the word. Raises UserError for a missing field, and where that is nothing."""
        before = self.text.removesuffix("{word}")
        try:
            rendered = before.format_map(text.fields).rstrip(" ")
        except (KeyError, IndexError, AttributeError) as error:
            known = ", ".join(text.fields)
            raise UserError(
                f"{text.source} has no field {error} of the pattern {self.text!r}: it has {known}"
            ) from error
        if not rendered.strip():
            raise UserError(
                f"{text.source}: the pattern {self.text!r} renders nothing: mend the record"
            )
        return rendered

    def word(self, word: str) -> str:
        """A word with the spaces that stand before it."""
        before = self.text.removesuffix("{word}")
        return before[len(before.rstrip(" ")) :] + word


@dataclass(frozen=True)
class Patterns:
    """Patterns with one verbaliser.

    words: the words of every label. Raises WrongUse where there is no pattern, for fewer than two labels, for
    a label without a word, and for a word of two labels.
    """

    patterns: tuple[Pattern, ...]
    words: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.patterns:
            raise WrongUse("there is no pattern: write such as '{prompt} It was {word}'")
        if len(self.words) < 2:
            raise WrongUse(
                f"there are {len(self.words)} labels to choose from: write words of two labels at least"
            )
        owners: dict[str, str] = {}
        for label, words in self.words.items():
            if not words or not all(word.strip() for word in words):
                raise WrongUse(f"the label {label} has no word: write one under words")
            for word in words:
                if word in owners:
                    raise WrongUse(
                        f"{word} is a word of {owners[word]} and of {label}: choose another"
                    )
                owners[word] = label

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(self.words)

    def check(self, texts: Iterable[LabelledText]) -> None:
        """Raise UserError for a text whose label has no word."""
        for text in texts:
            if text.label is not None and text.label not in self.words:
                raise UserError(
                    f"{text.source} has the label {text.label!r}, which has no word"
                    f"{did_you_mean(text.label, self.words)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the file has them."""
        words = {label: list(own) for label, own in self.words.items()}
        return {"patterns": [p.text for p in self.patterns], "words": words}


def read_patterns(path: Path) -> Patterns:
    """Read a file of patterns and words. Raises WrongUse for a wrong field, naming it."""
    with readable(path):
        written = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise WrongUse(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise WrongUse(f"{path} holds no patterns: write the fields patterns and words")
    for name in content:
        if name not in FIELDS:
            raise WrongUse(f"{path}: unknown field {name}{did_you_mean(str(name), FIELDS)}")
    patterns, words = content.get("patterns"), content.get("words")
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise WrongUse(f"{path}: patterns is {patterns!r}: write a list of texts")
    if not isinstance(words, dict):
        raise WrongUse(
            f"{path}: words is {words!r}: write a word, or a list of words, for every label"
        )
    try:
        return Patterns(
            tuple(map(Pattern, patterns)),
            {str(label): _words(own) for label, own in words.items()},
        )
    except WrongUse as error:
        raise WrongUse(f"{path}: {error}") from error


def _words(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def plain_patterns(texts: Sequence[LabelledText], choices: Sequence[str]) -> Patterns:
    """One pattern, the prompt itself, and labels that are their own words.

    choices: the choices of the examples; the labels of the texts where there are none. Raises WrongUse where
    these are too many to be classes.
    """
    labels = sorted(set(choices) or {text.label for text in texts if text.label is not None})
    if len(labels) > MOST_LABELS:
        raise WrongUse(
            f"there are {len(labels):,} different answers: pet is of classes, write theirs with --patterns"
        )
    return Patterns((Pattern("{prompt} {word}"),), {label: (label,) for label in labels})


def labelled_texts(
    source: str, fields: Mapping[str, str] | None = None
) -> tuple[list[LabelledText], list[LabelledText], tuple[str, ...]]:
    """Texts with their labels of a corpus of examples, or of files: to learn from, held out, and all choices.

    fields: fields of the records of files, by the part of an example. Of a corpus its own split; nothing of
    files is held out. Texts that come again are left out. Raises UserError for a record that is no example.
    """
    path = Path(source).expanduser()
    choices: dict[str, None] = {}
    sides: list[dict[str, LabelledText]] = [{}, {}]
    if (path / "manifest.json").exists():
        corpus = ExamplesCorpus(path)
        for side, split in zip(sides, ("train", "heldout"), strict=True):
            for number, example in enumerate(corpus.examples(split), 1):
                text = LabelledText(
                    {"prompt": example.prompt}, example.answer.strip(), f"{path} {split}:{number}"
                )
                side.setdefault(text.prompt, text)
                choices |= dict.fromkeys(c.strip() for c in example.choices)
    else:
        for record, where in _records(path):
            example = example_of(record, where, fields)
            text = _text(record, where, example)
            sides[0].setdefault(text.prompt, text)
            choices |= dict.fromkeys(c.strip() for c in example.choices)
    return list(sides[0].values()), list(sides[1].values()), tuple(choices)


def unlabelled_texts(source: str, fields: Mapping[str, str] | None = None) -> list[LabelledText]:
    """Texts without labels: of records (their answers are not looked at), or the lines of a .txt file."""
    path = Path(source).expanduser()
    found: dict[str, LabelledText] = {}
    if path.suffix == ".txt" and path.is_file():
        with readable(path):
            lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.setdefault(line, LabelledText({"prompt": line}, None, f"{path}:{number}"))
    else:
        own = {part: name for part, name in (fields or {}).items() if part == "prompt"}
        for record, where in _records(path):
            if not isinstance(record, dict):
                raise UserError(f"{where} is no object: write one with a prompt")
            if not own and isinstance(record.get("text"), str):
                record = record | {"prompt": record["text"]}
            example = example_of(record | {"answer": "-"}, where, own)
            text = _text(record, where, example)
            found.setdefault(text.prompt, LabelledText(text.fields, None, where))
    if not found:
        raise UserError(f"{source} holds no text: name a file with texts")
    return list(found.values())


def _records(path: Path) -> Iterable[tuple[Any, str]]:
    for file in task_files([path]):
        with readable(file):
            for record, where in file_records(file):
                for question in questions(record):
                    yield question, where


def _text(record: Mapping[str, Any], where: str, example: Example) -> LabelledText:
    own = {
        str(name): str(value)
        for name, value in record.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    return LabelledText(own | {"prompt": example.prompt}, example.answer.strip(), where)
