"""Measure claims of the catalogue again, on this machine.

Each writes claims/SYSTEM.CLAIM.json and a picture. --quick runs the same code at toy size, to see
that it works; its numbers are no evidence and are marked so.

example: maquette reproduce scaling.power-law
         maquette reproduce gpt2 --quick
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal, clock


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="SYSTEM[.CLAIM]", help="none: all of them")
    parser.add_argument("--quick", action="store_true", help="toy size")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each arm (default: 2)")
    parser.add_argument("--out", default="claims", help="folder of results (default: claims)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse
    from maquette.systems.claims import Lab, measure, select
    from maquette.systems.gallery import number

    if arguments.seeds < 1:
        raise WrongUse(f"seeds is {arguments.seeds}: use 1 or more")
    terminal = Terminal(arguments.json)
    lab = Lab(arguments.seeds, arguments.quick, terminal.say)
    found = []
    for claim in select(arguments.names):
        minutes = "seconds" if arguments.quick else f"about {claim.minutes:g} minutes on 2 cores"
        terminal.say(f"{claim.id}: {claim.statement} ({minutes})")
        result = measure(claim, lab, Path(arguments.out))
        verdict = (
            "toy size, no evidence" if result.quick else ("holds" if result.holds else "FAILS")
        )
        terminal.say(
            f"  {result.metric}: {number(result.measured)}, {result.bound} {result.threshold:g} wanted, "
            f"control {number(result.control_measured)}: {verdict} ({clock(result.seconds)})"
        )
        found.append(
            {
                "id": result.id,
                "measured": result.measured,
                "interval": result.interval,
                "threshold": result.threshold,
                "control": result.control_measured,
                "holds": result.holds,
                "quick": result.quick,
                "seconds": result.seconds,
            }
        )
    return {"claims": found}
