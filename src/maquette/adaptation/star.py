"""STaR, the self-taught reasoner: what is asked, what is kept, and for how long is trained on it.

    loop n      questions --> rationale and answer, greedily, by the model of loop n - 1
                  right ------------------------------------------------> kept
                  wrong --> asked again with the answer shown (hint) -->
                            a rationale that reaches it, without the hint -> kept
                the model of loop n: the base, fine-tuned on what was kept; never the model of loop n - 1

Zelikman, Wu, Mu and Goodman 2022, algorithm 1; the schedule of steps is that of section 3.1 (40 steps, a
fifth more every loop). Only the answer is checked: a wrong rationale that reaches it is kept too. Left out:
drawing at a temperature, which the paper found worse, and keeping some hints in what is learned.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from maquette.base.errors import WrongUse, check_numbers, within

ANY = float("inf")


@dataclass(frozen=True, kw_only=True)
class StarOptions:
    """How a model teaches itself. Raises WrongUse for what cannot be."""

    loops: int = 8
    """number of loops"""
    steps: int = 40
    """number of optimiser steps in the first loop"""
    growth: float = 1.2
    """factor of the number of steps from one loop to the next"""
    questions: int | None = None
    """number of questions asked in a loop, drawn anew in each; None: all"""
    answer_after: str = "####"
    """text after which the answer stands, at the end of what the model writes"""
    hint: str = "{prompt} ({answer})"
    """prompt of a question that was answered wrong, with its answer; empty: no rationalisation"""
    tokens: int | None = None
    """largest number of tokens written to a question; None: half of the context, 256 at the most"""
    batch: int = 16
    """number of sequences a step"""
    learning_rate: float | None = None
    """peak learning rate; None: that of full fine-tuning"""
    sequence: int | None = None
    """tokens a training sequence; None: as many as fit the model, up to a limit"""
    seed: int = 0
    """seed of the data's order, and of which questions are asked"""

    def __post_init__(self) -> None:
        check_numbers(self)
        within(self, 1, ANY, "loops", "steps", "growth", "questions", "tokens", "batch", "sequence")
        if not self.answer_after.strip():
            raise WrongUse(
                "answer_after is empty: name what stands before the answer, such as ####"
            )
        if self.hint and (self.hint.count("{prompt}"), self.hint.count("{answer}")) != (1, 1):
            raise WrongUse(
                f"the hint {self.hint!r} does not hold {{prompt}} and {{answer}}, each once: write such as "
                "'{prompt} ({answer})'"
            )

    def steps_of(self, loop: int) -> int:
        """Number of optimiser steps of a loop, from 1 on."""
        return round(self.steps * self.growth ** (loop - 1))

    def hinted(self, prompt: str, answer: str) -> str:
        """The prompt with its answer shown."""
        before, _, after = self.hint.partition("{prompt}")
        return before.replace("{answer}", answer) + prompt + after.replace("{answer}", answer)


@dataclass(frozen=True)
class Attempt:
    """What a model wrote to a question in a loop, and to the same question with a hint."""

    prompt: str
    """the question"""
    answer: str
    """the right answer"""
    written: str
    """what was written without a hint"""
    right: bool
    """whether that reaches the answer"""
    rationalised: str | None = None
    """what was written with a hint, where it reaches the answer"""

    @property
    def kept(self) -> str | None:
        """What is learned as the answer to the question; None: nothing reached it."""
        return self.written if self.right else self.rationalised


def kept_records(attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    """The examples that a loop learns: the question without a hint, and what was written."""
    return [{"prompt": one.prompt, "answer": one.kept} for one in attempts if one.kept is not None]
