"""Read a Hugging Face model (GPT-2, GPT-J, LLaMA or BLOOM; safetensors) into a run directory.

example: maquette import hf ~/models/gpt2 runs/gpt2
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=("hf",))
    parser.add_argument("source", help="folder with config.json and model.safetensors")
    parser.add_argument("run", help="run directory to write")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.serving.hugging_face import import_model

    config = import_model(Path(arguments.source).expanduser(), Path(arguments.run).expanduser())
    Terminal(arguments.json).say(f"imported: {arguments.run}")
    return {"path": arguments.run, "config": asdict(config)}
