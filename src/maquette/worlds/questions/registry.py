"""Worlds of questions by name, and how their sides are kept apart.

A question is held out by the hash of its key (the operands of a sum, the word that was scrambled, the map
that is to be found), so that a question is on one side whatever the seed, and what was trained on is
never asked. The same (seed, side, count) gives the same questions on every machine.
"""

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from maquette.base.errors import WrongUse, did_you_mean

MODULES = (
    "arithmetic", "scratchpad", "letters", "in_context", "facts", "phrases", "instructions", "styles",
)  # fmt: skip
"""that register the worlds"""
Side = Literal["train", "heldout"]
HELD_OUT = 0.2  # share of the keys
TRIES = 500  # of a draw that finds nothing new, after which the world holds no more


@dataclass(frozen=True)
class Asked:
    """One question with its right answer.

    key: what is held out or not. choices: the answers to choose from, where there are some. shown: examples
    that belong to this question alone, as (question, answer).
    """

    question: str
    answer: str
    key: str
    choices: tuple[str, ...] = ()
    shown: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        assert not self.choices or self.answer in self.choices, "the answer is a choice"


@dataclass(frozen=True)
class QuestionWorld:
    """A world of questions. make: draws one for a side; fields: of the task that asks it, beyond the usual.

    kept_apart: whether a key is of one side; False where a world says itself what is asked on which side.
    """

    name: str
    about: str
    make: Callable[[Random, Side], Asked]
    fields: Mapping[str, Any] = field(default_factory=dict)
    kept_apart: bool = True
    group: str = ""
    """worlds of one group hold out the same keys; "": the world alone"""

    def questions(self, count: int, seed: int = 0, side: Side = "heldout") -> list[Asked]:
        """The first `count` questions of a side, none twice; fewer where there are no more."""
        return list(self.stream(count, seed, side))

    def stream(self, count: int, seed: int = 0, side: Side = "train") -> Iterator[Asked]:
        """`questions`, one by one."""
        draw = Random(f"{self.name} {side} {seed}")
        seen: set[tuple[str, str]] = set()
        missed = 0
        while len(seen) < count and missed < TRIES:
            one = self.make(draw, side)
            known = (one.question, one.answer)
            if known in seen or (
                self.kept_apart and side_of(self.group or self.name, one.key) != side
            ):
                missed += 1
                continue
            missed = 0
            seen.add(known)
            yield one


def side_of(group: str, key: str) -> Side:
    """The side of a key, by its hash."""
    number = int.from_bytes(hashlib.sha256(f"{group}\n{key}".encode()).digest()[:8], "big")
    return "heldout" if number < HELD_OUT * 2**64 else "train"


QUESTION_WORLDS: dict[str, QuestionWorld] = {}


def register(world: QuestionWorld) -> QuestionWorld:
    """Make a world of questions known by its name."""
    if world.name in QUESTION_WORLDS:
        raise ValueError(f"two worlds of questions are named {world.name}")
    QUESTION_WORLDS[world.name] = world
    return world


def question_world(name: str) -> QuestionWorld:
    """The world of that name. Raises WrongUse for a name that is none, with the nearest."""
    worlds = question_worlds()
    if name not in worlds:
        raise WrongUse(f"unknown world of questions {name}{did_you_mean(name, worlds)}")
    return worlds[name]


def question_worlds() -> dict[str, QuestionWorld]:
    """All worlds of questions, by name."""
    for module in MODULES:
        importlib.import_module(f"maquette.worlds.questions.{module}")
    return dict(sorted(QUESTION_WORLDS.items()))
