"""Loss, perplexity and bits per byte: of a run's held-out text by component, or of any text file.

A TASK is a .jsonl or .txt file of examples, or a folder of them: bits per byte of those that the
training text holds (dirty, by GPT-3's 13-gram rule), of the others (clean), and of all.

example: maquette eval runs/first
         maquette eval runs/first --text README.md
         maquette eval runs/first questions.jsonl
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.workshop.load import Loaded


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="files of examples to score")
    parser.add_argument("--text", help="score this file instead of the held-out documents")
    parser.add_argument("--corpus", help="score another corpus' held-out documents")
    parser.add_argument("--bytes", type=int, help="score about so many bytes (default: all)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.workshop.load import load

    terminal = Terminal(arguments.json)
    loaded = load(arguments.run)
    if arguments.tasks:
        if arguments.text:
            raise WrongUse("give tasks, or a text with --text, not both")
        if arguments.bytes is not None:
            raise WrongUse("a task is scored whole: leave --bytes out")
        return score_tasks(arguments, loaded, terminal)
    if arguments.text:
        scores = {"text": loaded.score_text(Path(arguments.text))}
    else:
        with terminal.stages() as progress:
            scores = loaded.score_heldout(
                arguments.corpus,
                arguments.bytes,
                lambda done, total: progress("scoring", done, total),
            )
    terminal.table(
        ["text", "bits/byte", "loss", "perplexity", "tokens", "bytes"],
        [
            [
                name,
                f"{s.bits_per_byte:.4f}",
                f"{s.loss:.4f}",
                f"{s.to_dict()['perplexity']:.2f}",
                f"{s.tokens:,}",
                f"{s.bytes:,}",
            ]
            for name, s in scores.items()
        ],
    )
    tasks = {name: score.to_dict() for name, score in scores.items()}
    whole = tasks.get("text") or tasks["all"]
    return {"run": arguments.run, "tasks": tasks} | whole


def score_tasks(
    arguments: argparse.Namespace, loaded: "Loaded", terminal: Terminal
) -> dict[str, Any]:
    """Every task's bits per byte, with its contamination beside it."""
    from maquette.audit.contamination import bits_per_byte, contamination, split_scores
    from maquette.corpus.tasks import read_tasks
    from maquette.training.run import RunDirectory
    from maquette.workshop.corpora import open_corpus

    examples = read_tasks(arguments.tasks)
    run = RunDirectory(arguments.run)
    with terminal.stages() as progress:
        corpus = open_corpus(arguments.corpus, progress) if arguments.corpus else run.corpus()
        found = contamination(corpus, examples, progress=progress)
    tasks: dict[str, Any] = {}
    rows = []
    for name, texts in examples.items():
        scores, sizes = bits_per_byte(loaded.model, loaded.tokenizer, texts)
        flagged = set(found[name].flagged)
        dirty = [i in flagged for i in range(len(texts))]
        parts = split_scores(scores, dirty, sizes)
        tasks[name] = {
            "metric": "bits_per_byte",
            "bits_per_byte": parts["all"].mean,
            "stderr": parts["all"].stderr,
            "shots": 0,
            "contaminated": found[name].fraction,
            "short": found[name].short,
        } | {part: asdict(mean) for part, mean in parts.items()}
        for part, mean in parts.items():
            if mean.mean is not None:
                error = "" if mean.stderr is None else f"{mean.stderr:.4f}"
                rows.append([name, part, mean.examples, f"{mean.mean:.4f}", error])
    terminal.table(["task", "examples that are", "number", "bits/byte", "standard error"], rows)
    for name, one in found.items():
        terminal.say(
            f"  {name}: {one.dirty} of {one.examples} examples are in the training text "
            f"({100 * one.fraction:.1f} %)"
            + (
                f"; {one.short} have fewer than {one.n} words and cannot be found"
                if one.short
                else ""
            )
        )
    return {"run": arguments.run, "tasks": tasks}
