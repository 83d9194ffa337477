"""Ask a model tasks with several numbers of examples shown, and say beside each score what was trained on."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from maquette.audit.contamination import Contamination, contamination
from maquette.base.errors import WrongUse
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.overlap import N
from maquette.corpus.text.store import Corpus
from maquette.corpus.tokenizer import Tokenizer
from maquette.evaluation.tasks.evaluate import TaskScore, evaluate_task
from maquette.evaluation.tasks.load import open_task
from maquette.evaluation.tasks.task import SEED
from maquette.models.base import LanguageModel


def evaluate_tasks(
    model: LanguageModel,
    tokenizer: Tokenizer,
    names: Sequence[str],
    shots: Sequence[int] | None = None,
    *,
    limit: int | None = None,
    seed: int = SEED,
    corpus: Corpus | None = None,
    progress: Progress = silent,
) -> dict[str, dict[str, Any]]:
    """The scores of tasks by name or file: of each the one with most examples shown, and all as `curve`.

    shots: numbers of examples; None: what each task says, else 0. limit: of the questions of a task. seed: of
    the choice of the examples. corpus: the training text that the questions are looked for in. Every task
    is opened, and its questions written, before any is scored. Raises UserError for one that cannot be
    asked.
    """
    if limit is not None and limit < 1:
        raise WrongUse(f"limit is {limit}: ask 1 question or more")
    if shots is not None and (not shots or min(shots) < 0):
        raise WrongUse("shots are numbers of examples from 0: write such as 0,1,8")
    tasks = [open_task(name, seed) for name in dict.fromkeys(names)]
    known = [task.name for task in tasks]
    if len(set(known)) < len(known):
        raise WrongUse(
            f"two tasks are named {next(n for n in known if known.count(n) > 1)}: rename one"
        )
    counts = {task.name: sorted(set(shots or [task.config.num_fewshot or 0])) for task in tasks}
    for task in tasks:
        task.questions(limit)
        task.prefixes(max(counts[task.name]), limit, seed)
    results: dict[str, dict[str, Any]] = {}
    for task in tasks:
        scores = [
            evaluate_task(
                model,
                tokenizer,
                task,
                count,
                limit=limit,
                seed=seed,
                progress=partial(progress, f"{task.name}, {count} shots"),
            )
            for count in counts[task.name]
        ]
        found = None if corpus is None else _contamination(corpus, scores[0], progress)
        curve = [_entry(score, found) for score in scores]
        results[task.name] = curve[-1] | {"curve": curve}
    return results


def _contamination(corpus: Corpus, score: TaskScore, progress: Progress) -> Contamination:
    """What of the questions the training text holds; the text is not read where all are too short."""
    if all(len(text.split()) < N for text in score.texts):
        return Contamination(len(score), N, list(range(len(score))), [])
    return contamination(corpus, {score.task: score.texts}, progress=progress)[score.task]


def _entry(score: TaskScore, found: Contamination | None) -> dict[str, Any]:
    """As `--json` prints a score."""
    first = score.metrics[0]
    sides: dict[str, Any] = {}
    if found is not None:
        dirty = np.isin(np.arange(len(score)), found.flagged)
        short = np.isin(np.arange(len(score)), found.too_short) & ~dirty
        sides = {"clean": ~dirty & ~short, "dirty": dirty}
    metrics = {}
    for values in score.metrics:
        mean = values.mean()
        metrics[values.name] = {"value": mean.mean, "stderr": mean.stderr} | {
            side: {"examples": part.examples, "value": part.mean, "stderr": part.stderr}
            for side, chosen in sides.items()
            for part in [values.mean(chosen)]
        }
    return {
        "metric": first.name,
        first.name: metrics[first.name]["value"],
        "stderr": metrics[first.name]["stderr"],
        "shots": score.shots,
        "examples": len(score),
        "contaminated": None if found is None else found.fraction,
        "short": None if found is None else found.short,
        "truncated": score.truncated,
        "requests": score.requests,
        "metrics": metrics,
    }
