"""Loss, perplexity and bits per byte: of a run's held-out text by component, or of any text file.

Of examples (a run on them, or --corpus DIR): of the held-out answers, each given its prompt.

Of a picture run: accuracy of a classifier, zero-shot naming and retrieval of a CLIP, what the oracle of
its world reads in the pictures that a diffusion run makes, PSNR of super-resolution; and the loss.

A TASK is a task that is built in (arithmetic_2da, reversed_words, letter_map, reading ...; maquette eval
--list names them), or a task file in lm-evaluation-harness' format (.yaml, of local data), asked with
as many examples before each question as --shots says. Or it is a file of examples (.jsonl, .json, .csv,
.parquet, .txt ...), or a folder of them: bits per byte. Beside each score stands what it is of the questions
that the training text holds (dirty, by GPT-3's 13-gram rule), and of the others (clean).

example: maquette eval runs/first
         maquette eval runs/first --text README.md
         maquette eval runs/first arithmetic_2da capitals.yaml --shots 0,1,8
         maquette eval runs/first sentiment --stress --picture stress.png
         maquette eval runs/first questions.jsonl
         maquette eval runs/diffusion --pictures 500 --guidance 3
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal
from maquette.cli.texts import WEIGHTS
from maquette.models.diffusion.drawing import Drawing

if TYPE_CHECKING:
    from maquette.workshop.load import Loaded


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="a run directory")
    parser.add_argument(
        "tasks",
        nargs="*",
        metavar="TASK",
        help="tasks by name or .yaml file; files of examples to score",
    )
    parser.add_argument("--list", action="store_true", help="name the tasks that are built in")
    asked = parser.add_argument_group("tasks")
    asked.add_argument("--shots", metavar="K,K,...",
                       help="examples shown before a question (default: as the task says, or 0)")  # fmt: skip
    asked.add_argument("--limit", type=int, metavar="N", help="ask the first N questions of a task")
    asked.add_argument("--seed", type=int, help="of the choice of the examples (default: 1234)")
    parser.add_argument("--text-field", metavar="NAME",
                        help="the field with the text of an example; several with commas")  # fmt: skip
    parser.add_argument("--text", help="score this file instead of the held-out documents")
    parser.add_argument("--corpus", help="score another corpus' held-out documents")
    parser.add_argument("--bytes", type=int, help="score about so many bytes (default: all)")
    parser.add_argument("--weights", choices=WEIGHTS,
                        help="of a run of text (default: as they are, computed in fp32)")  # fmt: skip
    asked.add_argument("--stress", action="store_true", default=None,
                       help="fill the context with garbage, and say what is left of the score")  # fmt: skip
    asked.add_argument("--picture", metavar="FILE", help="draw the curves of --stress (PNG)")
    group = parser.add_argument_group("runs of pictures")
    group.add_argument("--pictures", type=int, help="score so many (default: 500)")
    group.add_argument("--steps", type=int, help=f"of the solver (default: {Drawing.steps})")
    group.add_argument("--guidance", type=float,
                       help=f"of the pictures that are made (default: {Drawing.guidance:g})")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.list:
        from maquette.cli.evaluate_tasks import list_tasks

        return list_tasks(Terminal(arguments.json))
    if arguments.run is None:
        raise WrongUse("no run is named: name a run directory")
    from maquette.workshop.kinds import kind_of_model

    ways = {"text": score_text, "pictures": score_pictures}
    return ways[kind_of_model(Path(arguments.run).expanduser())](
        arguments, Terminal(arguments.json)
    )


def score_text(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Tasks, a text, or the held-out text of a corpus."""
    from maquette.workshop.load import load

    for name in PICTURES:
        if getattr(arguments, name) is not None:
            raise WrongUse(f"--{name} is not for a run of text: leave it out")
    if arguments.text_field and not arguments.tasks:
        raise WrongUse("--text-field is for tasks: name the files that hold them")
    loaded = load(arguments.run)
    if arguments.weights is not None:
        loaded.optimise(arguments.weights)
    if arguments.tasks:
        if arguments.text:
            raise WrongUse("give tasks, or a text with --text, not both")
        if arguments.bytes is not None:
            raise WrongUse("a task is scored whole: leave --bytes out")
        return score_all(arguments, loaded, terminal)
    for name in TASKS:
        if getattr(arguments, name) is not None:
            raise WrongUse(f"--{name} is for tasks: name some")
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


