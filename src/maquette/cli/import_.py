"""Read a Hugging Face model (GPT-2, GPT-J, LLaMA, BLOOM or CLIP; safetensors) or a GGUF file into a run.

Its tokenizer comes along, with what begins and ends its texts (tokenizer_config.json,
generation_config.json).

A GGUF file is llama.cpp's; weights in few bits become fp32 again, as llama.cpp reads them.

A LoRA of peft becomes an adapted run of --base, the run of its model. What the licence of the model forbids
is read from its terms.json, from the licence in its model card (README.md), or from a GGUF file; --terms says
more. It travels on to what is made of the run (docs/terms.md).

example: maquette import hf ~/models/gpt2 runs/gpt2
         maquette import hf ~/models/llama runs/llama --terms llama2
         maquette import gguf ~/models/llama.Q4_K.gguf runs/llama
         maquette import peft ~/adapters/sql runs/sql --base runs/gpt2
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.corpus.terms import Term


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=("hf", "peft", "gguf"))
    parser.add_argument(
        "source",
        help="folder with config.json, model.safetensors and the tokenizer; of gguf a file",
    )
    parser.add_argument("run", help="run directory to write")
    parser.add_argument("--base", help="run of the model that an adapter of peft is for")
    parser.add_argument("--terms", default="", metavar="NAME,...",
                        help="terms of the model: llama2, CC-BY-NC-4.0, forbid-export ...")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.corpus.terms import USES, said_terms, terms_of_licences
    from maquette.corpus.terms_card import read_terms
    from maquette.serving.gguf import import_gguf
    from maquette.serving.hugging_face import import_model
    from maquette.training.run_terms import keep_terms

    terminal = Terminal(arguments.json)
    notes: list[str] = []

    def say(note: str) -> None:
        notes.append(note)
        terminal.say(note)

    source, out = Path(arguments.source).expanduser(), Path(arguments.run).expanduser()
    terms = terms_of_licences(dict.fromkeys(said_terms(arguments.terms), str(source)))
    known = list(dict.fromkeys([*read_terms(source), *terms]))
    for term in known:
        say(f"its terms: {term} {' and '.join(USES[use] for use in term.forbids)}")
    if arguments.format == "peft":
        if terms:
            raise WrongUse("--terms are of a model: leave them out, an adapter has its base's")
        return import_adapter(arguments, source, out, known, terminal)
    if arguments.base is not None:
        raise WrongUse("--base is of an adapter: leave it out")
    if arguments.format == "gguf":
        config: Any
        config, licence = import_gguf(source, out, say)
        known = list(dict.fromkeys([*known, *terms_of_licences({licence: str(source)})]))
    else:
        config = import_model(source, out, say)
    keep_terms(out, known)
    terminal.say(f"imported: {arguments.run}")
    return {"path": arguments.run, "config": asdict(config), "notes": notes}


def import_adapter(
    arguments: argparse.Namespace, source: Path, out: Path, terms: list["Term"], terminal: Terminal
) -> dict[str, Any]:
    """A LoRA of peft as an adapted run. terms: the adapter's own, beside its base's."""
    from maquette.serving.peft import import_peft
    from maquette.training.initial_model import weights_file
    from maquette.training.run_terms import keep_terms, terms_of

    if arguments.base is None:
        raise WrongUse("an adapter is of a model: name the run of its base with --base")
    base = Path(arguments.base).expanduser()
    config = import_peft(source, base, weights_file(base), out)
    keep_terms(out, list(dict.fromkeys([*terms_of(base), *terms])))
    terminal.say(f"imported: {arguments.run}, an adapter of {arguments.base}")
    return {"path": arguments.run, "adapter": asdict(config)}
