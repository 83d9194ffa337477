"""List runs, or compare some: how far, how good, how fast, and in which fields they differ.

example: maquette runs
         maquette runs runs/first runs/second
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", help="runs to compare (none: all under runs/)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.workshop.run_comparison import differences, find, summary

    terminal = Terminal(arguments.json)
    summaries = [summary(path) for path in find([Path(p) for p in arguments.paths])]
    if not summaries:
        terminal.say("no runs here: maquette demo makes one")
    terminal.table(
        ["run", "state", "step", "seen", "loss", "held out", "a second", "of peak"],
        [
            [
                s["run"],
                s["state"],
                f"{s['step']:,}/{s['steps']:,}",
                f"{s['tokens']:,} {s['unit']}",
                _number(s["loss"]),
                _number(s["heldout_loss"]),
                f"{s['tokens_per_second']:,.0f}" if s["tokens_per_second"] else "-",
                f"{100 * s['flops_utilisation']:.0f} %" if s["flops_utilisation"] else "-",
            ]
            for s in summaries
        ],
    )
    changed = differences([Path(s["run"]) for s in summaries]) if arguments.paths else {}
    if changed:
        terminal.say()
        terminal.table(
            ["field", *(s["run"] for s in summaries)], [[k, *v] for k, v in changed.items()]
        )
    return {"runs": summaries, "differences": changed}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
