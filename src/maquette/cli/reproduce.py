"""Measure claims of the catalogue again, on this machine.

Each writes SYSTEM.CLAIM.json and a picture into claims/. --quick runs the same code at toy size, to
see that it works. That is a trial and no evidence, as are fewer than two seeds, or code with changes
that no commit holds: trials are marked so and kept in Maquette's home, and none replaces a measurement.

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
    parser.add_argument(
        "--out", help="folder of results (default: claims; for trials, Maquette's home)"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.experiments.catalogue import select
    from maquette.experiments.gallery import number
    from maquette.experiments.lab import Lab
    from maquette.experiments.results import measure

    terminal = Terminal(arguments.json)
    lab = Lab(arguments.seeds, arguments.quick, terminal.say)
    out = Path(arguments.out).expanduser() if arguments.out else lab.folder
    if lab.trial:
        terminal.say(f"a trial ({lab.trial}), no evidence: results go to {out}")
    claims = []
    for claim in select(arguments.names):
        minutes = "seconds" if arguments.quick else f"about {claim.minutes:g} minutes on 2 cores"
        terminal.say(f"{claim.id}: {claim.statement} ({minutes})")
        result = measure(claim, lab, out)
        verdict = "holds" if result.holds else "FAILS"
        verdict = verdict if result.full else f"{result.trial}, no evidence"
        terminal.say(
            f"  {result.metric}: {number(result.measured)}, {result.bound} {result.threshold:g} wanted, "
            f"control {number(result.control_measured)}: {verdict} ({clock(result.seconds)})"
        )
        claims.append(
            {
                "id": result.id,
                "measured": result.measured,
                "interval": result.interval,
                "threshold": result.threshold,
                "control": result.control_measured,
                "holds": result.holds,
                "quick": result.quick,
                "trial": result.trial,
                "seeds": result.seeds,
                "file": str(out / f"{result.id}.json"),
                "seconds": result.seconds,
            }
        )
    return {"claims": claims}
