"""Arms of the claims on few labels: stories of eight topics, classified in several ways from the same texts.

    plain     one plain pattern, labels whose names are in no text: plain fine-tuning, and then self-training
    pet       three patterns with words of the topics
    ipet      the same in three generations
    found     the patterns of pet with words that are found on the labelled texts
    random    the patterns of pet with words that have nothing to do with the topics
    blind     pet, of a base that read the same patterns naming topics at random: they say nothing to it

All arms of a seed have the same labelled, unlabelled and held-out texts, steps and rate. An arm is kept in
Maquette's home under the hash of all that it depends on, its code's commit too.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from maquette.base.files import home, read_json, write_atomic
from maquette.corpus.examples.patterns import Pattern, Patterns
from maquette.experiments.bases.news import WORDS, news_decoder, stories
from maquette.experiments.lab import Lab
from maquette.workshop.adapt import ADAPTATION
from maquette.workshop.adapt_pet import PetOptions, adapt_pet

PATTERNS = (
    "{prompt} It was all in the news of {word}",
    "{prompt} This is a story about {word}",
    "{prompt} Read about {word}",
)
NOTHING = "letter garden window river table city year evening".split()
RANDOM = {topic: (word,) for topic, word in zip(WORDS, NOTHING, strict=True)}
"""a word for each topic that says nothing of it"""
HELDOUT, UNLABELLED = 500, 500
# Tried for plain with 50 labels, on a base of 500 steps and another seed (its two models): 45 and 48 % right
# with 50 steps at 0.002, 54 and 52 at 0.006; 61 and 67 with 120 at 0.002; 63 and 68 with 150 at 0.004.
OPTIONS = PetOptions(steps=150, distil_steps=150, learning_rate=0.004)


@dataclass(frozen=True)
class Outcome:
    """What an arm got right of the held-out stories, as shares."""

    members: float
    """mean of the models that learned from labels, of the last generation"""
    last: float
    """the last model, which learned from the ensemble's labels"""
    before: float
    """the base in the first pattern"""


def outcome(lab: Lab, arm: str, labels: int, seed: int) -> Outcome:
    """Run an arm, or read what it came to."""
    base = lab.train(news_decoder(lab.quick, blind=arm == "blind"))
    patterns = tuple(map(Pattern, PATTERNS))
    options = replace(OPTIONS, seed=seed, labels=labels)
    words: dict[str, tuple[str, ...]] = dict(WORDS)
    if arm == "plain":
        patterns, words = (Pattern("{prompt} {word}"),), {topic: (topic,) for topic in WORDS}
    elif arm == "random":
        words = dict(RANDOM)
    elif arm == "found":
        options = replace(options, found_words=10)  # as many as the paper keeps
    elif arm == "ipet":
        options = replace(options, generations=3)
    if lab.quick:  # few arms, that all claims share
        labels = min(labels, 8)
        options = replace(options, steps=2, distil_steps=2, generations=1, labels=labels)
        patterns = patterns[:1]
    count = (40, 20, 20) if lab.quick else (max(200, labels), HELDOUT, UNLABELLED)
    identity = [
        str(base),
        asdict(options),
        [p.text for p in patterns],
        words,
        count,
        lab.commit,
    ]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    folder = home() / "pet" / key
    run = folder / "run"
    if not (run / ADAPTATION).exists():
        lab.say(f"{arm}, {labels} labels, seed {seed}")
        adapt_pet(
            base, str(_written(folder / "labelled.jsonl", count[0], seed, 0)), run, options,
            unlabelled=str(_written(folder / "unlabelled.jsonl", count[2], seed, 1)),
            heldout=str(_written(folder / "heldout.jsonl", count[1], seed, 2)),
            patterns=Patterns(patterns, words), resume=True,
        )  # fmt: skip
        for leftover in (run / "checkpoints", folder / "run-pet", folder / "run-corpus"):
            shutil.rmtree(leftover, ignore_errors=True)
    found: dict[str, Any] = read_json(run / ADAPTATION)
    return Outcome(
        found["generations"][-1]["after"]["mean"],
        found["metric_after"],
        found["metric_before"],
    )


def _written(path: Path, count: int, seed: int, side: int) -> Path:
    """A file of stories with their topics, of a seed and a side of it."""
    rows = [
        json.dumps({"prompt": text, "answer": topic}) + "\n"
        for text, topic in stories(count, 3 * seed + side)
    ]
    write_atomic(path, "".join(rows))
    return path
