"""A run as a GGUF file: its weights tensor by tensor, its tokenizer, its chat template, its terms.

Weights of a run of its own are read from the disk one after the other; those of an adapted run are its base's
with the LoRA merged into them, and those of a quantised run are written out, which takes the whole model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from maquette.adaptation.adapters.lora import merge_and_detach
from maquette.adaptation.adapters.store import ADAPTER
from maquette.base.errors import UserError
from maquette.corpus.terms import Term, joined_licences
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.models.config import DecoderConfig
from maquette.models.quantised import dequantise, stored_forms
from maquette.models.store import SavedTensors, load_config
from maquette.serving.gguf import Exported, export_gguf
from maquette.training.initial_model import weights_file
from maquette.training.trained_model import open_model
from maquette.workshop.chat import exported_template


def export_run(
    run: Path, out: Path, kind: str, terms: list[Term], say: Callable[[str], None]
) -> Exported:
    """Write a run as a GGUF file whose matrices are of the type `kind`.

    terms: of the run, for its metadata. say: is told what llama.cpp does otherwise. Raises UserError for a
    model that llama.cpp does not compute, WrongUse for adapters that cannot be merged.
    """
    config = load_config(run)
    if not isinstance(config, DecoderConfig):
        raise UserError(
            f"{run} is a model of kind {config.kind}, which llama.cpp does not compute: only decoders can "
            f"be exported"
        )
    parameters: Mapping[str, Tensor]
    if (run / ADAPTER).exists() or stored_forms(weights_file(run)):
        model = open_model(run)
        if dequantise(model):
            say("the run is quantised: its weights are written out before they get their type")
        merge_and_detach(model)
        parameters = dict(model.named_parameters())
    else:
        parameters = SavedTensors(weights_file(run))
    there = (run / TOKENIZER).exists()
    return export_gguf(
        out,
        config,
        parameters,
        load_tokenizer(run / TOKENIZER) if there else None,
        kind=kind,
        name=run.resolve().name,
        licence=joined_licences(terms),
        chat_template=exported_template(run) if there else None,
        say=say,
    )
