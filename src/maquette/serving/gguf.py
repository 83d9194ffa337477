"""A run as one GGUF file, which llama.cpp opens, and such a file as a run.

Tensors are read, folded, packed and written one at a time. Forward multipliers of maximal-update
parametrisation are multiplied into the weights, as for `export hf`. Matrices are of the type that is asked
for; vectors and learned positions stay in fp32, and with 4 bits the output keeps 6, as in llama.cpp's own
files. A row that blocks of the type do not fill falls back to a smaller block.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.base.files import directory_aside, give_usual_rights, sync
from maquette.corpus.tokenizer import Tokenizer
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.store import WEIGHTS, save_config, write_tensors
from maquette.serving.gguf_blocks import BLOCKS
from maquette.serving.gguf_format import Bytes, GGUFReader, TensorInfo, shown, write_gguf
from maquette.serving.gguf_names import (
    EMBEDDING,
    OUTPUT,
    POSITION,
    architecture_of,
    copies_of,
    from_pairs,
    parts_of,
    read_settings,
    to_pairs,
    write_settings,
)
from maquette.serving.gguf_tokenizer import read_tokenizer, write_tokenizer
from maquette.serving.hugging_face_tensors import folded_parameter

FALLBACK = {"Q4_K": "Q8_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q8_0": "F16"}
OF_OUTPUT = {"Q4_0": "Q6_K", "Q4_K": "Q6_K"}
QUANTISATION_VERSION = 2
NAMED = 3  # tensors in a message
LONGEST_LICENCE = 300  # characters of a name, or of an expression of some


@dataclass(frozen=True)
class Exported:
    """What a file holds.

    bytes: its size. bits: mean bits a weight of its tensors. types: number of tensors of each type.
    fallen_back: tensors that blocks of the type did not fit, with the type they have.
    """

    bytes: int
    bits: float
    types: dict[str, int]
    fallen_back: dict[str, str]


def export_gguf(
    out: Path,
    config: DecoderConfig,
    parameters: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    *,
    kind: str = "F16",
    name: str = "",
    licence: str = "",
    chat_template: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write a decoder as a GGUF file whose matrices are of the type `kind`.

    parameters: the tensors of a model of this config by name, asked for one after the other. name, licence:
    of the model, for its metadata. say: is told what llama.cpp does otherwise. Raises UserError for a model
    that llama.cpp does not compute, and for weights that the type cannot hold.
    """
    if kind not in BLOCKS:
        raise WrongUse(f"unknown type {kind}{did_you_mean(kind, BLOCKS)}")
    if out.exists():
        raise UserError(f"{out} exists: choose another file")
    architecture = architecture_of(config)
    with torch.device("meta"):
        model = Decoder(config)
    metadata: dict[str, Any] = {"general.architecture": architecture}
    metadata |= {"general.name": name or out.stem, "general.file_type": BLOCKS[kind].file_type}
    metadata |= {"general.quantization_version": QUANTISATION_VERSION}
    if licence:
        metadata["general.license"] = licence
    metadata |= write_settings(architecture, config)
    metadata |= write_tokenizer(tokenizer, config.vocabulary, chat_template, say)
    rows: list[tuple[str, tuple[int, ...], str]] = []
    fallen_back: dict[str, str] = {}
    for ours, parameter in model.named_parameters():
        for their, shape in parts_of(architecture, config, ours, tuple(parameter.shape)).items():
            wanted = _wanted(their, shape, kind, config.tied)
            chosen = fitting(wanted, shape[-1])
            if chosen != wanted:
                fallen_back[their] = chosen
            rows += [(theirs, shape, chosen) for theirs in (their, *copies_of(architecture, their))]
    types = {their: chosen for their, _, chosen in rows}

    def data() -> Iterator[Bytes]:
        for ours, _ in model.named_parameters():
            tensor = folded_parameter(model, ours, parameters[ours])
            parts = parts_of(architecture, config, ours, tuple(tensor.shape))
            sizes = [shape[0] for shape in parts.values()]
            for their, part in zip(parts, tensor.split(sizes), strict=True):
                packed = _packed(their, to_pairs(architecture, config, their, part), types[their])
                for _ in (their, *copies_of(architecture, their)):
                    yield packed

    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp")
    try:
        size = write_gguf(aside, metadata, rows, data())
        give_usual_rights(aside)
        sync(aside)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    weights = sum(prod(shape) for _, shape, _ in rows)
    bits = sum(BLOCKS[chosen].bits * prod(shape) for _, shape, chosen in rows) / weights
    return Exported(size, bits, dict(Counter(types.values())), fallen_back)


