"""Decoders that have read instructions, and what was made of them, but were never asked to follow one.

Their text is what a web holds of the tasks of `worlds/questions/instruction_tasks`: lists of tasks, which go
on with more tasks, and worked examples of tasks, a few of each. So they know what the words mean, and an
instruction alone is to them the beginning of a list (as it was to GPT-3: Ouyang et al. 2022, figure 8).
Words of instructions are tokens, and so are the letters of everything else, so that to spell can be learned.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from random import Random

from maquette.adaptation.self_instruct import LABELLED, LISTED, SHAPED, WORKED
from maquette.corpus.document import Document
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import BytePair
from maquette.experiments.bases.small_decoder import kept_corpus
from maquette.models.config import DecoderConfig
from maquette.nn.rules import Parametrisation
from maquette.training.datasets.text_config import TextData, TextWatch
from maquette.training.recipe import LanguageRecipe, Optimiser, Schedule
from maquette.worlds.questions.instruction_oracle import IT, THEN, right_answer, sentence
from maquette.worlds.questions.instruction_tasks import NOUNS, TASKS, InstructionTask
from maquette.worlds.questions.instructions import (
    Instructed,
    argument_of,
    composition,
    compositions,
    instructed,
)

CONTEXT = 320
COMPOSED = 0.15  # share of the instructions that are of two tasks


@functools.cache
def instruction_tokenizer() -> BytePair:
    """A token for every word of the instructions, and one for every other byte."""
    texts = [LISTED, WORKED, SHAPED, LABELLED, *THEN, *IT, "yes no Yes No",
             "\nTask: \nExample \nInput: \nOutput: \nLabel: "]  # fmt: skip
    for task in TASKS.values():
        for phrasing in task.phrasings:
            for noun in NOUNS[task.takes]:
                texts.append(sentence(phrasing, noun))
                texts.append(f" {phrasing.replace('{x}', noun)}")
    words = sorted({word for text in texts for word in re.findall(r"[ \n]?[A-Za-z]{2,}:?", text)})
    tokens = dict.fromkeys(bytes([i]) for i in range(256))
    for word in words:
        data = word.encode()
        tokens |= dict.fromkeys(data[:n] for n in range(2, len(data) + 1))
    pieces = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return BytePair(list(tokens), f"(?:{pieces})(?![A-Za-z])|(?s:.)")


def documents(count: int, seed: int, tasks: Sequence[InstructionTask] = ()) -> Iterator[Document]:
    """Documents of the base: lists of tasks, worked examples, labels."""
    draw = Random(f"instructions {seed}")
    known = list(tasks or TASKS.values())
    kinds = (_list, _worked, _worked, _labelled, _shaped)
    for number in range(count):
        kind = draw.choices(kinds, (4, 8, 2, 1, 1))[0]
        text = kind(draw, known)
        yield Document(text, "instructions", f"instructions/{number}")


def _one(draw: Random, known: Sequence[InstructionTask], alone: bool = False) -> Instructed:
    """An instruction in any phrasing, on the training side's arguments."""
    if not alone and draw.random() < COMPOSED:
        return composition(*draw.choice(compositions("train")), draw)
    task = draw.choice(known)
    return instructed(task, draw, "train", task.phrasings)


def _list(draw: Random, known: Sequence[InstructionTask]) -> str:
    lines = [f"{n}. {_one(draw, known).instruction}" for n in range(1, 17)]
    return "\n".join([LISTED, *lines])


def _worked(draw: Random, known: Sequence[InstructionTask]) -> str:
    parts = [WORKED]
    for _ in range(4):
        one = _one(draw, known)
        part = f"Task: {one.instruction}"
        for n in range(1, draw.choice((2, 3, 4))):
            part += f"\nExample {n}\nInput: {one.argument}\nOutput: {one.answer}"
            one = again(one, draw)
        parts.append(part)
    return "\n\n".join(parts)


def again(one: Instructed, draw: Random) -> Instructed:
    """The same instruction of another argument."""
    answer = ""
    while not answer:
        argument = argument_of(one.tasks[0], draw, "train")
        answer = right_answer(one.tasks, argument)
    return Instructed(one.instruction, argument, answer, one.tasks)


def _labels(known: Sequence[InstructionTask]) -> list[InstructionTask]:
    return [task for task in known if task.gives == "yes or no"]


def _labelled(draw: Random, known: Sequence[InstructionTask]) -> str:
    parts = [LABELLED]
    for _ in range(4):
        one = _one(draw, _labels(known) or known, alone=True)
        shown: dict[str, str] = {}
        while len(shown) < 2:
            shown.setdefault(one.answer, one.argument)
            one = again(one, draw)
        rows = "".join(
            f"\nLabel: {label}\nInput: {shown[label]}" for label in sorted(shown, reverse=True)
        )
        parts.append(f"Task: {one.instruction}{rows}")
    return "\n\n".join(parts)


def _shaped(draw: Random, known: Sequence[InstructionTask]) -> str:
    parts = [SHAPED]
    for _ in range(6):
        pool = _labels(known) if draw.random() < 0.4 else known
        one = _one(draw, pool or known)
        parts.append(
            f"Task: {one.instruction}\n{'Yes' if one.tasks[-1].gives == 'yes or no' else 'No'}"
        )
    return "\n\n".join(parts)


def instruction_corpus(count: int, seed: int) -> Corpus:
    """The base's text, kept in Maquette's home."""
    return kept_corpus("instructions", list(documents(count, seed)), BuildOptions(heldout=0.01),
                       instruction_tokenizer())  # fmt: skip


def instructed_decoder(
    corpus: Corpus, seed: int, steps: int, width: int = 128, depth: int = 4
) -> LanguageRecipe:
    """A decoder of about a million parameters."""
    return LanguageRecipe(
        name="instructions",
        model=DecoderConfig(
            vocabulary=corpus.vocabulary,
            context=CONTEXT,
            width=width,
            depth=depth,
            heads=width // 32,
            activation="gelu_tanh",
            parametrisation=Parametrisation(
                base_width=128, base_depth=4, base_head_dim=32, embedding_std=0.03,
                input_multiplier=32.0,
            ),
        ),
        data=TextData(corpus=str(corpus.path), sequence=CONTEXT),
        optimiser=Optimiser(learning_rate=0.004, beta2=0.98),
        schedule=Schedule(warmup=0.05, floor=0.02),
        batch=16,
        steps=steps,
        seed=seed,
        precision="fp32",
        compile="off",
        watch=TextWatch(every=10_000, tokens=8192, sample_tokens=0, report=False),
    )  # fmt: skip
