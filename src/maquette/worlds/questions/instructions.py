"""Instructions to do something to words or numbers, with the argument after them, and one right answer.

    instructions           asked in words that were never trained on; each task was, in other words
    instructions_tasks     tasks that were never trained on, each like one that was
    instructions_composed  two tasks in an order in which they were never asked together

Arguments are kept apart too: what is asked of a task on one side is never asked of it on the other. Source
of the sides: FLAN (Wei et al. 2021), which holds out templates and clusters of tasks.
"""

import functools
import hashlib
from dataclasses import dataclass
from random import Random

from maquette.worlds.questions.instruction_oracle import (
    IT,
    THEN,
    Asked,
    composable,
    composed,
    imperative,
    right_answer,
    sentence,
)
from maquette.worlds.questions.instruction_tasks import CLUSTERS, NOUNS, TASKS, InstructionTask
from maquette.worlds.questions.registry import Asked as Question
from maquette.worlds.questions.registry import QuestionWorld, Side, register, side_of

NAME = "instructions"
WRITTEN = "{instruction}\nInput: {argument}\nOutput:"
HELD_OUT_PHRASINGS = 2  # of each task
FIELDS = {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 40}}


@dataclass(frozen=True)
class Instructed:
    """An instruction with an argument and its right answer."""

    instruction: str
    argument: str
    answer: str
    tasks: Asked

    @property
    def prompt(self) -> str:
        """The instruction and its argument as the worlds ask them."""
        return WRITTEN.format(instruction=self.instruction, argument=self.argument)


@functools.cache
def phrasings_of(task: InstructionTask, side: Side) -> tuple[str, ...]:
    """The phrasings of a task on a side, by their hashes."""
    ordered = sorted(task.phrasings, key=lambda text: _hash(f"{task.name} {text}"))
    held = set(ordered[:HELD_OUT_PHRASINGS])
    return tuple(text for text in task.phrasings if (text in held) == (side == "heldout"))


@functools.cache
def held_out_tasks() -> tuple[InstructionTask, ...]:
    """A task of every other cluster, by their hashes; the cluster's other tasks are trained on."""
    return tuple(
        min((t for t in TASKS.values() if t.cluster == cluster), key=lambda t: _hash(t.name))
        for cluster in CLUSTERS[::2]
    )


def instructed(
    task: InstructionTask, draw: Random, side: Side = "train", phrasings: tuple[str, ...] = ()
) -> Instructed:
    """A task asked in one of its phrasings (none: those of the side), of an argument of the side."""
    phrasing = draw.choice(phrasings or phrasings_of(task, side))
    argument = argument_of(task, draw, side)
    text = sentence(phrasing, draw.choice(NOUNS[task.takes]))
    return Instructed(text, argument, task.answer(argument), (task,))


@functools.cache
def compositions(side: Side) -> tuple[tuple[InstructionTask, InstructionTask], ...]:
    """The pairs of tasks that are asked together on a side, by their hashes."""
    return tuple(
        pair for pair in composable() if side_of(NAME, " ".join(t.name for t in pair)) == side
    )


def composition(
    first: InstructionTask, second: InstructionTask, draw: Random, side: Side = "train"
) -> Instructed:
    """Two tasks, one after the other, in phrasings of the training side, of an argument of the side."""
    parts = [
        draw.choice([text for text in phrasings_of(task, "train") if imperative(text)])
        for task in (first, second)
    ]
    noun, then, it = draw.choice(NOUNS[first.takes]), draw.choice(THEN), draw.choice(IT)
    answer = ""
    while not answer:  # nothing may be left of a short word
        argument = argument_of(first, draw, side)
        answer = right_answer((first, second), argument)
    return Instructed(
        composed(parts[0], parts[1], noun, then, it), argument, answer, (first, second)
    )


def argument_of(task: InstructionTask, draw: Random, side: Side) -> str:
    """An argument of the task on that side."""
    while True:
        argument = task.argument(draw)
        if side_of(NAME, f"{task.name} {argument}") == side:
            return argument


def _by_phrasing(draw: Random, side: Side) -> Question:
    return _asked(instructed(draw.choice(list(TASKS.values())), draw, side))


def _by_task(draw: Random, side: Side) -> Question:
    held = held_out_tasks()
    if side == "heldout":
        task = draw.choice(held)
        return _asked(instructed(task, draw, side, task.phrasings))
    return _asked(instructed(draw.choice([t for t in TASKS.values() if t not in held]), draw, side))


def _by_composition(draw: Random, side: Side) -> Question:
    if side == "train" and draw.random() < 0.5:
        return _by_phrasing(draw, side)
    return _asked(composition(*draw.choice(compositions(side)), draw, side))


def _asked(one: Instructed) -> Question:
    return Question(one.prompt, one.answer, one.prompt)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


register(QuestionWorld(NAME, "tasks on words and numbers, asked in other words than those of training",
                       _by_phrasing, FIELDS, kept_apart=False))  # fmt: skip
register(QuestionWorld("instructions_tasks", "tasks on words and numbers that training never asks for",
                       _by_task, FIELDS, kept_apart=False))  # fmt: skip
register(QuestionWorld("instructions_composed", "two tasks in a row that training never asks in that order",
                       _by_composition, FIELDS, kept_apart=False))  # fmt: skip
