"""Context under stress: what is left of a task's score as the context fills with garbage.

    [examples][garbage ........][question] -> which choice

    random      tokens drawn at random                  documents   text of something else
    wrong       examples with wrong answers             repeated    one right example, again and again
    examples    more right examples: the control, as much context that is no garbage

The accuracy falls from that with the examples alone towards that of the question alone, the prior; so does
the distance between the distribution over the choices and that of the question alone (total variation).
The half-point is the number of garbage tokens at which half of the way is gone. And what does the model
answer where nothing fits? Off-domain, pieces of other text stand in the question's place: the modal share
is that of the answer that is given most often.

Sources: Shi et al. 2023 (irrelevant context), Min et al. 2022 (wrong labels), Zhao et al. 2021 (repetition,
the majority label).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.base.statistics import weighted_mean
from maquette.corpus.tokenizer import Tokenizer
from maquette.evaluation.encoding import PairEncoder
from maquette.evaluation.likelihood import Likelihood, Request, log_likelihoods
from maquette.evaluation.tasks.task import Question, Task
from maquette.models.base import LanguageModel
from maquette.serving.answer_text import HALF
from maquette.worlds.questions.registry import question_world

KINDS = ("random", "documents", "wrong", "repeated", "examples")
ALONE, CLEAR = "alone", "clear"  # the question without anything, and with its examples alone
PARTS = (16, 8, 4, 2, 1)  # of the room, that the garbage fills
DRAWS = 3  # of every kind of garbage, shared out over the questions
LEAST = 32  # tokens of room
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """The questions with so many tokens of garbage, in the mean over the draws."""

    tokens: float
    accuracy: float
    accuracy_stderr: float | None
    distance: float
    """total variation between the answer's distribution and that of the question alone, 0 to 1"""
    distance_stderr: float | None


@dataclass(frozen=True)
class Stress:
    """What garbage does to a task."""

    task: str
    shots: int
    questions: int
    room: int
    """tokens that garbage can fill"""
    prior: float
    """accuracy of the question alone"""
    curves: dict[str, list[Point]]
    """by kind of garbage; the first point is without any"""
    modal: dict[str, Any] | None
    """share of the commonest answer in the domain and off it; None where choices differ by question"""

    def half_point(self, kind: str) -> float | None:
        """Tokens at which the accuracy has lost half of what the examples gave; None: it has not."""
        points = self.curves[kind]
        return _half([(p.tokens, p.accuracy - self.prior) for p in points])

    def half_distance(self, kind: str) -> float | None:
        """Tokens at which the distance has fallen to half; None: it has not."""
        return _half([(p.tokens, p.distance) for p in self.curves[kind]])


