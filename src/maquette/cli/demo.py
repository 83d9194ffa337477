"""The main job, end to end: text -> corpus -> plan -> train -> samples -> evaluation -> report.

Without a source it takes the text that is already on this machine; name a folder for your own.

example: maquette demo
         maquette demo ~/Documents --minutes 10
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal, TrainingProgress, clock


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="*", help="files and folders (none: this machine's text)")
    parser.add_argument("--minutes", type=float, default=3.5, help="of training (default: 3.5)")
    parser.add_argument("--run", help="the run's directory (default: runs/demo)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse
    from maquette.training.run import free_name
    from maquette.workshop.demo import demo

    if not 0.05 <= arguments.minutes <= 60 * 24 * 30:
        raise WrongUse(f"minutes is {arguments.minutes:g}: use 0.05 to 43,200")
    path = Path(arguments.run) if arguments.run else free_name(Path("runs"), "demo")
    terminal = Terminal(arguments.json)
    with terminal.stages() as progress:
        made = demo(
            arguments.sources,
            path,
            minutes=arguments.minutes,
            say=terminal.say,
            observer=TrainingProgress(terminal),
            progress=progress,
        )
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
    terminal.say(f"time: {clock(made.seconds)}\n\nnext:")
    terminal.say(f'  maquette generate {made.run} "def " --tokens 80')
    terminal.say(f"  maquette eval {made.run} --text README.md")
    terminal.say(f'  maquette audit trace {made.run} "any text"')
    terminal.say("  maquette demo ~/Documents --minutes 10")
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
