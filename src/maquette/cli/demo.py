"""The main job, end to end: text -> corpus -> plan -> train -> samples -> evaluation -> report.

Without a source it takes the text that is already on this machine; name a folder for your own. With --chat
the run is then tuned to answer, as RUN-chat, on questions that are made and on some that are cut from its
own documents; the report of that run has the scores of both, and at the end you talk to it. Two thirds of
the minutes are of the base, a third of the tuning.

--resume goes on with a demo that was cut off, with its own text and plan, to its own report.

example: maquette demo
         maquette demo ~/Documents --minutes 10
         maquette demo ~/Documents --chat
         maquette demo --chat --resume --run runs/demo
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal, TrainingProgress, clock

if TYPE_CHECKING:
    from maquette.workshop.demo import Demo

MINUTES, CHAT_MINUTES = 3.5, 9.0
BASE_SHARE = 2 / 3  # of the minutes, with --chat


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="*", help="files and folders (none: this machine's text)")
    parser.add_argument("--minutes", type=float, help="of training (3.5; with --chat 9)")
    parser.add_argument("--run", help="the run's directory (default: runs/demo)")
    parser.add_argument("--chat", action="store_true", help="go on to a model that answers")
    parser.add_argument("--resume", action="store_true",
                        help="go on with a demo that was cut off")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.training.run import RECIPE, RunDirectory, free_name
    from maquette.workshop.chat_demo import GO_ON, check_room
    from maquette.workshop.demo import demo
    from maquette.workshop.demo_plan import is_demo
    from maquette.workshop.report import PLAN

    chat, resume = arguments.chat, arguments.resume
    usual = CHAT_MINUTES if chat else MINUTES
    minutes = usual if arguments.minutes is None else arguments.minutes
    if not 0.05 <= minutes <= 60 * 24 * 30:
        raise WrongUse(f"minutes is {minutes:g}: use 0.05 to 43,200")
    path = free_name(Path("runs"), "demo") if not resume else Path("runs/demo")
    path = Path(arguments.run) if arguments.run else path
    if arguments.sources and resume and (path / RECIPE).exists():
        raise WrongUse(f"{path} goes on with its own text: leave {arguments.sources[0]} out")
    if chat:
        check_room(answering_run(path), resume)  # before minutes of training
    terminal = Terminal(arguments.json)
    result: dict[str, Any] = {"run": str(path)}
    begun = resume and (path / RECIPE).exists()
    reported = (path / PLAN).exists() or not is_demo(
        RunDirectory(path)
    )  # else its report is to come
    if not (begun and chat and reported):
        with terminal.stages() as progress:
            made = demo(
                arguments.sources,
                path,
                minutes=minutes * (BASE_SHARE if chat else 1),
                say=terminal.say,
                observer=TrainingProgress(terminal),
                progress=progress,
                resume=resume,
                **({"go_on": GO_ON} if chat else {}),
            )
        result = told(made, terminal)
    if chat:
        return result | answering(path, minutes * (1 - BASE_SHARE), resume, terminal)
    terminal.say("\nnext:")
    terminal.say(f'  maquette generate {path} "def " --tokens 80')
    terminal.say(f"  maquette eval {path} --text README.md")
    terminal.say(f'  maquette audit trace {path} "any text"')
    terminal.say("  maquette demo ~/Documents --minutes 10")
    return result


def answering_run(base: Path) -> Path:
    """The directory of the run that answers."""
    return base.with_name(f"{base.name}-chat")


def answering(base: Path, minutes: float, resume: bool, terminal: Terminal) -> dict[str, Any]:
    """Tune the base to answer; the scores of both, and a prompt where there is a terminal."""
    from maquette.cli.chat import talk
    from maquette.workshop.chat_demo import chat_demo, table

    path = answering_run(base)
    with terminal.stages() as progress:
        made = chat_demo(
            base,
            path,
            seconds=60 * minutes,
            resume=resume,
            say=terminal.say,
            observer=TrainingProgress(terminal),
            progress=progress,
        )
    terminal.say()
    terminal.table(["", *(station.name for station in made.stations)], table(made.stations))
    for asked, answer in made.stations[-1].conversation:
        terminal.say(f"\n> {asked}\n{answer}")
    terminal.say(f"\nreport: {made.report}")
    terminal.say(f"time: {clock(made.seconds)}\n\nnext:")
    terminal.say(f"  maquette chat {path}")
    if sys.stdin.isatty() and sys.stdout.isatty() and terminal.file is sys.stdout:
        talk(path, terminal)
    return {
        "chat": {
            "run": str(path),
            "report": str(made.report),
            "examples": made.examples,
            "stations": [station.to_dict() for station in made.stations],
            "seconds": round(made.seconds, 2),
        }
    }


def told(made: "Demo", terminal: Terminal) -> dict[str, Any]:
    """Print the results of the demo; returns them for --json."""
    terminal.say()
    for sample in made.samples:
        terminal.say(f"sample: {sample!r}")
    terminal.say()
    names = list(made.compressed)
    rows = [
        [part, f"{score.bits_per_byte:.3f}", *(f"{made.compressed[n][part]:.3f}" for n in names)]
        for part, score in made.scores.items()
    ]
    terminal.table(["bits per byte", "this model", *names], rows)
    forecast, reached = made.forecast, made.scores["all"].bits_per_byte
    terminal.say(
        f"\nbits per byte: {reached:.3f}; forecast {forecast.bits_per_byte:.3f} "
        f"({forecast.low:.3f} to {forecast.high:.3f})"
    )
    if made.audit["verbatim"]:
        terminal.say(
            f"verbatim: {100 * made.audit['verbatim']['fraction']:.2f} % of what it writes stands in "
            f"the training text in runs of {made.audit['verbatim']['least_bytes']} bytes or more"
        )
    terminal.say(f"report: {made.report}")
    terminal.say(f"time: {clock(made.seconds)}")
    return {
        "run": str(made.run),
        "report": str(made.report),
        "loss_first": made.loss_first,
        "loss_last": made.outcome.heldout_loss,
        "loss_train": made.outcome.loss,
        "bits_per_byte": reached,
        "bits_per_byte_forecast": forecast.bits_per_byte,
        "compressors": {n: v["all"] for n, v in made.compressed.items()},
        "components": {part: s.bits_per_byte for part, s in made.scores.items()},
        "verbatim": made.audit["verbatim"] and made.audit["verbatim"]["fraction"],
        "tokens": made.outcome.tokens,
        "tokens_per_second": made.outcome.tokens_per_second,
        "flops_utilisation": made.outcome.flops_utilisation,
        "seconds": round(made.seconds, 2),
    }