def stress(
    model: LanguageModel,
    tokenizer: Tokenizer,
    task: Task,
    shots: int,
    *,
    limit: int | None = None,
    seed: int = 0,
    other: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Stress:
    """Fill the context of a task's questions. other: text of something else; "": passages of a world.

    Raises WrongUse for a task without choices, UserError where the context has no room.
    """
    if task.config.output_type != "multiple_choice":
        raise WrongUse(
            f"{task.name} has no choices: --stress is of tasks of output_type multiple_choice"
        )
    questions = task.questions(limit)
    if any(len(question.texts) > 1 for question in questions):
        raise WrongUse(f"{task.name} has a context for each choice: --stress is of tasks with one")
    filler = _Filler(model, tokenizer, task, questions, shots, seed, other or _passages())
    cells: list[tuple[tuple[str, int], int, int]] = []  # kind and part, question, tokens of garbage
    groups: list[list[Request]] = []  # the choices of each
    for number, question in enumerate(questions):
        cells += [((ALONE, 0), number, 0), ((CLEAR, 0), number, 0)]
        groups += [filler.alone(question), filler.filled(number, "examples", 0)[0]]
        for kind in KINDS:
            for part, share in enumerate(PARTS, 1):
                choices, tokens = filler.filled(number, kind, filler.room // share)
                cells.append(((kind, part), number, tokens))
                groups.append(choices)
    off = filler.off_domain()
    found = iter(
        log_likelihoods(model, [r for group in groups + off for r in group], progress=progress)
    )
    answers = [_distribution([next(found) for _ in group]) for group in groups + off]
    table: dict[tuple[str, int], list[tuple[int, Array, int]]] = {}
    for (cell, number, tokens), p in zip(cells, answers, strict=False):
        table.setdefault(cell, []).append((number, p, tokens))
    alone = [p for _, p, _ in table[ALONE, 0]]
    first = _point(table[CLEAR, 0], questions, alone)
    curves = {
        kind: _growing(
            [first, *(_point(table[kind, n], questions, alone) for n in range(1, len(PARTS) + 1))]
        )
        for kind in KINDS
    }
    modal = None
    if off:
        modal = {
            "in_domain": _modal(questions[0], [p for _, p, _ in table[CLEAR, 0]]),
            "off_domain": _modal(questions[0], answers[len(cells) :]),
        }
    prior = _point(table[ALONE, 0], questions, alone).accuracy
    return Stress(task.name, shots, len(questions), filler.room, prior, curves, modal)


class _Filler:
    """Makes the requests of a question with garbage before it."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        task: Task,
        questions: Sequence[Question],
        shots: int,
        seed: int,
        other: str,
    ) -> None:
        self._tokenizer, self._task, self._questions = tokenizer, task, questions
        self._encode = PairEncoder(tokenizer)
        self._between = task.config.target_delimiter
        self._start = len(tokenizer.special.prefix)
        self._after = tokenizer.encode(task.config.fewshot_delimiter)
        prefixes = task.prefixes(shots, len(questions))
        self._heads = [tokenizer.encode_prompt(p) if p else self._begin() for p in prefixes]
        longest = max(
            len(head) + max(len(r.context) + len(r.continuation) for r in self.alone(question))
            for head, question in zip(self._heads, questions, strict=True)
        )
        self.room = model.config.context - longest - len(self._after)
        if self.room < LEAST:
            raise UserError(
                f"{shots} examples and a question of {task.name} take {longest} of the context's "
                f"{model.config.context} tokens, which leaves no room for garbage: show fewer with --shots"
            )
        self._usable = sorted(
            set(range(min(tokenizer.vocabulary, model.config.vocabulary)))
            - set(tokenizer.special.eos_token_ids)
            - set(tokenizer.missing(model.config.vocabulary))
        )
        self._other, self._seed = tokenizer.encode(other), seed
        self._made: dict[tuple[str, int], list[list[int]]] = {}

    def alone(self, question: Question) -> list[Request]:
        """The question's choices with nothing before it."""
        return [self._encode(question.text, self._between + choice) for choice in question.choices]

    def filled(self, number: int, kind: str, tokens: int) -> tuple[list[Request], int]:
        """The choices of a question after its examples and at most so many tokens; and how many."""
        pieces = self._pieces(kind, number)
        garbage: list[int] = []
        index = 0
        while len(garbage) + len(pieces[index % len(pieces)]) <= tokens:
            garbage += pieces[index % len(pieces)]
            index += 1
        own = len(garbage)
        if garbage and kind in ("random", "documents"):
            garbage = garbage + self._after
        before = tuple(self._heads[number] + garbage)
        alone = self.alone(self._questions[number])
        return [Request(before + r.context[self._start :], r.continuation) for r in alone], own

    def _pieces(self, kind: str, number: int) -> list[list[int]]:
        """What is put one after the other before a question: tokens, or examples."""
        plain = kind in ("random", "documents")
        turn = number if self._task.has_question_examples and not plain else number % DRAWS
        if (kind, turn) not in self._made:
            self._made[kind, turn] = self._draw(kind, turn)
        return self._made[kind, turn]

    def _draw(self, kind: str, turn: int) -> list[list[int]]:
        draw = Random(f"stress {self._seed} {turn}")
        if kind == "random":
            return [[token] for token in draw.choices(self._usable, k=self.room)]
        if kind == "documents":
            at = draw.randrange(max(1, len(self._other) - self.room))
            rest = self._other[at:] + self._other[:at]
            return [[token] for token in rest]
        own = self._task.has_question_examples
        asking = [self._questions[turn]] if own else self._questions
        asked = tuple(question.text for question in asking)
        examples = [
            example
            for example in self._task.examples(turn if own else None)
            if not example.question.startswith(asked)  # what is asked is not shown with its answer
        ]
        if not examples:
            raise UserError(
                f"{self._task.name} has no examples besides the questions that are asked: ask fewer with "
                f"--limit, or give it a fewshot_split"
            )
        draw.shuffle(examples)
        if kind == "repeated":
            return [self._tokenizer.encode(examples[0].text)]
        wrong = kind == "wrong"
        texts = [one.wrong(draw, examples) if wrong else one.text for one in examples]
        return [self._tokenizer.encode(text) for text in texts]

    def off_domain(self) -> list[list[Request]]:
        """Other text in the place of the question, the same choices; none where choices differ."""
        choices = self._questions[0].choices
        if any(question.choices != choices for question in self._questions):
            return []
        made, draw = [], Random(f"off domain {self._seed}")
        for number, question in enumerate(self._questions):
            length = max(1, len(self._tokenizer.encode(question.text)))
            at = draw.randrange(max(1, len(self._other) - length))
            text = self._tokenizer.decode(self._other[at : at + length]).replace(HALF, "").strip()
            head = tuple(self._heads[number])
            requests = [self._encode(text or ".", self._between + choice) for choice in choices]
            made.append(
                [Request(head + r.context[self._start :], r.continuation) for r in requests]
            )
        return made

    def _begin(self) -> list[int]:
        return list(self._tokenizer.special.start)


def _point(
    rows: Sequence[tuple[int, Array, int]], questions: Sequence[Question], alone: Sequence[Array]
) -> Point:
    right = [float(int(np.argmax(p)) in questions[number].right) for number, p, _ in rows]
    apart = [float(np.abs(p - alone[number]).sum()) / 2 for number, p, _ in rows]
    accuracy, distance = weighted_mean(right), weighted_mean(apart)
    assert accuracy.mean is not None and distance.mean is not None
    tokens = float(np.mean([count for _, _, count in rows]))
    return Point(tokens, accuracy.mean, accuracy.stderr, distance.mean, distance.stderr)


def _growing(points: Sequence[Point]) -> list[Point]:
    """Without those that have no more tokens than the one before: no further example had room."""
    kept = list(points[:1])
    for point in points[1:]:
        if point.tokens > kept[-1].tokens:
            kept.append(point)
    return kept


def _half(points: Sequence[tuple[float, float]]) -> float | None:
    """Where a curve has first fallen to half of its first value, between points in a straight line."""
    half = points[0][1] / 2
    if half <= 0:
        return None
    for (x, y), (x2, y2) in pairwise(points):
        if y2 <= half < y:
            return x + (x2 - x) * (y - half) / (y - y2)
    return None


def _modal(question: Question, answers: Sequence[Array]) -> dict[str, Any]:
    """The choice that is taken most often, and its share."""
    place, count = Counter(int(np.argmax(p)) for p in answers).most_common(1)[0]
    return {"answer": question.choices[place], "share": count / len(answers)}


def _distribution(scores: Sequence[Likelihood]) -> Array:
    """The probabilities of the choices, which sum to 1."""
    x = np.array([one.log_likelihood for one in scores])
    p = np.exp(x - x.max())
    out: Array = p / p.sum()
    return out


def _passages() -> str:
    """Text of something else, where no corpus gives some."""
    questions = question_world("reading").questions(200, 0, "train")
    return "\n\n".join(f"{one.question} {one.answer}" for one in questions)
