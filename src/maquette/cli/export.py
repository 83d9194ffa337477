"""Write a run as a folder that transformers opens (hf), its LoRA as one that peft opens, or a GGUF file.

A GGUF file is what llama.cpp, Ollama and LM Studio open; --type says how many bits its weights have.
Forward multipliers are folded into the weights. With hf and gguf a LoRA is merged into them.
Refused is a run one of whose sources, or whose base's, forbids to give away what was trained on it. What its
sources forbid else goes along: with hf and peft as terms.json and a model card, in a GGUF file as the
name of its licence.

example: maquette export hf runs/first exported/first
         maquette export peft runs/tuned exported/tuned
         maquette export gguf runs/first exported/first.gguf --type Q4_K
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal, amount

if TYPE_CHECKING:
    from maquette.corpus.terms import Term

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K")
SHOWN = 3  # tensors that fell back, in a line


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=("hf", "peft", "gguf"))
    parser.add_argument("run", help="a run directory")
    parser.add_argument("out", help="folder to write; of gguf a file")
    parser.add_argument("--type", choices=TYPES,
                        help="of gguf: how its matrices are kept (default: F16)")  # fmt: skip
    parser.add_argument("--accept-terms", action="store_true",
                        help="export in spite of terms that forbid it")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse
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
    if arguments.type and arguments.format != "gguf":
        raise WrongUse(f"--type is of gguf: leave it out of export {arguments.format}")
    terms = check_export(path, arguments.accept_terms)
    for term in terms:
        Terminal(arguments.json).say(f"its terms: {term} forbids {' and '.join(term.forbids)}")
    if arguments.format == "gguf":
        return _gguf(arguments, path, terms)
    out, model = Path(arguments.out).expanduser(), open_model(path)
    if arguments.format == "hf" and quantised_modules(model):
        Terminal(arguments.json).say("the run is quantised: its weights are written out in fp32")
    if arguments.format == "peft":
        maps = export_peft(path, model, out, terms)
        Terminal(arguments.json).say(f"exported: {arguments.out} ({maps} linear maps)")
        return {"path": arguments.out, "maps": maps}
    chat = exported_template(path)
    caption_length = caption_length_of(path) if isinstance(load_config(path), ClipConfig) else None
    name = export_model(path, out, model, caption_length, chat, terms)
    Terminal(arguments.json).say(f"exported: {arguments.out} (transformers.{name})")
    return {"path": arguments.out, "class": name}


def _gguf(arguments: argparse.Namespace, path: Path, terms: "list[Term]") -> dict[str, Any]:
    """One file for llama.cpp."""
    from dataclasses import asdict

    from maquette.workshop.export_gguf import export_run

    terminal, notes = Terminal(arguments.json), list[str]()
    out = Path(arguments.out).expanduser()
    made = export_run(path, out, arguments.type or "F16", terms, notes.append)
    for note in notes:
        terminal.say(note)
    if made.fallen_back:
        names = ", ".join(list(made.fallen_back)[:SHOWN])
        more = ", ..." if len(made.fallen_back) > SHOWN else ""
        kinds = " or ".join(sorted(set(made.fallen_back.values())))
        terminal.say(
            f"{kinds} where rows do not fill blocks of {arguments.type}: {names}{more} "
            f"({len(made.fallen_back)} in all)"
        )
    terminal.say(
        f"exported: {arguments.out} ({amount(made.bytes, 'B')}, {made.bits:.2f} bits a weight); "
        f"next: llama-server -m {arguments.out}"
    )
    return {"path": arguments.out, "notes": notes} | asdict(made)
