"""A run whose adapter is merged into its weights: an ordinary model, as fast as its base."""

import shutil
from pathlib import Path

from maquette.adaptation.adapters.adapter import adapters_of
from maquette.adaptation.adapters.lora import merge_and_detach
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, write_atomic
from maquette.corpus.examples.chat_template import CHAT_TEMPLATE
from maquette.corpus.special_tokens import SPECIAL
from maquette.corpus.terms_card import TERMS
from maquette.corpus.text.store import TOKENIZER
from maquette.models.quantised import dequantise
from maquette.models.store import WEIGHTS, load_config, save_config, save_tensors, tensors_of
from maquette.training.run import CORPUS
from maquette.training.trained_model import open_model
from maquette.workshop.chat import learnt_template
from maquette.workshop.gates import gates, take_gates

KEPT = (TOKENIZER, SPECIAL, CORPUS, TERMS)
"""files that the merged run takes along"""


def merge(run: Path, out: Path, base: Path | None = None) -> None:
    """Write the model of an adapted run, whole, into the folder `out`.

    base: where its base is now. Raises WrongUse for a run without an adapter, and for a kind of adapter that
    cannot be merged; UserError for what is wrong outside.
    """
    if out.exists():
        raise WrongUse(f"{out} exists: choose another --run")
    if not run.is_dir():
        raise UserError(f"{run} does not exist: name a run directory")
    model = open_model(run, base)
    closed = gates(run) if base is None else (run, *gates(base))
    if not adapters_of(model):
        raise WrongUse(f"{run} is no adapted run: there is nothing to merge")
    dequantise(model)
    merge_and_detach(model)
    with directory_aside(out) as folder:
        save_config(folder, load_config(run))
        save_tensors(folder / WEIGHTS, tensors_of(model))
        for name in KEPT:
            if (run / name).exists():
                shutil.copyfile(run / name, folder / name)
        take_gates(closed, folder)
        template = learnt_template(run)
        if template is not None:  # a run that it began with may have learnt it
            write_atomic(folder / CHAT_TEMPLATE, template)
