"""Write a run with weights in 8 or 4 bits, and say what that costs on its own held-out text.

The new run is an ordinary run: generate, chat, eval and export take it, and adapters are trained on it.
Printed are the bits per weight (all bytes counted, scales too), the size on disk and in memory, and the bits
per byte of the run's held-out text, with the change.

example: maquette quantise runs/first runs/first-int4 --bits int4
         maquette quantise runs/first runs/first-int8 --bits int8 --compare
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.workshop.quantise import Row

BITS = {"int8": 8, "int4": 4}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--bits", choices=tuple(BITS), default="int4", help="of a weight (int4)")
    parser.add_argument("--group", type=int, default=32,
                        help="number of columns that share a scale (32)")  # fmt: skip
    parser.add_argument("--asymmetric", action="store_true",
                        help="a minimum beside each scale")  # fmt: skip
    parser.add_argument("--compare", action="store_true", help="score all other kinds too")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.nn.quantised import Format
    from maquette.workshop.quantise import quantise_run

    form = Format(bits=BITS[arguments.bits], group=arguments.group, asymmetric=arguments.asymmetric)
    terminal = Terminal(arguments.json)
    rows = quantise_run(
        Path(arguments.run), Path(arguments.out), form, compare=arguments.compare, say=terminal.say
    )
    terminal.table(
        ["weights", "bits/weight", "on disk", "in memory", "bits/byte", "change"],
        [cells(row) for row in rows],
    )
    terminal.say(f"written: {arguments.out}")
    return {"path": arguments.out, "rows": [asdict(row) for row in rows]}


def cells(row: "Row") -> list[str]:
    """A row of the table."""
    return [
        row.weights,
        f"{row.bits_per_weight:.3f}",
        "-" if row.disk is None else f"{row.disk / 1e6:.2f} MB",
        f"{row.memory / 1e6:.2f} MB",
        "-" if row.bits_per_byte is None else f"{row.bits_per_byte:.4f}",
        "-" if row.change is None else f"{100 * row.change:+.2f} %",
    ]
