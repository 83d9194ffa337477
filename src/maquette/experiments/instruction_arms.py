"""Arms of claims about instructions: what is asked, what is tuned on, the share that is answered right."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.base.files import home, lock, write_atomic
from maquette.corpus.examples.build import build_examples
from maquette.corpus.text.store import MANIFEST
from maquette.evaluation.generation import generate_answers
from maquette.experiments.bases.instructed_decoder import (
    CONTEXT,
    instructed_decoder,
    instruction_corpus,
    instruction_tokenizer,
)
from maquette.experiments.lab import Lab
from maquette.models.store import language_config
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.recipe import LanguageRecipe
from maquette.workshop.load import load
from maquette.worlds.questions.instruction_tasks import TASKS, InstructionTask
from maquette.worlds.questions.instructions import Instructed, instructed, phrasings_of

TEMPLATE = "{prompt} {answer}"
QUESTIONS = {"generation_kwargs": {"max_gen_toks": 24}}
Record = dict[str, str]


def bases(lab: Lab, count: int, steps: int) -> list[Path]:
    """Decoders that have read instructions, one of each seed. count: documents of their text."""
    recipes = []
    for seed in range(lab.seeds):
        corpus = instruction_corpus(200 if lab.quick else count, seed)
        width, depth = (32, 1) if lab.quick else (128, 4)
        recipe = instructed_decoder(corpus, seed, 10 if lab.quick else steps, width, depth)
        recipes.append(replace(recipe, batch=2) if lab.quick else recipe)
    return lab.train_all(recipes)


def questions(
    count: int, seed: int, tasks: Sequence[InstructionTask] = (), without: Sequence[str] = ()
) -> list[Instructed]:
    """Held-out instructions of held-out arguments. without: instructions that are not asked."""
    draw, known = Random(f"asked {seed}"), list(tasks or TASKS.values())
    left = set(without)
    asked: list[Instructed] = []
    while len(asked) < count:
        one = instructed(draw.choice(known), draw, "heldout")
        if one.instruction not in left:
            asked.append(one)
    return asked


def accuracy(run: Path, asked: Sequence[Instructed]) -> float:
    """Share of questions that a run answers right, greedily, up to the end of the line."""
    loaded = load(run)
    answers, _ = generate_answers(
        loaded.model, loaded.tokenizer, [one.prompt for one in asked],
        QUESTIONS["generation_kwargs"], until=["\n"],
    )  # fmt: skip
    right = [text.strip() == one.answer for text, one in zip(answers, asked, strict=True)]
    return sum(right) / len(right)


def records(
    count: int, seed: int, tasks: Sequence[InstructionTask], instruction: bool = True
) -> list[Record]:
    """Examples of tasks in training phrasings. instruction: whether it stands before the input."""
    draw = Random(f"tuned {seed}")
    rows = []
    for _ in range(count):
        one = instructed(draw.choice(list(tasks)), draw, phrasings=())
        prompt = one.prompt if instruction else one.prompt.partition("\n")[2]
        rows.append({"prompt": prompt, "answer": one.answer})
    return rows


def seed_records(
    per_task: int, seed: int, tasks: Sequence[InstructionTask]
) -> list[dict[str, object]]:
    """Seed instructions: one training phrasing of each task, with some instances."""
    draw = Random(f"seeds {seed}")
    rows: list[dict[str, object]] = []
    for task in tasks:
        phrasing = draw.choice(phrasings_of(task, "train"))
        pairs: dict[str, str] = {}
        text = ""
        for _ in range(per_task):
            one = instructed(task, draw, phrasings=(phrasing,))
            text = text or one.instruction
            pairs[one.argument] = one.answer
        shown = [{"input": argument, "output": answer} for argument, answer in pairs.items()]
        rows.append({"instruction": text, "instances": shown,
                     "is_classification": task.gives == "yes or no"})  # fmt: skip
    return rows


def tuned(base: Path, rows: Sequence[Record], seed: int, steps: int, quick: bool) -> LanguageRecipe:
    """The base, tuned on examples."""
    options = AdaptOptions(
        "full", steps=4 if quick else steps, batch=2 if quick else 8, learning_rate=0.001,
        sequence=128, seed=seed,
    )  # fmt: skip
    data = ExamplesData(corpus=str(kept_examples(rows)), sequence=options.sequence or CONTEXT)
    recipe = text_recipe(options, base, language_config(base), data)
    return replace(recipe, name="instructed", precision="fp32", compile="off")


def kept_examples(rows: Sequence[Record]) -> Path:
    """A corpus of examples, kept in Maquette's home under the hash of its records."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = home() / "examples" / hashlib.sha256((TEMPLATE + text).encode()).hexdigest()[:16]
    with lock(path.with_name(f".{path.name}.making")):
        if not (path / MANIFEST).exists():
            file = path.with_name(f"{path.name}.jsonl")
            write_atomic(file, text)
            build_examples(path, [file], instruction_tokenizer(), template=TEMPLATE, heldout=0.05)
    return path
