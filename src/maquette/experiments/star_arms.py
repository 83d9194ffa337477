"""Arms of the claims about STaR: bases that know some steps, models that teach themselves or are told.

All are asked sums of two numbers by column (`worlds/questions/scratchpad.py`), in bytes.
"""

import functools
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from maquette.adaptation.recipes import AdaptOptions, text_recipe
from maquette.adaptation.star import StarOptions
from maquette.base.files import home, lock, read_json, write_atomic
from maquette.base.statistics import Share
from maquette.base.version import __version__
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.example import Example, world_examples
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.text.store import MANIFEST
from maquette.corpus.tokenizer import byte_tokenizer
from maquette.evaluation.generation import generate_answers
from maquette.experiments.lab import Lab
from maquette.models.store import language_config
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.recipe import Guard, Recipe
from maquette.workshop.adapt_star import ANSWERED, ATTEMPTS, KEPT, AdaptedStar, adapt_star
from maquette.workshop.load import load
from maquette.worlds.questions.registry import question_world
from maquette.worlds.questions.scratchpad import MARK, trace

HELDOUT = 0.1  # of a corpus' prompts; what is scored here is asked of the worlds' other side


@dataclass(frozen=True)
class Written:
    """What a model answers to held-out sums of one length."""

    right: Share
    """sums that are right"""
    exact: Share
    """sums of which every step is right, too"""


def kept_examples(name: str, examples: Iterable[Mapping[str, Any]]) -> ExamplesCorpus:
    """A corpus of examples of bytes, kept in Maquette's home under the hash of what it is made of."""
    lines = "".join(json.dumps(one) + "\n" for one in examples)
    identity = hashlib.sha256(lines.encode()).hexdigest()[:12]
    path = home() / "corpora-examples" / f"{name}-{identity}"
    with lock(path.with_name(f".{path.name}.kept.lock")):
        if not (path / MANIFEST).exists():
            source = path.with_suffix(".jsonl")
            write_atomic(source, lines)
            build_examples(path, [source], byte_tokenizer(), heldout=HELDOUT)
    return ExamplesCorpus(path)


def traces(plain: Mapping[int, int], hinted: Mapping[int, int], seed: int) -> ExamplesCorpus:
    """Sums with their steps: so many of each number of digits, and so many with the sum shown before.

    The fewer are among the more.
    """
    found: list[dict[str, str]] = []
    for ending, counts in (("trace", plain), ("hinted", hinted)):
        for digits, count in counts.items():
            found += map(record, world_examples(f"column_addition_{digits}d_{ending}", count, seed))
    return kept_examples("star-traces", found)


def sums(lengths: Iterable[int], count: int, seed: int) -> ExamplesCorpus:
    """Questions with their sums alone, `count` of each number of digits; the fewer are among the more."""
    found: list[dict[str, str]] = []
    for digits in lengths:
        found += map(record, world_examples(f"column_addition_{digits}d", count, seed))
    return kept_examples("star-sums", found)


def record(example: Example) -> dict[str, str]:
    return {"prompt": example.prompt, "answer": example.answer}


@functools.cache  # several claims measure the same runs
def taught(
    lab: Lab, base: Path, questions: Path, replay: Path, options: StarOptions
) -> AdaptedStar:
    """The run that a base makes of itself with these options; kept in Maquette's home, as bases are.

    questions, replay: folders of corpora.
    """
    names = [one.name for one in (base, questions, replay)]
    identity = json.dumps([names, asdict(options), __version__], sort_keys=True)
    path = home() / "bases" / f"star-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    how = "with" if options.hint else "without"
    lab.say(f"  teaching itself {how} rationalisation: {options.loops} loops ({path.name})")
    return adapt_star(
        base,
        str(questions),
        path,
        options,
        replay=[str(replay)],
        resume=path.exists(),
        on_loop=lambda one: lab.say(
            f"    loop {one.loop}: {one.kept} kept, {one.rationalised} rationalised, "
            f"{one.heldout.value:.2f} of held-out sums right"
        ),
    )


