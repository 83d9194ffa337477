"""Read a Hugging Face model (GPT-2, GPT-J, LLaMA, BLOOM or CLIP; safetensors) into a run directory.

Its tokenizer comes along, with what begins and ends its texts (tokenizer_config.json,
generation_config.json).

example: maquette import hf ~/models/gpt2 runs/gpt2
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=("hf",))
    parser.add_argument(
        "source", help="folder with config.json, model.safetensors and the tokenizer"
    )
    parser.add_argument("run", help="run directory to write")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.serving.hugging_face import import_model

    terminal = Terminal(arguments.json)
    notes: list[str] = []

    def say(note: str) -> None:
        notes.append(note)
        terminal.say(note)

    source, out = Path(arguments.source).expanduser(), Path(arguments.run).expanduser()
    config = import_model(source, out, say)
    terminal.say(f"imported: {arguments.run}")
    return {"path": arguments.run, "config": asdict(config), "notes": notes}
