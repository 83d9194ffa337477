"""Read a Hugging Face model (GPT-2, GPT-J, LLaMA, BLOOM or CLIP; safetensors) into a run directory.

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
    from maquette.models.clip_config import ClipConfig
    from maquette.serving.hugging_face import import_model
    from maquette.serving.hugging_face_clip import import_notes

    source = Path(arguments.source).expanduser()
    config = import_model(source, Path(arguments.run).expanduser())
    notes = import_notes(source) if isinstance(config, ClipConfig) else []
    terminal = Terminal(arguments.json)
    for note in notes:
        terminal.say(note)
    terminal.say(f"imported: {arguments.run}")
    return {"path": arguments.run, "config": asdict(config), "notes": notes}