def told(base: Path, corpus: ExamplesCorpus, options: StarOptions, steps: int) -> Recipe:
    """The recipe that tunes the base on a corpus of examples, as a loop does."""
    how = AdaptOptions(
        "full", steps=steps, batch=options.batch, learning_rate=options.learning_rate, seed=options.seed
    )  # fmt: skip
    config = language_config(base)
    data = ExamplesData(corpus=str(corpus.path), sequence=options.sequence or config.context)
    return replace(text_recipe(how, base, config, data), name="star-told", guard=Guard(spike=0))


def shuffled(star: AdaptedStar, seed: int) -> ExamplesCorpus:
    """What the last loop learned, with the steps of another question of its length before each answer."""
    path = star.path / f"loop-{star.loops[-1].loop:02}" / KEPT
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_length = defaultdict(list)
    for one in kept:
        by_length[digits_of(one["prompt"])].append(one)
    found = []
    for same in by_length.values():
        others = same[:]
        random.Random(seed).shuffle(others)
        for one, other in zip(same, others, strict=True):
            steps = other["answer"].rpartition(MARK)[0]
            answer = one["answer"].rpartition(MARK)[2]
            found.append({"prompt": one["prompt"], "answer": f"{steps}{MARK}{answer}"})
    return kept_examples("star-shuffled", found)


@functools.cache  # several claims ask the same runs
def answers(run: Path, lengths: tuple[int, ...], count: int) -> dict[int, Written]:
    """What a run answers to the same `count` held-out sums of each number of digits."""
    loaded = load(run).optimise()
    found = {}
    for digits in lengths:
        world = question_world(f"column_addition_{digits}d_trace")
        asked = world.questions(count)
        texts, _ = generate_answers(
            loaded.model, loaded.tokenizer, [one.question for one in asked],
            {"max_gen_toks": world.fields["generation_kwargs"]["max_gen_toks"]}, until=(),
        )  # fmt: skip
        pairs = [(text, one.answer) for text, one in zip(texts, asked, strict=True)]
        right = sum(last(text) == last(answer) for text, answer in pairs)
        exact = sum(text == answer for text, answer in pairs)
        found[digits] = Written(Share(right, len(asked)), Share(exact, len(asked)))
    return found


def last(text: str) -> str:
    """The answer in a text, after its steps where there are some."""
    return text.rpartition(MARK)[2].strip()


def by_loop(star: AdaptedStar) -> list[dict[int, Share]]:
    """Held-out sums that are right by number of digits, in every loop from the base on."""
    found = []
    for one in star.loops:
        lines = (star.path / f"loop-{one.loop:02}" / ANSWERED).read_text(encoding="utf-8")
        right: dict[int, list[bool]] = defaultdict(list)
        for line in lines.splitlines():
            attempt = json.loads(line)
            right[digits_of(attempt["prompt"])].append(attempt["right"])
        found.append({n: Share(sum(right[n]), len(right[n])) for n in sorted(right)})
    return found


@dataclass(frozen=True)
class ExactSteps:
    """Shares of what the loops' models wrote whose every step is right."""

    kept: Share
    """of what was written without a hint and kept"""
    rationalised: Share
    """of what was written with a hint and kept"""
    all: Share
    """of all that was written without a hint"""


def exact_steps(star: AdaptedStar) -> ExactSteps:
    """Against the steps that the world writes, over all loops."""
    kept, rationalised, written = [], [], []
    for one in star.loops[1:]:
        for attempt in read_json(star.path / f"loop-{one.loop:02}" / ATTEMPTS)["attempts"]:
            a, b = map(int, attempt["prompt"].removesuffix("=").split("+"))
            written.append(attempt["written"] == trace(a, b))
            if attempt["right"]:
                kept.append(written[-1])
            elif attempt["rationalised"] is not None:
                rationalised.append(attempt["rationalised"] == trace(a, b))
    return ExactSteps(*(Share(sum(one), len(one)) for one in (kept, rationalised, written)))


def digits_of(prompt: str) -> int:
    """Number of digits of the numbers that a question adds."""
    return len(prompt.partition("+")[0])
