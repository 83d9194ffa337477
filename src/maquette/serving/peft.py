"""LoRA adapters in the format of the package peft, both ways, without it.

    adapter_config.json          rank, alpha, the linear maps that are changed
    adapter_model.safetensors    lora_A (rank, in) and lora_B (out, rank) of each, by their names

Where one linear map of ours is several of theirs (queries, keys, values), each of theirs has our A and its
rows of B on the way out; on the way in their A's are stacked, and B is made of their blocks, so that the
change is the same and the rank their sum. Multipliers of maximal-update parametrisation are folded into B, as
an exported model has them. Left out: changes of embeddings and outputs, ranks by pattern, DoRA.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.adaptation.adapters.adapter import adapters_of
from maquette.adaptation.adapters.config import LoRAConfig
from maquette.adaptation.adapters.lora import LoRA, linear_layers
from maquette.adaptation.adapters.store import (
    ADAPTER_WEIGHTS,
    Description,
    base_hash,
)
from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, read_json, write_json
from maquette.corpus.terms import Term
from maquette.corpus.terms_card import write_terms
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import copy_tokenizer
from maquette.models.base import Model
from maquette.models.decoder import Decoder
from maquette.models.store import load_config, load_tensors, save_config, save_tensors
from maquette.serving.hugging_face_config import family_of
from maquette.serving.hugging_face_tensors import (
    fold_rows,
    is_transposed,
    joined,
    part_sizes,
    their_names,
    to_family,
)

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
MODEL = "base_model.model."
"""what peft puts before the names of a model's modules"""
UNREAD = ("rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "use_dora")
"""settings that change what is computed, and are not read"""
BASES = ("pissa", "olora", "corda", "loftq", "eva")
"""beginnings of `init_lora_weights` that change the base's weights too"""


def export_peft(run: Path, model: Model, out: Path, terms: Sequence[Term] = ()) -> int:
    """Write the LoRA of an adapted run as a folder that peft opens; returns its number of linear maps.

    The base for it is the base as `export hf` writes it. terms: what the run's sources forbid. Raises
    WrongUse for another kind of adapter or of model.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    adapters = list(adapters_of(model).values())
    adapter = adapters[0] if len(adapters) == 1 else None
    if not isinstance(model, Decoder) or not isinstance(adapter, LoRA):
        raise WrongUse(f"{run} is no decoder adapted by lora: only that is exported for peft")
    family = family_of(model.config)
    tensors: dict[str, Tensor] = {}
    for place, change in adapter.changes.items():
        name, b = f"{place}.weight", change.lora_b.detach().float().clone()
        fold_rows(model, name, b)
        for their, part in to_family(family, model.config, {name: b}).items():
            module = MODEL + their.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = change.lora_a.detach().float().clone()
            tensors[f"{module}.lora_B.weight"] = part.T if is_transposed(family, name) else part
    modules = {n.removeprefix(MODEL).rpartition(".lora_")[0] for n in tensors}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": adapter.config.rank,
        "lora_alpha": adapter.config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": family == "gpt2",
        "target_modules": sorted(modules),
        "inference_mode": True,
    }
    with directory_aside(out) as folder:
        write_json(folder / CONFIG, config)
        save_tensors(folder / TENSORS, tensors)
        write_terms(folder, terms)
    return len(modules)


def import_peft(source: Path, base: Path, weights: Path, out: Path) -> LoRAConfig:
    """Read a LoRA of peft into the adapted run `out` of the run `base`, whose weights file is `weights`.

    Raises UserError for what Maquette does not compute, and for tensors that have no place in the base.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    scale = _scale(source)
    theirs = load_tensors(source / TENSORS)
    config = load_config(base)
    model = config.build()
    if not isinstance(model, Decoder):
        raise WrongUse(f"{base} is a {config.kind}: adapters of peft are read for decoders")
    family = family_of(model.config)
    changes = {
        name: change
        for name in linear_layers(model)
        if (change := _change(family, model, name, theirs)) is not None
    }
    if theirs:
        raise UserError(
            f"{source} changes {min(theirs)}, which {base} has no place for: "
            f"only linear maps inside blocks are read"
        )
    rank = max(len(a) for a, _ in changes.values())
    adapter = LoRAConfig(rank=rank, alpha=scale * rank, target_modules=tuple(changes))
    described = Description(adapter, str(base.resolve()), base_hash(base, weights), 0)
    tensors = {}
    for name, (a, b) in changes.items():
        tensors[f"{described.prefix}{name}.lora_a"] = _padded(a, rank, 0)
        tensors[f"{described.prefix}{name}.lora_b"] = _padded(b, rank, 1)
    with directory_aside(out) as folder:
        save_config(folder, config)
        described.save(folder)
        save_tensors(folder / ADAPTER_WEIGHTS, tensors)
        if (base / TOKENIZER).exists():
            copy_tokenizer(base, folder)
    return adapter


def _change(
    family: str, model: Decoder, name: str, theirs: dict[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """A (rank, in) and B (out, rank) of a linear map, taken out of their tensors; None: unchanged."""
    whole = f"{name}.weight"
    modules = [their.removesuffix(".weight") for their in their_names(family, whole)]
    parts = [_taken(theirs, module) for module in modules]
    rank = sum(len(part[0]) for part in parts if part is not None)
    if not rank:
        return None
    fan_out, fan_in = model.get_submodule(name).weight.shape  # type: ignore[misc]
    rows, a, columns = [], [], 0
    for size, part in zip(part_sizes(model.config, len(parts)) or [fan_out], parts, strict=True):
        block = torch.zeros(size, rank)
        if part is not None:
            if part[0].shape[1] != fan_in or part[1].shape[0] != size:
                raise UserError(f"the adapter belongs to another model: {name} has other shapes")
            block[:, columns : columns + len(part[0])] = part[1]
            columns += len(part[0])
            a.append(part[0])
        rows.append(block.T if is_transposed(family, whole) else block)
    b = joined(family, model.config, whole, rows).contiguous().clone()
    fold_rows(model, whole, b, back=True)
    return torch.cat(a), b


def _taken(theirs: dict[str, Tensor], module: str) -> tuple[Tensor, Tensor] | None:
    """A and B of one of their modules, which are taken out of `theirs`."""
    pair = []
    for which in "AB":
        tensor = theirs.pop(f"{MODEL}{module}.lora_{which}.weight", None)
        if tensor is not None:
            pair.append(tensor.float())
    if len(pair) == 1:
        raise UserError(f"the adapter is cut short: {module} has one matrix of two")
    return (pair[0], pair[1]) if pair else None


def _scale(source: Path) -> float:
    """The factor of the changes. Raises UserError for an adapter of another kind."""
    if not (source / CONFIG).exists() or not (source / TENSORS).exists():
        raise UserError(f"{source} holds no adapter of peft ({CONFIG} and {TENSORS})")
    config: Any = read_json(source / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else "no object"
        raise UserError(f"{source / CONFIG} is {kind}: Maquette reads LORA")
    unread = [name for name in UNREAD if config.get(name)]
    if config.get("bias", "none") != "none":
        unread.append("bias")
    if str(config.get("init_lora_weights", "")).lower().startswith(BASES):
        unread.append("init_lora_weights")
    if unread:
        raise UserError(f"{source / CONFIG} sets {unread[0]}, which Maquette does not compute")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(f"{source / CONFIG} names no r and lora_alpha: it is no LoRA of peft")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _padded(tensor: Tensor, size: int, dimension: int) -> Tensor:
    """A tensor with zeros up to a size in one dimension."""
    shape = list(tensor.shape)
    shape[dimension] = size - shape[dimension]
    return torch.cat([tensor, tensor.new_zeros(shape)], dimension)
