"""`maquette eval RUN TASK`: the tasks that are asked, their table, and what is to be said of it."""

import argparse
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.workshop.load import Loaded


def list_tasks(terminal: Terminal) -> dict[str, Any]:
    """The tasks that are built in, with what each asks."""
    from maquette.worlds.questions.registry import question_worlds

    worlds = question_worlds()
    terminal.table(
        ["task", "what is asked"], [[name, world.about] for name, world in worlds.items()]
    )
    return {"tasks": {name: world.about for name, world in worlds.items()}}


def ask_tasks(
    arguments: argparse.Namespace, names: list[str], loaded: "Loaded", terminal: Terminal
) -> dict[str, Any]:
    """The scores of the tasks of these names and files."""
    from maquette.corpus.text.named import open_corpus
    from maquette.evaluation.tasks.task import SEED
    from maquette.workshop.evaluate_tasks import evaluate_tasks

    with terminal.stages() as progress:
        corpus = (
            open_corpus(arguments.corpus, progress) if arguments.corpus else loaded.training_text()
        )
    with terminal.stages(counts=True) as progress:
        tasks = evaluate_tasks(
            loaded.model,
            loaded.tokenizer,
            names,
            shots_of(arguments.shots),
            limit=arguments.limit,
            seed=SEED if arguments.seed is None else arguments.seed,
            corpus=corpus,
            progress=progress,
        )
    rows = []
    parted = any(task["contaminated"] for task in tasks.values())
    for name, task in tasks.items():
        for entry in task["curve"]:
            for metric, values in entry["metrics"].items():
                rows.append([name, entry["shots"], metric, entry["examples"], *_numbers(values)])
                if parted:
                    for side in ("clean", "dirty"):
                        rows[-1] += _numbers(values[side])[:1]
    head = ["task", "shots", "metric", "questions", "value", "standard error"]
    terminal.table(head + ["clean", "dirty"] * parted, rows)
    _say(tasks, loaded.model.config.context, corpus is not None, terminal)
    return tasks


def shots_of(text: str | None) -> list[int] | None:
    """0,1,8 as numbers."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise WrongUse(f"--shots {text} is no list of numbers: write such as 0,1,8") from error


def _numbers(values: dict[str, Any]) -> list[str]:
    return ["" if values[k] is None else f"{values[k]:.4f}" for k in ("value", "stderr")]


def _say(tasks: dict[str, Any], context: int, known: bool, terminal: Terminal) -> None:
    for name, task in tasks.items():
        for entry in task["curve"]:
            if entry["truncated"]:
                terminal.say(
                    f"  {name} --shots {entry['shots']}: {entry['truncated']} of {entry['requests']} "
                    f"requests are longer than the context of {context} tokens; the first are left out"
                )
        if task["contaminated"]:
            dirty = round(task["contaminated"] * task["examples"])
            terminal.say(
                f"  {name}: {dirty} of {task['examples']} questions are in the training text "
                f"({100 * task['contaminated']:.1f} %)"
            )
    if not known:
        terminal.say(
            "  what of the questions was trained on is not known: name the training text with --corpus"
        )
