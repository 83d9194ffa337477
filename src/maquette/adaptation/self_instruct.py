"""Self-instruct: a model writes instructions, then what they are done to, and learns from both.

    Come up with a series of tasks:      Come up with examples for the following tasks.
    1. (of the seeds)
    ...                                  Task: (of the seeds)
    8. (of its own)                      Example 1
    9. (written)                         Input: ...
                                         Output: ...

                                         Task: (written)
                                         (examples, written)

Wang et al. 2022: section 2.2 for the four steps, appendix A and their code for the settings. An instruction
that is too short or long, holds words of what text cannot do, or is close to one that is there (ROUGE-L) is
dropped. A task whose answer is one of a few labels gets its labels first and an input for each, so that no
label is forgotten. Here are the prompts, and what is read from what was written; who writes is a model,
`workshop/adapt_self_instruct.py`. Left out: the presence penalty of GPT-3's interface.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from maquette.base.errors import WrongUse, check_numbers

LISTED = "Come up with a series of tasks:"
WORKED = "Come up with examples for the following tasks."
LABELLED = "Come up with an input for each label of the following tasks."
SHAPED = "Is the answer one of a few labels?"
FORBIDDEN = ("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps",
             "draw", "plot", "go to")  # fmt: skip
"""words of what a text cannot do (their code)"""
ITEM = re.compile(r"(?:^|\n)[ \t]*\d+[ \t]*\.")
EXAMPLE = re.compile(r"(?:^|\n)Example \d+\s*\n?")
LABEL = re.compile(r"(?:^|\n)Label:")


@dataclass(frozen=True)
class SelfInstructOptions:
    """How instructions are written and filtered; the defaults are the paper's."""

    count: int = 100
    """number of written instructions to stop at"""
    rounds: int = 20
    """largest number of rounds"""
    prompts: int = 8
    """number of prompts of a round"""
    shown: int = 8
    """number of instructions in a prompt"""
    own: int = 2
    """number of these that the model wrote, where there are as many"""
    items: int = 8
    """number of instructions that a prompt asks for"""
    temperature: float = 0.7
    """sampling temperature of instructions"""
    top_p: float = 0.5
    """probability mass that tokens are sampled from"""
    instance_temperature: float = 0.0
    """sampling temperature of inputs and outputs; 0: greedy"""
    samples: int = 1
    """number of times that each instruction is asked for inputs and outputs"""
    least_words: int = 4
    """least number of words of an instruction"""
    most_words: int = 150
    """largest number of words of an instruction"""
    forbidden: tuple[str, ...] = FORBIDDEN
    """words that no instruction may hold"""
    rouge_l: float = 0.7
    """largest ROUGE-L with an instruction that is there"""
    written: str = "{instruction}\nInput: {input}\nOutput:"
    """how an instruction and its input are asked; without an input the line of it is left out"""
    seed: int = 0
    """seed of the choices and of the sampling"""

    def __post_init__(self) -> None:
        check_numbers(self)
        least = {
            "count": 1,
            "rounds": 1,
            "prompts": 1,
            "shown": 1,
            "own": 0,
            "items": 1,
            "samples": 1,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise WrongUse(f"{name} is {getattr(self, name)}: use at least {value}")
        if not 0 < self.rouge_l <= 1:
            raise WrongUse(f"rouge_l is {self.rouge_l:g}: use a number above 0, up to 1")
        if self.samples > 1 and self.instance_temperature == 0:
            raise WrongUse(
                "samples are all the same without a temperature: set instance_temperature"
            )
        if not {"{instruction}", "{input}"} <= set(re.findall(r"\{\w+\}", self.written)):
            raise WrongUse(
                f"written is {self.written!r}: it must hold {{instruction}} and {{input}}"
            )

    def prompt(self, instruction: str, given: str) -> str:
        """An instruction and its input as the model is asked and trained."""
        text = self.written
        if not given:
            text = "\n".join(line for line in text.split("\n") if "{input}" not in line)
        return text.replace("{instruction}", instruction).replace("{input}", given)


@dataclass
class Instruction:
    """An instruction, where it is from, and what is done to what."""

    text: str
    origin: str
    """where it is from: a place in the seeds, or "round N" """
    nearest: str = ""
    """instruction of the pool that it is closest to, when it came"""
    rouge_l: float = 0.0
    """ROUGE-L with the nearest"""
    dropped: str = ""
    """reason why it was dropped; "": it was not"""
    labels: bool | None = None
    """whether the answer is one of a few labels; None: not yet asked"""
    instances: list[tuple[str, str]] = field(default_factory=list)
    """inputs with their outputs"""
    left_out: dict[str, int] = field(default_factory=dict)
    """number of instances that were dropped, by the reason"""
    licence: str = ""
    """licence of a seed; of what a model wrote see the terms of its run"""

    @property
    def kept(self) -> bool:
        """Whether it is in the pool."""
        return not self.dropped


def listed(instructions: Sequence[Instruction]) -> str:
    """The prompt that more instructions follow."""
    lines = [f"{n}. {one.text}" for n, one in enumerate(instructions, 1)]
    return "\n".join([LISTED, *lines, f"{len(instructions) + 1}."])


def items(text: str, cut_off: bool, most: int) -> list[str]:
    """The instructions of what was written after `listed`; the last is left out where it was cut off."""
    parts = [" ".join(part.split()) for part in ITEM.split(text)]
    return [part for part in (parts[:-1] if cut_off else parts) if part][:most]


def fault(text: str, options: SelfInstructOptions) -> str:
    """Why an instruction is dropped for itself alone; "": it is not."""
    words = text.split()
    if len(words) < options.least_words:
        return f"fewer than {options.least_words} words"
    if len(words) > options.most_words:
        return f"more than {options.most_words} words"
    for word in options.forbidden:
        if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE):
            return f"the word {word}"
    if text.startswith("Write a program"):
        return "asks for a program"
    if not text[0].isascii():
        return "begins with a letter that is not ASCII"
    if not text[0].isalnum():
        return "begins with punctuation"
    return ""


