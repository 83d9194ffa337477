"""One rank of a prepared run; `maquette train --ranks` starts as many as asked."""

import argparse
import os

from maquette.cli.terminal import Terminal, TrainingProgress


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run")


def run(arguments: argparse.Namespace) -> None:
    from maquette.base.processes import die_with
    from maquette.parallel.group import join
    from maquette.training.run import RunDirectory
    from maquette.workshop.train import run_rank

    die_with(int(os.environ["MAQUETTE_LAUNCHER"]))
    with join(RunDirectory(arguments.run).recipe().device) as group:
        observer = TrainingProgress(Terminal(as_json=True)) if group.first else None
        run_rank(RunDirectory(arguments.run), group, observer)
