"""Write a run as a folder that transformers opens (hf), or its LoRA as one that peft opens.

Forward multipliers are folded into the weights. With hf a LoRA is merged into them.
Refused is a run one of whose sources, or whose base's, forbids to give away what was trained on it.

example: maquette export hf runs/first exported/first
         maquette export peft runs/tuned exported/tuned
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=("hf", "peft"))
    parser.add_argument("run", help="a run directory")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--accept-terms", action="store_true",
                        help="export in spite of terms that forbid it")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.models.clip_config import ClipConfig
    from maquette.models.quantised import quantised_modules
    from maquette.models.store import load_config
    from maquette.serving.hugging_face import export_model
    from maquette.serving.peft import export_peft
    from maquette.training.datasets.encoder import caption_length_of
    from maquette.training.run_terms import check_export
    from maquette.training.trained_model import open_model
    from maquette.workshop.chat import exported_template

    path = Path(arguments.run).expanduser()
    for term in check_export(path, arguments.accept_terms):
        Terminal(arguments.json).say(f"its terms: {term} forbids {' and '.join(term.forbids)}")
    out, model = Path(arguments.out).expanduser(), open_model(path)
    if arguments.format == "hf" and quantised_modules(model):
        Terminal(arguments.json).say("the run is quantised: its weights are written out in fp32")
    if arguments.format == "peft":
        maps = export_peft(path, model, out)
        Terminal(arguments.json).say(f"exported: {arguments.out} ({maps} linear maps)")
        return {"path": arguments.out, "maps": maps}
    chat = exported_template(path)
    caption_length = caption_length_of(path) if isinstance(load_config(path), ClipConfig) else None
    name = export_model(path, out, model, caption_length, chat)
    Terminal(arguments.json).say(f"exported: {arguments.out} (transformers.{name})")
    return {"path": arguments.out, "class": name}