def score_all(
    arguments: argparse.Namespace, loaded: "Loaded", terminal: Terminal
) -> dict[str, Any]:
    """Tasks that are asked, and files of examples."""
    from maquette.cli.evaluate_tasks import ask_tasks
    from maquette.evaluation.tasks.load import is_task

    asked = [name for name in arguments.tasks if is_task(name)]
    files = [name for name in arguments.tasks if name not in asked]
    if not asked:
        for name in TASKS:
            if getattr(arguments, name) is not None:
                raise WrongUse(
                    f"--{name} is for tasks, and {files[0]} is a file of examples: leave it out"
                )
    if arguments.picture and not arguments.stress:
        raise WrongUse("--picture is of --stress: give both, or neither")
    if arguments.stress:
        from maquette.cli.evaluate_stress import stress_tasks

        if files:
            raise WrongUse(
                f"--stress is of tasks with choices, and {files[0]} is a file of examples"
            )
        return {"run": arguments.run, "tasks": stress_tasks(arguments, asked, loaded, terminal)}
    tasks = ask_tasks(arguments, asked, loaded, terminal) if asked else {}
    if files:
        arguments.tasks = files
        tasks |= score_tasks(arguments, loaded, terminal)["tasks"]
    return {"run": arguments.run, "tasks": tasks}


TASKS = ("shots", "limit", "seed", "stress", "picture")
"""options of tasks that are asked"""
PICTURES = ("pictures", "steps", "guidance")
"""options of picture runs"""


def score_pictures(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """What the kind of a picture run is scored by."""
    from maquette.workshop.evaluate_pictures import evaluate_pictures, rows
    from maquette.workshop.load_pictures import load_pictures

    if arguments.tasks or arguments.text or arguments.bytes is not None or arguments.weights:
        raise WrongUse(
            "TASK, --text, --bytes and --weights are not for a run of pictures: leave them out"
        )
    for name in TASKS:
        if getattr(arguments, name) is not None:
            raise WrongUse(f"--{name} is not for a run of pictures: leave it out")
    options = {n: v for n in PICTURES if (v := getattr(arguments, n)) is not None}
    many = {"pictures": options.pop("pictures")} if "pictures" in options else {}
    drawing = Drawing(**options)
    loaded = load_pictures(arguments.run)
    with terminal.stages(counts=True) as progress:
        tasks = evaluate_pictures(
            loaded, corpus=arguments.corpus, drawing=drawing, progress=progress, **many
        )
    terminal.table(["score", "value", "95 % interval", "pictures"], rows(tasks))
    return {"run": arguments.run, "tasks": tasks}


def score_tasks(
    arguments: argparse.Namespace, loaded: "Loaded", terminal: Terminal
) -> dict[str, Any]:
    """Every task's bits per byte, with its contamination beside it."""
    from maquette.audit.contamination import bits_per_byte, contamination, split_scores
    from maquette.corpus.tasks import read_tasks
    from maquette.corpus.text.named import open_corpus
    from maquette.training.run import RunDirectory
    from maquette.training.run_corpus import text_of

    examples = read_tasks(arguments.tasks, arguments.text_field)
    run = RunDirectory(arguments.run)
    with terminal.stages() as progress:
        corpus = open_corpus(arguments.corpus, progress) if arguments.corpus else text_of(run)
        results = contamination(corpus, examples, progress=progress)
    tasks: dict[str, Any] = {}
    rows = []
    for name, texts in examples.items():
        scores, sizes = bits_per_byte(loaded.model, loaded.tokenizer, texts)
        flagged = set(results[name].flagged)
        dirty = [i in flagged for i in range(len(texts))]
        short = set(results[name].too_short)
        parts = split_scores(scores, dirty, sizes, [i in short for i in range(len(texts))])
        tasks[name] = {
            "metric": "bits_per_byte",
            "bits_per_byte": parts["all"].mean,
            "stderr": parts["all"].stderr,
            "shots": 0,
            "contaminated": results[name].fraction,
            "short": results[name].short,
        } | {part: asdict(mean) for part, mean in parts.items()}
        for part, mean in parts.items():
            if mean.mean is not None:
                error = "" if mean.stderr is None else f"{mean.stderr:.4f}"
                rows.append(
                    [name, part.replace("_", " "), mean.examples, f"{mean.mean:.4f}", error]
                )
    terminal.table(["task", "examples that are", "number", "bits/byte", "standard error"], rows)
    for name, task in results.items():
        terminal.say(
            f"  {name}: {task.dirty} of {task.examples} examples are in the training text "
            f"({100 * task.fraction:.1f} %), {task.clean} are not"
            + (
                f"; {task.short} of fewer than {task.n} words are too short to tell"
                * bool(task.short)
            )
        )
    return {"run": arguments.run, "tasks": tasks}
