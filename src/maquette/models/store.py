"""A model on disk: `config.json` and `model.safetensors`, nothing that can execute.

A file of quantised weights gives a model of quantised maps (`quantised.py`).
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maquette.base.errors import UserError
from maquette.base.files import give_usual_rights, read_json, sync, write_json
from maquette.models.base import Model
from maquette.models.picture_config import PictureConfig
from maquette.models.quantised import load_quantised, stored_forms
from maquette.models.registry import AnyConfig, ModelConfig, config_from

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_config(folder: Path, config: AnyConfig) -> None:
    """Write `config.json`."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    write_json(folder / CONFIG, {"format": FORMAT, "config": plain})


def load_config(folder: Path) -> AnyConfig:
    """Read `config.json`."""
    path = folder / CONFIG
    if not path.exists():
        raise UserError(f"{folder} holds no model (no {CONFIG}): name a run directory")
    content = read_json(path)
    if not isinstance(content, dict) or "config" not in content:
        raise UserError(
            f"{path} is not Maquette's: if {folder} is a Hugging Face model, "
            f"run maquette import hf {folder} RUN first"
        )
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {content.get('format')}, this Maquette reads {FORMAT}: "
            f"use the version that wrote it"
        )
    try:
        return config_from(content["config"])
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged or of another version: {error}") from error


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file in one step: a reader sees the old one or the new."""
    aside = path.with_name(f".{path.name}.tmp")
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(plain, aside, metadata)
    give_usual_rights(aside)
    sync(aside)
    aside.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or say that it is none."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a safetensors file that can be read ({first_line(error)}): "
            f"restore it, or convert the weights to safetensors"
        ) from error


class SavedTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read from the disk when it is asked for."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a safetensors file that can be read ({first_line(error)}): restore it"
            ) from error
        self._names: set[str] = set(self._file.keys())  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor]
) -> None:
    """Write a safetensors file in fp32, one tensor in memory at a time.

    tensors: those of `shapes`, in that order.
    """
    header, end = dict[str, Any](), 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            assert tuple(tensor.shape) == shape, name
            file.write(tensor.detach().float().contiguous().numpy().tobytes())


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a model is saved as: parameters, each once, and persistent buffers, by name."""
    buffers = {
        f"{path}.{name}" if path else name: buffer
        for path, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }
    return {name: p.detach() for name, p in model.named_parameters()} | buffers


def load_parameters(model: nn.Module, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Copy tensors into the parameters and buffers of the same names, all of them and nothing else."""
    copy_tensors(tensors_of(model), tensors, source)


@torch.no_grad()
def copy_tensors(wanted: dict[str, Tensor], tensors: dict[str, Tensor], source: Path | str) -> None:
    """Copy tensors into those of the same names, all of them and nothing else."""
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        difference = f"it lacks {missing[0]}" if missing else f"it has {extra[0]} besides"
        raise UserError(f"{source} belongs to another model: {difference}")
    for name, own in wanted.items():
        if own.shape != tensors[name].shape:
            raise UserError(
                f"{source} belongs to another model: {name} has shape "
                f"{tuple(tensors[name].shape)}, not {tuple(own.shape)}"
            )
        own.copy_(tensors[name])


def language_config(folder: Path) -> ModelConfig:
    """The config of a language model. Raises UserError for one of pictures."""
    config = load_config(folder)
    if isinstance(config, PictureConfig):
        raise UserError(f"{folder} holds a model of pictures ({config.kind}): name a run of text")
    return config


def load_model(folder: Path, weights: Path | None = None) -> Model:
    """The model of a folder in evaluation mode, from its own weights or from a checkpoint's."""
    config, source = load_config(folder), weights or folder / WEIGHTS
    if source.exists() and stored_forms(source):
        return load_quantised(language_config(folder), source).eval()
    model: Model = config.build()
    load_parameters(model, load_tensors(source), source)
    return model.eval()


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
