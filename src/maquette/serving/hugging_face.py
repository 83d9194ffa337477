"""Round trips with Hugging Face: GPT-2, GPT-J, LLaMA and BLOOM checkpoints, in and out.

Reading needs neither transformers nor trust: config.json (`hugging_face_config.py`), safetensors
(`hugging_face_tensors.py`; pickled weights are refused) and the tokenizer with the files that name its
special tokens (`hugging_face_tokenizer.py`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from maquette.adaptation.adapters.lora import merge_and_detach
from maquette.base.errors import UserError
from maquette.base.files import directory_aside, read_json, write_atomic, write_json
from maquette.corpus.examples.chat_template import CHAT_TEMPLATE
from maquette.corpus.foreign_tokenizer import Foreign
from maquette.corpus.special_tokens import read_settings
from maquette.corpus.terms import Term
from maquette.corpus.terms_card import write_terms
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer, save_tokenizer
from maquette.models.base import Model
from maquette.models.clip import Clip
from maquette.models.clip_config import ClipConfig
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.quantised import dequantise
from maquette.models.store import (
    CONFIG,
    WEIGHTS,
    load_config,
    load_model,
    load_parameters,
    save_config,
    save_tensors,
)
from maquette.serving.hugging_face_config import (
    CLASSES,
    family_of,
    read_config,
    token_ids,
    write_config,
)
from maquette.serving.hugging_face_tensors import folded, from_family, read_tensors, to_family
from maquette.serving.hugging_face_tokenizer import read_tokenizer, write_tokenizer


def import_model(
    source: Path, out: Path, say: Callable[[str], None] = lambda text: None
) -> DecoderConfig | ClipConfig:
    """Read a Hugging Face folder into a run directory `out` that generates and evaluates.

    say: is told what of the folder cannot be used. Raises UserError for what Maquette does not compute,
    for tensors that have no place, and where there is no tokenizer that can be read.
    """
    if not (source / CONFIG).exists():
        raise UserError(f"{source} holds no Hugging Face model (no {CONFIG})")
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    theirs = read_json(source / CONFIG)
    if not isinstance(theirs, dict):
        raise UserError(f"{source / CONFIG} is no JSON object: restore it")
    family = theirs.get("model_type")
    if family == "clip":
        from maquette.serving.hugging_face_clip import import_clip

        return import_clip(source, out, say)
    if not isinstance(family, str) or family not in CLASSES:
        known = ", ".join([*CLASSES, "clip"])
        raise UserError(f"{source} is a {family} model: Maquette reads {known}")
    config = read_config(family, theirs)
    model = Decoder(config)
    load_parameters(model, from_family(family, config, read_tensors(source)), source)
    tokenizer = read_tokenizer(source, config.vocabulary, say)
    with directory_aside(out) as folder:
        save_config(folder, config)
        save_tensors(folder / WEIGHTS, dict(model.named_parameters()))
        save_tokenizer(tokenizer, folder / TOKENIZER)
        chat = read_settings(source).get("chat_template")
        if not isinstance(tokenizer, Foreign) and isinstance(
            chat, str
        ):  # its settings are not kept
            write_atomic(folder / CHAT_TEMPLATE, chat)
    return config


def export_model(
    run: Path,
    out: Path,
    model: Model | None = None,
    caption_length: int | None = None,
    chat_template: str | None = None,
    terms: Sequence[Term] = (),
) -> str:
    """Write a run as a folder that transformers opens; returns the class that reads it.

    model: the run's where that is not what its weights file alone says; quantised weights are written out,
    and low-rank adapters merged into them. caption_length: tokens that a CLIP run reads of a caption; see
    `export_clip`. chat_template: how the run learnt to write conversations. terms: what its sources forbid,
    which goes along. Raises WrongUse for adapters of other kinds.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    model = load_model(run) if model is None else model
    dequantise(model)
    merge_and_detach(model)
    if isinstance(model, Clip):
        from maquette.serving.hugging_face_clip import export_clip

        return export_clip(model, run, out, caption_length, terms)
    if not isinstance(model, Decoder):
        raise UserError(
            f"{run} is a model of kind {load_config(run).kind}, which transformers has no class for: "
            f"only decoders and CLIPs can be exported"
        )
    family = family_of(model.config)
    there = (run / TOKENIZER).exists()
    tokenizer = load_tokenizer(run / TOKENIZER) if there else None
    special = tokenizer.special if tokenizer else None
    with directory_aside(out) as folder:
        save_tensors(folder / WEIGHTS, to_family(family, model.config, folded(model)))
        if tokenizer:
            write_tokenizer(tokenizer, folder, model.config.context, chat_template)
        write_json(folder / CONFIG, write_config(family, model.config, special))
        write_json(folder / "generation_config.json", token_ids(special, padding=True))
        write_terms(folder, terms)
    return CLASSES[family]
