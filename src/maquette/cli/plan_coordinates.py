"""Check that activations keep their size as the width grows, and beside it that they would not.

A few steps of the recipe are taken at several widths, under maximal-update rules and under the
standard parametrisation. Under the first the mean size of every activation should stay as it is;
where it grows, a learning rate that was tuned on a small model does not hold for a large one.

example: maquette plan coordinates --picture coordinates.png
         maquette plan coordinates gpt2-char --widths 64 128 256 512
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", default="tiny", metavar="RECIPE",
                        help="a recipe of the catalogue, or a .yaml file (default: tiny)")  # fmt: skip
    parser.add_argument("--widths", type=int, nargs="+", help="at least two (default: four)")
    parser.add_argument("--seeds", type=int, default=2, help="(default: 2)")
    parser.add_argument("--picture", metavar="FILE", help="draw it as a PNG")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.experiments.catalogue import recipe_named
    from maquette.training.recipe import language
    from maquette.workshop.coordinates import coordinate_check

    terminal = Terminal(arguments.json)
    result, chart = coordinate_check(
        language(recipe_named(arguments.recipe)), arguments.widths, arguments.seeds
    )
    rows = [
        [tensor, *(f"{result['slopes'][kind][tensor][-1]:+.2f}" for kind in result["slopes"])]
        for tensor in next(iter(result["slopes"].values()))
    ]
    terminal.table(["slope of log size over log width", *result["slopes"]], rows)
    terminal.say(result["verdict"])
    if arguments.picture:
        from maquette.base.files import write_atomic
        from maquette.workshop.charts import png

        write_atomic(Path(arguments.picture), png(chart))
        terminal.say(f"picture: {arguments.picture}")
        result["picture"] = arguments.picture
    return result
