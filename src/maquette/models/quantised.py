"""A language model with weights in few bits: what of it is quantised, and its file.

Linear maps have the bits that are asked for; the output map and the embedding have 8 at least, for a model
loses most there (`docs/quantise.md`). Learned positions are kept in bf16, biases and norms in fp32.

The file is `model.safetensors`, where a quantised tensor has the name it had and holds bytes; the header's
metadata says how each is packed (`nn/quantised.py`), so that a file describes itself.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from maquette.base.errors import UserError
from maquette.models.base import LanguageModel, Model
from maquette.models.registry import ModelConfig
from maquette.nn.linear import Embedding, Linear
from maquette.nn.quantised import Format, Packed, QuantisedEmbedding, QuantisedLinear

METADATA = "quantised"
TABLES = ("embedding", "output")
TABLE_BITS = 8
"""bits of the embedding and of the output map at least"""


@dataclass(frozen=True)
class Stored:
    """How a quantised tensor of a file is packed."""

    form: Format
    rows: int
    columns: int

    def plain(self) -> dict[str, Any]:
        """As the metadata have it."""
        return dataclasses.asdict(self.form) | {"rows": self.rows, "columns": self.columns}


def stored_forms(path: Path) -> dict[str, Stored]:
    """The quantised tensors of a safetensors file by name; none in a file of numbers.

    Raises UserError where the metadata are damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(METADATA)
    except (SafetensorError, OSError):
        return {}  # `load_tensors` says what is wrong
    if said is None:
        return {}
    try:
        return {name: _stored(told) for name, told in json.loads(said).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or of another version: restore it") from error


def _stored(told: dict[str, Any]) -> Stored:
    """One tensor's metadata. Raises an error where a value is missing, or of another type."""
    stored = Stored(
        Format(**{f.name: told.pop(f.name, None) for f in dataclasses.fields(Format)}), **told
    )
    sizes = (stored.form.bits, stored.form.group, stored.rows, stored.columns)
    if type(stored.form.asymmetric) is not bool or any(type(n) is not int or n < 1 for n in sizes):
        raise TypeError
    return stored


def quantised_modules(model: nn.Module) -> dict[str, QuantisedLinear | QuantisedEmbedding]:
    """The quantised maps and tables of a model by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantisedLinear | QuantisedEmbedding)
    }


def form_of(name: str, form: Format) -> Format:
    """The form of a map by its name: the output map and the embedding have more bits."""
    if name in TABLES:
        return dataclasses.replace(form, bits=max(form.bits, TABLE_BITS))
    return form


@torch.no_grad()
def quantise(
    model: LanguageModel, form: Format, tables: Format | Literal["plain"] | None = None
) -> None:
    """Replace the maps and the embedding of a model by quantised ones, one after the other.

    tables: form of the embedding and of the output map, "plain" to leave them as they are; None: `form_of`.
    Adapters stay as they are. Raises UserError for weights that are not finite.
    """
    numbers = {name: id(module.weight) for name, module in _plain_maps(model)}
    done: dict[int, Packed] = {}  # a tied matrix is packed once; no weight is held until the end
    for name, number in numbers.items():
        module, table = model.get_submodule(name), name in TABLES
        assert isinstance(module, Linear | Embedding)
        if table and tables == "plain":
            continue
        if number not in done:
            if not module.weight.isfinite().all():
                raise UserError(f"{name}.weight holds numbers that are not finite: train it again")
            own = tables if table and isinstance(tables, Format) else form_of(name, form)
            done[number] = Packed(own, own.pack(module.weight), *module.weight.shape)
        _replace(model, name, module, done[number])


@torch.no_grad()
def dequantise(model: nn.Module) -> bool:
    """Replace quantised maps and tables by plain ones in fp32; whether there were any."""
    modules = quantised_modules(model)
    weights: dict[Packed, nn.Parameter] = {}
    for name, module in modules.items():
        matrix = module.matrix
        plain: Linear | Embedding
        with torch.device("meta"):
            if isinstance(module, QuantisedLinear):
                plain = Linear(matrix.columns, matrix.rows, residual=module.residual)
                plain.bias = module.bias
            else:
                plain = Embedding(matrix.rows, matrix.columns)
        if matrix not in weights:
            weights[matrix] = nn.Parameter(matrix.matrix())
        plain.weight = weights[matrix]
        plain.train(module.training)
        for table, kept in vars(module).items():
            if "hooks" in table:
                setattr(plain, table, kept)
        _set(model, name, plain)
    return bool(modules)


def stored_tensors(model: LanguageModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors that a quantised model is saved as, and the metadata of the file."""
    tensors: dict[str, Tensor] = {}
    forms: dict[str, Any] = {}
    kept: set[Packed] = set()
    for name, module in quantised_modules(model).items():
        matrix = module.matrix
        if matrix not in kept:
            kept.add(matrix)
            tensors[f"{name}.weight"] = matrix.packed
            stored = Stored(matrix.form, matrix.rows, matrix.columns)
            forms[f"{name}.weight"] = stored.plain()
    for name, p in model.named_parameters():
        tensors[name] = p.detach().bfloat16() if p.dim() > 1 else p.detach().float()
    tensors |= dict(_persistent_buffers(model))
    return tensors, {METADATA: json.dumps(forms)}


def load_quantised(config: ModelConfig, path: Path) -> Model:
    """The model of a quantised file, read tensor by tensor: nothing is ever held in more bits.

    Raises UserError for a file that is damaged, or of another model.
    """
    with _EmptyOnMeta():
        model: Model = config.build()
    read_quantised(model, path)
    return model


@torch.no_grad()
def read_quantised(model: Model, path: Path) -> None:
    """Give a model the weights of a quantised file: its maps become quantised ones.

    Raises UserError for a file that is damaged, or of another model, before a kernel reads its bytes.
    """
    forms, done = stored_forms(path), dict[str, Packed]()
    output, embedding = (getattr(model, table, None) for table in reversed(TABLES))
    tied = output is not None and embedding is not None and output.weight is embedding.weight
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        for name, module in list(_plain_maps(model)):
            key = f"{name}.weight"
            if name == "output" and tied:
                key = "embedding.weight"
            if key not in forms:
                continue
            stored = forms[key]
            if tuple(module.weight.shape) != (stored.rows, stored.columns):
                raise UserError(
                    f"{path} belongs to another model: {key} has shape "
                    f"{(stored.rows, stored.columns)}, not {tuple(module.weight.shape)}"
                )
            if key not in done:
                if key not in names:
                    raise UserError(f"{path} belongs to another model: it lacks {key}")
                packed, shape = file.get_tensor(key), stored.form.shape(stored.rows, stored.columns)
                if packed.dtype != torch.uint8 or tuple(packed.shape) != shape:
                    raise UserError(
                        f"{path} is damaged: {key} is {packed.dtype} of shape {tuple(packed.shape)}, "
                        f"where its metadata say bytes of shape {shape}: restore it"
                    )
                packed = packed.clone()
                done[key] = Packed(stored.form, packed, stored.rows, stored.columns)
            _replace(model, name, module, done[key])
        wanted = {n for n, _ in model.named_parameters()} | {
            n for n, _ in _persistent_buffers(model)
        }
        rest = names - done.keys()
        if wanted != rest:
            name = min(wanted ^ rest)
            difference = f"it lacks {name}" if name in wanted else f"it has {name} besides"
            raise UserError(f"{path} belongs to another model: {difference}")
        for name in sorted(rest):
            _fill(model, name, file.get_tensor(name), path)


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of all weights of a model in memory; what is tied counts once."""
    packed = {module.matrix for module in quantised_modules(model).values()}
    return sum(p.nbytes for p in model.parameters()) + sum(m.packed.nbytes for m in packed)


def parameters(model: LanguageModel) -> int:
    """Number of parameters of a model, quantised or not."""
    packed = {module.matrix for module in quantised_modules(model).values()}
    return sum(p.numel() for p in model.parameters()) + sum(m.rows * m.columns for m in packed)


class _EmptyOnMeta(TorchFunctionMode):
    """A context in which `torch.empty` takes no memory: parameters are filled later, buffers are as ever."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        keywords = dict(keywords or {})
        if function is torch.empty:
            keywords["device"] = "meta"
        return function(*arguments, **keywords)


def _plain_maps(model: nn.Module) -> Iterator[tuple[str, Linear | Embedding]]:
    for name, module in model.named_modules():
        if name.startswith("adapters."):
            continue
        linear = isinstance(module, Linear) and not isinstance(module, QuantisedLinear)
        if linear or (name == "embedding" and type(module) is Embedding):
            assert isinstance(module, Linear | Embedding)
            yield name, module


def _replace(model: nn.Module, name: str, plain: Linear | Embedding, matrix: Packed) -> None:
    if isinstance(plain, Linear):
        _set(model, name, QuantisedLinear(plain, matrix))
    else:
        _set(model, name, QuantisedEmbedding(plain, matrix))


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def _fill(model: nn.Module, name: str, tensor: Tensor, path: Path) -> None:
    parent, _, last = name.rpartition(".")
    module = model.get_submodule(parent)
    own = getattr(module, last)
    if own.shape != tensor.shape or not tensor.is_floating_point():
        raise UserError(
            f"{path} belongs to another model: {name} is {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}, not numbers of shape {tuple(own.shape)}"
        )
    copied = tensor.to(torch.float32, copy=True)
    if isinstance(own, nn.Parameter):
        setattr(module, last, nn.Parameter(copied, requires_grad=own.requires_grad))
    else:
        setattr(module, last, copied)
