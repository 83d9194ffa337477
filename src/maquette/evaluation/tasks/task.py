"""A task with its questions: what a model reads, what is right, and which examples are shown before.

The text of a prompt is lm-evaluation-harness' to the letter, so is the choice of the examples (its
generator, seed 1234), so that scores compare. One thing is mended: where the examples come from the
questions themselves, the question that is asked is never among them. Templates are Jinja2's, run in its
sandbox; everything is rendered, and checked, before anything is scored.
"""

import ast
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NoReturn

from maquette.base.errors import UserError
from maquette.evaluation.tasks.config import TaskConfig

SEED = 1234  # of the examples that are shown, as the harness has it
NEUTRAL = ("N/A", "[MASK]", "")  # what says nothing (Zhao et al. 2021, section 5)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """One record as it is asked.

    text: what stands before the answer, of several contexts each. choices: the answers, of which `right`
    are right, by their place. targets: answers that are right, where there are no choices.
    """

    texts: tuple[str, ...]
    choices: tuple[str, ...]
    right: tuple[int, ...]
    targets: tuple[str, ...]
    neutral: tuple[str, ...] = ()
    """the text with what is asked left out, in several ways"""

    @property
    def text(self) -> str:
        return self.texts[0]

    @property
    def answer(self) -> str:
        """The first right answer."""
        return self.choices[self.right[0]] if self.choices else self.targets[0]


@dataclass(frozen=True)
class Shown:
    """An example as it is shown: the question, the answer, and what stands after it."""

    question: str
    answer: str
    after: str
    choices: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.question + self.answer + self.after

    def wrong(self, draw: Random, examples: Sequence["Shown"]) -> str:
        """The example with an answer that is wrong: another choice, or what answers another example."""
        others = [choice for choice in self.choices if choice != self.answer]
        others = others or sorted({one.answer for one in examples} - {self.answer})
        return self.question + (draw.choice(others) if others else self.answer) + self.after


class Task:
    """A task: its config, the records that are asked and those that may be shown, each with its place.

    same_pool: whether the shown ones are the asked ones. question_examples: those that belong to each
    question, in place of `shown`.
    """

    def __init__(
        self,
        config: TaskConfig,
        asked: Sequence[tuple[Record, str]],
        shown: Sequence[tuple[Record, str]],
        *,
        same_pool: bool = False,
        question_examples: Sequence[Sequence[tuple[Record, str]]] | None = None,
    ) -> None:
        self.config, self.name = config, config.task
        self._asked, self._shown, self._same_pool = list(asked), list(shown), same_pool
        self._question_examples = question_examples
        few = config.fewshot_config
        changed = {
            name: value
            for name in ("doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter",
                         "fewshot_delimiter", "gen_prefix")
            if (value := getattr(few, name)) is not None
        }  # fmt: skip
        self._showing = replace(config, **changed) if changed else config

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def available(self) -> int:
        """How many examples can be shown before a question."""
        if self._question_examples is not None:
            return min(map(len, self._question_examples))
        return len(self._shown) - self._same_pool

    def questions(self, limit: int | None = None) -> list[Question]:
        """Every question, or the first `limit`. Raises UserError for one that cannot be asked."""
        wanted = any(metric.name == "acc_calibrated" for metric in self.config.metric_list)
        asked = self._asked[:limit]
        if not asked:
            self.config.fault("dataset_kwargs", "gives no record: name a file with questions")
        return [_Reader(self.config, record, where).question(wanted) for record, where in asked]

    def prefixes(self, shots: int, limit: int | None = None, seed: int = SEED) -> list[str]:
        """What stands before every question: the description and `shots` examples."""
        if shots > self.available:
            raise UserError(
                f"{self.name} has {self.available} examples to show, {shots} are asked for: ask for fewer "
                "with --shots, or give it more (fewshot_split)"
            )
        draw = Random(seed)
        shown = [record for record, _ in self._shown]
        written: dict[int, str] = {}
        prefixes = []
        for number, (record, where) in enumerate(self._asked[:limit]):
            description = _Reader(self.config, record, where).description()
            if self._question_examples is not None:
                examples = self._question_examples[number][:shots]
                prefixes.append(description + "".join(self._example(*one).text for one in examples))
                continue
            chosen = self._chosen(draw, shown, record if self._same_pool else None, shots)
            for index in chosen:
                if index not in written:
                    written[index] = self._example(*self._shown[index]).text
            prefixes.append(description + "".join(written[index] for index in chosen))
        return prefixes

    def _chosen(
        self, draw: Random, shown: list[Record], asked: Record | None, shots: int
    ) -> list[int]:
        """The places of the examples for one question."""
        if not shots:
            return []
        first = self.config.fewshot_config.sampler == "first_n"
        indices = range(len(shown))
        if asked is None:
            return list(indices[:shots]) if first else draw.sample(indices, shots)
        others = [i for i in indices if shown[i] != asked]
        if first:
            chosen = others[:shots]
        else:
            drawn = [i for i in draw.sample(indices, shots + 1) if shown[i] != asked][:shots]
            chosen = drawn if len(drawn) == shots else draw.sample(others, min(shots, len(others)))
        if len(chosen) < shots:
            raise UserError(
                f"{self.name} has fewer than {shots} examples that are not the question"
            )
        return chosen

    @property
    def has_question_examples(self) -> bool:
        """Whether every question has examples of its own."""
        return self._question_examples is not None

    def examples(self, number: int | None = None) -> list[Shown]:
        """All examples that can be shown, of a question where each has its own."""
        pool = (
            self._shown
            if self._question_examples is None or number is None
            else self._question_examples[number]
        )
        return [self._example(*one) for one in pool]

    def _example(self, record: Record, where: str) -> Shown:
        """An example as it is shown."""
        config = self._showing
        reader = _Reader(config, record, where)
        question = reader.question(False, shown=True)
        text, answer = question.text, question.answer
        prefix = reader.prefix()
        if len(question.texts) > 1:  # several contexts: the right one
            text, answer = question.texts[question.right[0]], question.targets[0]
        between = config.target_delimiter
        if prefix and not _needs_space(text, prefix):
            between = ""
        begun = prefix + " " * _needs_space(prefix, answer) if prefix else ""
        return Shown(text + between + begun, answer, config.fewshot_delimiter, question.choices)


class _Reader:
    """Reads one record by the templates of a task."""

    def __init__(self, config: TaskConfig, record: Record, where: str) -> None:
        self._config, self._record, self._where = config, record, where

    def question(self, calibrated: bool, *, shown: bool = False) -> Question:
        """The record as it is asked; calibrated: with what says nothing in its place too."""
        config = self._config
        choices = () if config.doc_to_choice is None else self._choices()
        text = self._value("doc_to_text")
        if type(text) is int and choices:  # several contexts, one continuation
            if not 0 <= text < len(choices):
                self._fault("doc_to_text", f"is {text}, and there are {len(choices)} contexts")
            target = self._filled("doc_to_target", self._value("doc_to_target"))
            texts = choices if shown else tuple(self._ended(c, bare=True) for c in choices)
            return Question(texts, choices, (text,), (target,))
        text = str(text)
        if not text.strip() and config.doc_to_text != "":
            self._fault("doc_to_text", "renders nothing")
        texts = (text if shown else self._ended(text),)
        if config.output_type == "loglikelihood_rolling":
            target = str(self._value("doc_to_target"))
            return Question(texts, (), (), (target,))
        target = self._value("doc_to_target")
        if not choices:
            targets = target if isinstance(target, list) else [target]
            if not targets:
                self._fault("doc_to_target", "is an empty list")
            return Question(texts, (), (), tuple(self._filled("doc_to_target", t) for t in targets))
        right = tuple(
            self._choice_index(t, choices)
            for t in (target if isinstance(target, list) else [target])
        )
        if not right:
            self._fault("doc_to_target", "is an empty list")
        neutral = tuple(self._neutral(said) for said in NEUTRAL) if calibrated else ()
        return Question(texts, choices, right, (), neutral)

    def description(self) -> str:
        """What stands before everything."""
        return str(self._value("description")) if self._config.description else ""

    def prefix(self) -> str:
        """What an answer begins with."""
        return str(self._value("gen_prefix")) if self._config.gen_prefix else ""

    def _ended(self, text: str, *, bare: bool = False) -> str:
        """A text with what its answer begins with."""
        if not (prefix := self.prefix()):
            return text
        between = "" if bare or not _needs_space(text, prefix) else self._config.target_delimiter
        return text + between + prefix

    def _neutral(self, said: str) -> str:
        record = {name: _without(value, said) for name, value in self._record.items()}
        reader = _Reader(self._config, record, self._where)
        return reader._ended(str(reader._value("doc_to_text")))

    def _choice_index(self, target: Any, choices: tuple[str, ...]) -> int:
        if type(target) is bool:
            target = int(target)
        if type(target) is int and 0 <= target < len(choices):
            return target
        if str(target) in choices:
            return choices.index(str(target))
        self._fault(
            "doc_to_target",
            f"is {target!r}: it must be one of the choices ({', '.join(choices)[:80]}) or a number from 0 to "
            f"{len(choices) - 1}",
        )

    def _choices(self) -> tuple[str, ...]:
        given = self._config.doc_to_choice
        if isinstance(given, dict):
            given = list(given.values())
        elif not isinstance(given, list):
            given = self._value("doc_to_choice")
        if isinstance(given, str):
            try:
                given = ast.literal_eval(given)
            except (SyntaxError, ValueError):
                given = None
        if not isinstance(given, list | tuple):
            self._fault("doc_to_choice", "gives no list: name a column with one, or a template such as "
                        "{{[a, b]}}")  # fmt: skip
        if not given:
            self._fault("doc_to_choice", "gives an empty list")
        choices = tuple(map(str, given))
        if "" in choices:
            self._fault("doc_to_choice", "gives an empty choice")
        return choices

    def _filled(self, name: str, value: Any) -> str:
        text = str(value)
        if not text.strip():
            self._fault(name, "renders nothing")
        return text

    def _value(self, name: str) -> Any:
        """A column, or what a template renders: digits as a number where there are choices."""
        given = getattr(self._config, name)
        if not isinstance(given, str):
            return given
        if given in self._record:
            return self._record[given]
        rendered = self._rendered(name, given)
        counted = (
            name in ("doc_to_text", "doc_to_target") and self._config.doc_to_choice is not None
        )
        if counted and rendered.isdigit():
            return int(rendered)
        if name == "doc_to_target" and rendered[:1] == "[" and rendered[-1:] == "]":
            try:
                return ast.literal_eval(rendered)
            except (SyntaxError, ValueError):
                pass
        return rendered

    def _rendered(self, name: str, template: str) -> str:
        import jinja2

        try:
            return str(_compiled(template).render(**self._record))
        except jinja2.TemplateSyntaxError as error:
            self._config.fault(
                name, f"is no template ({error.message}, its line {error.lineno}): mend it"
            )
        except jinja2.UndefinedError as error:
            columns = ", ".join(list(map(str, self._record))[:12])
            self._fault(
                name, f"asks for what is not there ({error.message}): the columns are {columns}"
            )
        except Exception as error:  # whatever a template computes, and what the sandbox forbids
            self._fault(name, f"cannot be rendered ({error})")

    def _fault(self, name: str, what: str) -> NoReturn:
        place = f" (record {self._where})" if self._where else ""
        self._config.fault(name, f"{what}{place}: mend the template or the data")


@functools.cache
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@functools.cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["regex_replace"] = lambda text, pattern, new, count=0: re.sub(
        pattern, new, text, count=count
    )
    return environment


def _needs_space(before: str, after: str) -> bool:
    """Whether a delimiter goes between two texts: neither has a space at the border."""
    return bool(before and after) and not (before[-1].isspace() or after[0].isspace())


def _without(value: Any, said: str) -> Any:
    """A column that says nothing, of the shape that it had."""
    if isinstance(value, dict):
        return {name: _without(inner, said) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without(inner, said) for inner in value]
    return said if isinstance(value, str | int | float) and not isinstance(value, bool) else value