def _wanted(their: str, shape: tuple[int, ...], kind: str, tied: bool) -> str:
    """The type of a tensor where its rows fit."""
    if len(shape) == 1 or their == POSITION:
        return "F32"
    if their == OUTPUT or (tied and their == EMBEDDING):
        return OF_OUTPUT.get(kind, kind)
    return kind


def fitting(kind: str, row: int) -> str:
    """The type itself, or the one it falls back to, whose blocks fill a row of so many weights."""
    while row % BLOCKS[kind].weights:
        kind = FALLBACK[kind]
    return kind


def _packed(their: str, tensor: Tensor, kind: str) -> Bytes:
    rows = tensor.detach().contiguous().numpy()
    if kind in ("F32", "BF16"):
        return BLOCKS[kind].quantise(rows)
    largest = float(np.abs(rows).max())
    if not largest < float(np.finfo(np.float16).max):  # nan, too
        raise UserError(
            f"{their} has weights up to {largest:g}, which {kind} cannot hold: use --type BF16 or F32"
        )
    return BLOCKS[kind].quantise(rows)


def import_gguf(
    source: Path, out: Path, say: Callable[[str], None] = lambda line: None
) -> tuple[DecoderConfig, str]:
    """Read a GGUF file into a run directory; returns its config and the name of its licence.

    say: is told what of the file cannot be used. Raises UserError, before anything large is made, for a file
    that is damaged or of what Maquette does not compute.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    with GGUFReader(source) as file:
        try:
            config = read_settings(file.metadata, file.tensors)
            shapes = _shapes(file.metadata["general.architecture"], config, file.tensors)
        except UserError as error:
            raise UserError(f"{source} cannot be read: {_printable(error)}") from error
        with directory_aside(out) as folder:
            try:
                read_tokenizer(file.metadata, config.vocabulary, folder, say)
            except UserError as error:
                raise UserError(f"{source} cannot be read: {_printable(error)}") from error
            save_config(folder, config)
            write_tensors(folder / WEIGHTS, shapes, _tensors(file, config, shapes))
        licence = file.metadata.get("general.license", "")
    named = isinstance(licence, str) and licence.isprintable() and len(licence) <= LONGEST_LICENCE
    return config, licence if named else ""


def _printable(error: UserError) -> str:
    """A message in one line, whatever names the file has."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))


def _shapes(
    architecture: str, config: DecoderConfig, tensors: Mapping[str, TensorInfo]
) -> dict[str, tuple[int, ...]]:
    """Our tensors with their shapes. Raises UserError where the file's are others."""
    with torch.device("meta"):
        model = Decoder(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    rest = set(tensors)
    for name, shape in shapes.items():
        for their, wanted in parts_of(architecture, config, name, shape).items():
            for key in (their, *copies_of(architecture, their)):
                if key not in tensors:
                    raise UserError(f"it lacks {key}: it is cut short or of another architecture")
                if tensors[key].shape != wanted:
                    raise UserError(f"{key} has shape {tensors[key].shape}, not {wanted}")
                rest.discard(key)
    if rest:
        some = ", ".join(map(shown, sorted(rest)[:NAMED])) + (", ..." if len(rest) > NAMED else "")
        raise UserError(f"it has {len(rest)} tensors that such a model has no place for ({some})")
    return shapes


def _tensors(
    file: GGUFReader, config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Tensor]:
    """Our tensors, one at a time."""
    architecture = file.metadata["general.architecture"]

    def unpacked(key: str) -> Tensor:
        info = file.tensors[key]
        weights = BLOCKS[info.type].dequantise(file.bytes_of(info))
        return torch.from_numpy(weights.reshape(info.shape))

    for name, shape in shapes.items():
        parts = []
        for their in parts_of(architecture, config, name, shape):
            part = unpacked(their)
            for copy in copies_of(architecture, their):
                if not torch.equal(part, unpacked(copy)):
                    raise UserError(
                        f"{file.path} has a {copy} that is not {their}: a parallel block has one norm here"
                    )
            parts.append(from_pairs(architecture, config, their, part))
        yield torch.cat(parts)
