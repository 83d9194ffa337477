"""The oracle of instructions: which tasks a text asks for, and whether an answer is right.

    read("Spell this word backwards.")                              (reverse_letters,)
    read("Give the first of these words, then spell it backwards.")  (first_word, reverse_letters)
    read("Do what you like.")                                       None

Read is every phrasing of every task with every noun, whether or not it is on the training side, in small
letters or large ones, and every two of them where the second takes what the first gives. What is asked in
other words is not known, so that what a model writes is judged too strictly rather than too well.
"""

import functools
import re
from collections.abc import Iterator

from maquette.worlds.questions.instruction_tasks import (
    NOUNS,
    QUESTIONS,
    TASKS,
    InstructionTask,
)

THEN = (", then ", ", and then ", " and after that ")
IT = ("the result", "it", "what you have")
Asked = tuple[InstructionTask, ...]


def sentence(phrasing: str, noun: str) -> str:
    """A phrasing as an instruction: with its noun, a capital and a mark at its end."""
    text = phrasing.replace("{x}", noun)
    return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")


def composed(first: str, second: str, noun: str, then: str = THEN[0], it: str = IT[0]) -> str:
    """Two phrasings as one instruction."""
    return sentence(first + then + second.replace("{x}", it), noun)


def imperative(phrasing: str) -> bool:
    """Whether a phrasing can be a part of a composition."""
    return phrasing.split(maxsplit=1)[0] not in QUESTIONS


def composable() -> Iterator[tuple[InstructionTask, InstructionTask]]:
    """Every two tasks of two clusters of which the second takes what the first gives."""
    for first in TASKS.values():
        for second in TASKS.values():
            if second.takes == first.gives and second.cluster != first.cluster:
                yield first, second


def right_answer(tasks: Asked, argument: str) -> str:
    """The answer to an argument, of one task after the other."""
    for task in tasks:
        argument = task.answer(argument)
    return argument


def read(text: str) -> Asked | None:
    """The tasks that an instruction asks for, one or two; None where it asks for none that is known."""
    plain = " ".join(text.lower().split()).rstrip(".?! ")
    single = _phrasings().get(plain)
    if single is not None:
        return (single,)
    for then in sorted(THEN, key=len, reverse=True):
        before, found, after = plain.partition(then)
        first = _phrasings().get(before)
        if found and first is not None and (second := _seconds().get((first.gives, after))):
            return (first, second)
    return None


def right(instruction: str, argument: str, answer: str) -> bool:
    """Whether an instruction asks for a task, of an argument that it takes, and the answer is right."""
    tasks = read(instruction)
    return (
        tasks is not None
        and tasks[0].accepts(argument)
        and right_answer(tasks, argument) == answer.strip()
    )


@functools.cache
def _phrasings() -> dict[str, InstructionTask]:
    """The task of every phrasing with every noun."""
    return {
        phrasing.replace("{x}", noun).rstrip("?"): task
        for task in TASKS.values()
        for phrasing in task.phrasings
        for noun in NOUNS[task.takes]
    }


@functools.cache
def _seconds() -> dict[tuple[str, str], InstructionTask]:
    """The task of every second part of a composition, by the kind that it takes and its text."""
    return {
        (task.takes, re.sub(r"\{x\}", it, phrasing)): task
        for task in TASKS.values()
        for phrasing in filter(imperative, task.phrasings)
        for it in IT
    }
