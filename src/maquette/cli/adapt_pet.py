"""Teach a language model to classify from few labels: patterns, an ensemble, soft labels (PET and iPET).

DATA: labelled texts, a corpus of examples or files of records with prompt and answer. FILE of --unlabelled:
texts without labels, records or the lines of a .txt; most of what is learned comes from there. --patterns
is a YAML file with two fields, each pattern a template of a record's fields that ends with {word}:

    patterns:
      - "{prompt} All in all, it was {word}"
      - "Review of {title}: {prompt} Verdict: {word}"
    words: {positive: [great, good], negative: terrible}

Without it there is one plain pattern, the prompt, and the labels are the words: its model is plain fine-
tuning, and the last one self-training with the same texts, which is what PET is to be compared with. One
model is trained for each pattern (and repetition); together they label the unlabelled texts, and the last
model, an ordinary run that answers the first pattern, learns these labels. --generations 3 is iPET: models
learn from each other first. --find-words 3 finds the words of the labels in the model's vocabulary.

example: maquette adapt pet runs/first reviews.jsonl --unlabelled more.jsonl --patterns patterns.yaml
         maquette adapt pet runs/first reviews.jsonl --unlabelled more.jsonl --run runs/self-trained
         maquette adapt pet runs/first reviews.jsonl --unlabelled more.jsonl --labels 50 --heldout test.jsonl
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal, TrainingProgress


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="RUN", help="the run that is adapted")
    parser.add_argument(
        "data", metavar="DATA", help="labelled texts: a corpus of examples, or files"
    )
    parser.add_argument("--unlabelled", required=True, metavar="FILE",
                        help="texts without labels")  # fmt: skip
    parser.add_argument("--heldout", metavar="FILE",
                        help="labelled texts to score (the corpus' own, a fifth of files)")  # fmt: skip
    parser.add_argument(
        "--patterns", metavar="FILE", help="patterns and words (default: the plain prompt)"
    )
    parser.add_argument(
        "--fields", default="", metavar="PART=NAME,...", help="of records: prompt=..., answer=..."
    )
    parser.add_argument("--labels", type=int, metavar="N", help="use N labelled texts (all)")
    parser.add_argument("--find-words", type=int, default=0, metavar="N",
                        help="find N words of each label (0: the words that are given)")  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=1, help="models of each pattern (1)")
    parser.add_argument("--generations", type=int, default=1, help="1: PET; 3 are iPET's (1)")
    parser.add_argument("--run", help="the last model's directory (default: runs/pet)")
    parser.add_argument("--resume", action="store_true", help="go on with one that was cut off")
    parser.add_argument("--steps", type=int, default=100, help="steps of a pattern's model (100)")
    parser.add_argument(
        "--distil-steps", type=int, default=300, help="steps of the last model (300)"
    )
    parser.add_argument("--batch", type=int, default=16, help="texts a step (16)")
    parser.add_argument("--learning-rate", type=float, help="(default: a sixth of full's)")
    parser.add_argument("--alpha", type=float, default=0.0001,
                        help="weight of the language-model loss on unlabelled texts (0.0001)")  # fmt: skip
    parser.add_argument("--temperature", type=float, default=2.0, help="of the soft labels (2)")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.cli.adapted import show_adapted
    from maquette.cli.corpus_examples import fields_of
    from maquette.corpus.examples.patterns import read_patterns
    from maquette.training.run import free_name
    from maquette.workshop.adapt_pet import PetOptions, adapt_pet

    terminal = Terminal(arguments.json)
    options = PetOptions(
        labels=arguments.labels,
        repetitions=arguments.repetitions,
        generations=arguments.generations,
        found_words=arguments.find_words,
        steps=arguments.steps,
        distil_steps=arguments.distil_steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        alpha=arguments.alpha,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    chosen = arguments.patterns
    patterns = None if chosen is None else read_patterns(Path(chosen).expanduser())
    path = Path(arguments.run or free_name(Path("runs"), "pet")).expanduser()
    with terminal.stages() as progress:
        done = adapt_pet(
            Path(arguments.base),
            arguments.data,
            path,
            options,
            unlabelled=arguments.unlabelled,
            patterns=patterns,
            heldout=arguments.heldout,
            fields=fields_of(arguments.fields),
            resume=arguments.resume,
            observer=TrainingProgress(terminal),
            progress=progress,
            say=terminal.say,
        )
    _tell(done.details, terminal)
    show_adapted(done, terminal)
    return done.to_dict()


def _tell(found: dict[str, Any], terminal: Terminal) -> None:
    """A table of what is right before and after, by pattern and generation."""
    rows = [
        [one["pattern"], f"{one['weight']:.3f}", _share(one["before"]), _share(one["after"])]
        for one in found["patterns"]
    ]
    if len(found["generations"]) > 1:
        rows += [
            [f"generation {n}, up to {one['texts']:,} texts", "", "", _share(one["after"])]
            for n, one in enumerate(found["generations"], 1)
        ]
    terminal.table(["held-out texts right", "weight", "before", "after"], rows)
    terminal.say(
        f"{found['models']} models, {found['labelled']:,} labelled and {found['unlabelled']:,} "
        "unlabelled texts"
    )


def _share(one: dict[str, Any]) -> str:
    from maquette.base.statistics import Mean

    return f"{Mean(**one):.3f}"