def chosen(
    seeds: Sequence[Instruction],
    written: Sequence[Instruction],
    options: SelfInstructOptions,
    draw: Random,
) -> list[Instruction]:
    """The instructions of one prompt, mixed: of the model's own as many as there are, up to `own`."""
    own = draw.sample(list(written), min(options.own, len(written), options.shown))
    rest = draw.sample(list(seeds), min(options.shown - len(own), len(seeds)))
    both = own + rest
    draw.shuffle(both)
    return both


def shaped(seeds: Sequence[Instruction], instruction: str) -> str:
    """The prompt whose answer, Yes or No, says whether a task's answer is one of a few labels."""
    parts = [f"Task: {one.text}\n{'Yes' if one.labels else 'No'}" for one in seeds]
    return "\n\n".join([SHAPED, *parts, f"Task: {instruction}\n"])


def worked(seeds: Sequence[Instruction], instruction: str, labels: bool) -> str:
    """The prompt that the instances of an instruction follow."""
    parts = []
    for one in seeds:
        rows = [f"Task: {one.text}"]
        for n, (given, output) in enumerate(one.instances, 1):
            rows += [f"Label: {output}", f"Input: {given}"] if labels else [
                f"Example {n}", *([f"Input: {given}"] if given else []), f"Output: {output}"
            ]  # fmt: skip
        parts.append("\n".join(rows))
    return "\n\n".join([LABELLED if labels else WORKED, *parts, f"Task: {instruction}\n"])


def instances(text: str, labels: bool, cut_off: bool) -> list[tuple[str, str]]:
    """Inputs and outputs of what was written after `worked`; what is no whole one is left out."""
    blocks = (LABEL if labels else EXAMPLE).split(text)
    if cut_off:
        blocks = blocks[:-1]
    found = []
    for block in blocks:
        before, mark, after = block.partition("Input:" if labels else "Output:")
        if not mark:
            continue
        given = (after if labels else before.strip().removeprefix("Input:")).strip()
        output = (before if labels else after).strip()
        found.append((given, output))
    return found


def sound(
    found: Sequence[tuple[str, str]], labels: bool
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Instances without those that are empty, copies, duplicates or contradictions, and their numbers."""
    left_out: Counter[str] = Counter()
    outputs: dict[str, set[str]] = {}
    for given, output in found:
        outputs.setdefault(given, set()).add(output)
    kept: dict[tuple[str, str], None] = {}
    for given, output in found:
        if not output or (labels and not given):
            left_out["empty"] += 1
        elif given == output:
            left_out["output is the input"] += 1
        elif len(outputs[given]) > 1:
            left_out["contradictory"] += 1
        elif (given, output) in kept:
            left_out["duplicate"] += 1
        else:
            kept[given, output] = None
    return list(kept), dict(left_out)
