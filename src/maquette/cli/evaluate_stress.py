"""`maquette eval RUN TASK --stress`: what is left of a score as the context fills with garbage."""

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.evaluate_tasks import shots_of
from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.evaluation.tasks.stress import Stress
    from maquette.workshop.load import Loaded

SHOTS, QUESTIONS, TEXT = 4, 100, 200_000


def stress_tasks(
    arguments: argparse.Namespace, names: list[str], loaded: "Loaded", terminal: Terminal
) -> dict[str, Any]:
    """The curves of the tasks, their table and their picture."""
    from maquette.base.files import check_writable, write_atomic
    from maquette.evaluation.tasks.load import open_task
    from maquette.evaluation.tasks.stress import stress
    from maquette.workshop.charts import png
    from maquette.workshop.stress_chart import stress_chart

    shots = shots_of(arguments.shots) or [SHOTS]
    if len(shots) > 1:
        raise WrongUse(
            f"--shots {arguments.shots} are several: --stress is with one number of examples"
        )
    picture = Path(arguments.picture).expanduser() if arguments.picture else None
    if picture is not None:
        check_writable(picture, "--picture")
    other = _other(loaded)
    found: list[Stress] = []
    with terminal.stages(counts=True) as progress:
        for task in [open_task(name) for name in names]:
            found.append(
                stress(
                    loaded.model,
                    loaded.tokenizer,
                    task,
                    shots[0],
                    limit=arguments.limit or QUESTIONS,
                    seed=arguments.seed or 0,
                    other=other,
                    progress=partial(progress, task.name),
                )
            )
    for one in found:
        _show(one, terminal)
    if picture is not None:
        write_atomic(picture, png(stress_chart(found)))
        terminal.say(f"picture: {picture}")
    return {one.task: _result(one) for one in found}


def _other(loaded: "Loaded") -> str:
    """Text of the run's held-out documents."""
    corpus = loaded.training_text()
    if corpus is None:
        return ""
    rows = [row for row in corpus.documents.to_pylist() if row["split"] == "heldout"]
    rows.sort(key=lambda row: str(row["sha256"]))
    texts, size = [], 0
    for row in rows:
        text = corpus.tokenizer.decode(corpus.heldout.read(row["offset"], row["tokens"]).tolist())
        texts.append(text)
        size += len(text)
        if size > TEXT:
            break
    return "\n\n".join(texts)


def _show(one: "Stress", terminal: Terminal) -> None:
    rows = [
        [
            kind,
            round(p.tokens),
            f"{p.accuracy:.3f}",
            f"{p.accuracy_stderr or 0:.3f}",
            f"{p.distance:.3f}",
            f"{p.divergence:.3f}",
        ]
        for kind, points in one.curves.items()
        for p in points
    ]
    terminal.say(
        f"{one.task} --shots {one.shots}: {one.questions} questions; alone: accuracy {one.prior:.3f}"
    )
    terminal.table(
        ["garbage", "tokens", "accuracy", "standard error", "distance", "KL, nats"], rows
    )
    gained = one.curves["examples"][0].accuracy > one.prior
    for kind in one.curves if gained else ():
        half, gone = one.half_point(kind), one.half_distance(kind)
        said = (
            "stays above half of what the examples gave"
            if half is None
            else f"half at {half:.0f} tokens"
        )
        terminal.say(
            f"  {kind}: accuracy {said}" + (f", distance half at {gone:.0f}" if gone else "")
        )
    if not gained:
        terminal.say(
            "  the examples gave no accuracy that could be lost: show others, or train more"
        )
    if one.modal is not None:
        inside, outside = one.modal["in_domain"], one.modal["off_domain"]
        terminal.say(
            f"  commonest answer: {inside['answer']!r} to {inside['share']:.0%} of the questions, "
            f"{outside['answer']!r} to {outside['share']:.0%} of other text"
        )


def _result(one: "Stress") -> dict[str, Any]:
    first = one.curves["examples"][0]
    return {
        "metric": "acc",
        "acc": first.accuracy,
        "stderr": first.accuracy_stderr,
        "shots": one.shots,
        "contaminated": None,
        "stress": {
            "prior": one.prior,
            "room": one.room,
            "kinds": {
                kind: {
                    "half_point": one.half_point(kind),
                    "half_distance": one.half_distance(kind),
                    "curve": [asdict(point) for point in points],
                }
                for kind, points in one.curves.items()
            },
            "modal": one.modal,
        },
    }
