"""A search for a prompt, with a record from which it goes on: `search.jsonl`.

The first line is what the search is (options, base, data), each further one a population: calls so far, its
losses, and every so many calls what the favourite makes of examples that the search does not see. A search
that was cut off is told these losses again and goes on where they end, to the same result bit for bit;
no call is made twice. What is kept is the favourite that did best on those examples.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maquette.adaptation.black_box import Outcome
from maquette.adaptation.search import Array, Strategy
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.examples.example import Example
from maquette.corpus.order import Permutation
from maquette.corpus.progress import Progress, silent

LOG = "search.jsonl"
T = TypeVar("T")


@dataclass(frozen=True)
class SearchOptions:
    """How a prompt is searched. Raises WrongUse for numbers that cannot be."""

    calls: int = 2000
    """number of prompts that are scored on all examples"""
    population: int = 20
    """number of prompts that are scored before the search learns of them"""
    examples: int = 32
    """number of examples that the search sees, and of others that choose among its favourites"""
    every: int = 100
    """calls between two of these choices"""
    seed: int = 0
    """seed of the search and of the choice of examples"""

    def __post_init__(self) -> None:
        for name, least in (("population", 2), ("examples", 1), ("every", 1)):
            if getattr(self, name) < least:
                raise WrongUse(f"{name} is {getattr(self, name)}: use at least {least}")
        if self.calls < self.population:
            raise WrongUse(
                f"calls is {self.calls}, less than a population of {self.population}: use more calls"
            )


@dataclass(frozen=True)
class Found:
    """The prompt that a search has found."""

    candidate: Array
    """the candidate, as its strategy has it"""
    chosen_by: Outcome
    """its outcome on the examples that chose it"""
    calls: int
    """number of prompts that were scored"""
    seconds: float
    """time that they took, of all calls of the command"""


def begun_with(path: Path) -> dict[str, Any] | None:
    """What the record of a search says that it is; None where there is none, or not a whole line."""
    first = path.read_bytes().splitlines(keepends=True)[:1] if path.exists() else []
    whole = first and first[0].endswith(b"\n")
    return dict(json.loads(first[0])) if whole else None


class SearchLog:
    """The record of a search; see the file's docstring.

    Raises WrongUse where the record is of a search with other options.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._kept: list[dict[str, Any]] = []
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [
            line for line in lines if line.endswith(b"\n")
        ]  # a killed write leaves half a line
        if len(whole) < len(lines):
            os.truncate(path, sum(map(len, whole)))
        identity = json.loads(json.dumps(identity))
        if not whole:
            self.write(identity)
            return
        first, *rest = map(json.loads, whole)
        if first != identity:
            names = [n for n in {**first, **identity} if first.get(n) != identity.get(n)]
            raise WrongUse(
                f"{path.parent} was searched with another {names[0]} ({first.get(names[0])}): "
                "go on with the same, or choose another --run"
            )
        self._kept = rest[::-1]

    def next(self) -> dict[str, Any] | None:
        """The next population that was recorded; None where the record ends."""
        return self._kept.pop() if self._kept else None

    def write(self, record: dict[str, Any]) -> None:
        """Append a line, which is on the disk afterwards."""
        with self._path.open("ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def search(
    strategy: Strategy,
    options: SearchOptions,
    log: SearchLog,
    score: Callable[[Array], Sequence[float]],
    judge: Callable[[Array], Outcome],
    *,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Search as long as there are calls. score: losses of candidates; judge: outcome of a favourite."""
    candidate, best, calls, seconds = strategy.favourite, None, 0, 0.0
    while True:
        losses: Sequence[float] = []
        record, begun = log.next(), time.perf_counter()
        if calls or best is not None:
            candidates = strategy.ask()
            losses = record["losses"] if record else score(candidates)
            strategy.tell(losses)
        due = (calls + len(losses)) // options.every > calls // options.every
        calls += len(losses)
        last = calls + options.population > options.calls
        outcome = None
        if due or last or not calls:
            outcome = Outcome(**record["outcome"]) if record else judge(strategy.favourite)
            if best is None or outcome.rank < best.rank:
                candidate, best = strategy.favourite, outcome
        if record is None:
            record = {
                "calls": calls,
                "losses": list(losses),
                "outcome": asdict(outcome) if outcome else None,
                "seconds": round(time.perf_counter() - begun, 3),
            }
            log.write(record)
            if outcome is not None and calls:
                say(f"{calls} calls: loss {np.mean(losses):.3f}, favourite {said(outcome)}")
        seconds += record["seconds"]
        progress("searching", calls, options.calls)
        if last:
            assert best is not None
            return Found(candidate, best, calls, seconds)


def said(outcome: Outcome) -> str:
    """An outcome in words."""
    right = "" if outcome.right is None else f", {100 * outcome.right:.1f} % right"
    return f"loss {outcome.loss:.3f}{right}"


def has_choices(example: Example) -> bool:
    """Whether an example's answer is one of several."""
    return example.answer_index is not None and len(example.choices) > 1


def check_choices(examples: Sequence[Example]) -> None:
    """Raise UserError where some examples have choices and others none: the latter are never wrong."""
    without = [example for example in examples if not has_choices(example)]
    if 0 < len(without) < len(examples):
        raise UserError(
            f"{without[0].source or 'an example'} has no choices, and others have: give all of them choices, "
            "or none"
        )


def drawn(
    examples: Sequence[Example], count: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Examples that a search sees, and as many others that choose: as many of each answer as there are.

    Of fewer than twice `count`, half and half. Raises UserError for fewer than two.
    """
    if len(examples) < 2:
        raise UserError(f"{len(examples)} examples to search with: name more, a few of each answer")
    order = [examples[i] for i in Permutation(len(examples), seed)(np.arange(len(examples)))]
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in order:
        groups[example.answer if example.choices else ""].append(example)
    in_turn: list[Example] = []
    while any(groups.values()):
        in_turn += [group.pop(0) for group in groups.values() if group]
    count = min(count, len(in_turn) // 2)
    return in_turn[:count], in_turn[count : 2 * count]
