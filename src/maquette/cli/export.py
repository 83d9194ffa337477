"""Write a run as a folder that transformers opens. Forward multipliers are folded into the weights.

example: maquette export hf runs/first exported/first
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=("hf",))
    parser.add_argument("run", help="a run directory")
    parser.add_argument("out", help="folder to write")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.serving.hugging_face import export_model
    from maquette.training.start import weights_file

    path = Path(arguments.run).expanduser()
    name = export_model(path, Path(arguments.out).expanduser(), weights_file(path))
    Terminal(arguments.json).say(f"exported: {arguments.out} (transformers.{name})")
    return {"path": arguments.out, "class": name}
