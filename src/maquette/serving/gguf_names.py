"""What llama.cpp calls the settings and the tensors of a decoder, and which decoders it computes.

    llama     RMSNorm, SwiGLU, rotary positions, grouped queries; queries and keys have their rows in the
              order of interleaved pairs, ours in halves: the same rotation under a permutation
    gpt2      learned positions, LayerNorm, GELU, biases
    bloom     ALiBi, a norm after the embedding
    gptneox   parallel block, part of a head rotated; its second norm is a copy of the first

llama.cpp names GPT-J and has no graph for it. Names: ggml-org/llama.cpp, gguf-py/gguf/constants.py. Reading
takes nothing that ours would compute otherwise: an unknown setting of the architecture is refused, and sizes
are held against the table of tensors before a model is made of them.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from maquette.base.errors import UserError
from maquette.models import families
from maquette.models.config import DecoderConfig
from maquette.serving.gguf_format import TensorInfo, shown
from maquette.serving.hugging_face_tensors import Names, names_in, part_sizes

_ALL: Names = {
    "embedding": "token_embd",
    "position": "position_embd",
    "embedding_norm": "token_embd_norm",
    "blocks.#.attention_norm": "blk.#.attn_norm",
    "blocks.#.attention.qkv": "blk.#.attn_qkv",
    "blocks.#.attention.out": "blk.#.attn_output",
    "blocks.#.feedforward_norm": "blk.#.ffn_norm",
    "blocks.#.feedforward.up": "blk.#.ffn_up",
    "blocks.#.feedforward.down": "blk.#.ffn_down",
    "norm": "output_norm",
    "output": "output",
}
_LLAMA: Names = _ALL | {
    "blocks.#.attention.qkv": tuple(f"blk.#.attn_{x}" for x in "qkv"),
    "blocks.#.feedforward.up": ("blk.#.ffn_gate", "blk.#.ffn_up"),
}
TABLES = {"llama": _LLAMA, "gpt2": _ALL, "bloom": _ALL, "gptneox": _ALL}
"""ours -> theirs of each architecture, `#` the number of the block; a tuple is stacked along the output"""
EMBEDDING, OUTPUT, POSITION = "token_embd.weight", "output.weight", "position_embd.weight"
FREE: dict[str, tuple[str, ...]] = {
    "llama": ("hidden", "kv_heads", "head_dim", "rotary_base", "tied"),
    "gpt2": ("hidden", "tied"),
    "bloom": ("tied",),
    "gptneox": ("hidden", "rotary_dims", "rotary_base", "tied"),
}
"""settings that an architecture leaves free, beside the sizes of every decoder"""
MAKE = {"llama": families.llama, "gpt2": families.gpt2, "bloom": families.bloom,
        "gptneox": families.neox}  # fmt: skip
SIZES = ("vocabulary", "context", "width", "depth", "heads", "norm_epsilon", "dropout")
HARMLESS = ("vocab_size", "tensor_data_layout", "attention.max_alibi_bias")
EPSILON = {"llama": "attention.layer_norm_rms_epsilon"}
NAMED = 3  # tensors in a message


def architecture_of(config: DecoderConfig) -> str:
    """The architecture of llama.cpp that computes this model. Raises UserError where none does."""
    sizes = {name: getattr(config, name) for name in SIZES}
    for name, free in FREE.items():
        own = {key: getattr(config, key) for key in free}
        if MAKE[name](**sizes, **own, parametrisation=config.parametrisation) == config:
            return name
    why = " (it has no GPT-J: an output with a bias)" if config.output_bias else ""
    raise UserError(
        f"llama.cpp has no such architecture{why}: export gguf needs the shape of LLaMA, GPT-2, BLOOM or "
        f"GPT-NeoX (see maquette.models.families)"
    )


def write_settings(architecture: str, c: DecoderConfig) -> dict[str, Any]:
    """The settings of a decoder as metadata."""
    settings: dict[str, Any] = {
        "context_length": c.context,
        "embedding_length": c.width,
        "block_count": c.depth,
        "feed_forward_length": c.inner,
        "attention.head_count": c.heads,
        "attention.head_count_kv": c.group_heads,
        EPSILON.get(architecture, "attention.layer_norm_epsilon"): float(c.norm_epsilon),
        "vocab_size": c.vocabulary,
    }
    if c.positions == "rotary":
        settings |= {"rope.dimension_count": c.turned, "rope.freq_base": float(c.rotary_base)}
    if architecture == "llama":
        settings |= {"attention.key_length": c.head, "attention.value_length": c.head}
    if architecture == "gptneox":
        settings["use_parallel_residual"] = True
    return {f"{architecture}.{key}": value for key, value in settings.items()}


def read_settings(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> DecoderConfig:
    """The decoder of a file's metadata and table of tensors.

    Raises UserError for what Maquette does not compute, and for sizes that the table does not hold.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in FREE:
        raise UserError(
            f"it is of the architecture {shown(name)}: Maquette reads {', '.join(FREE)}"
        )
    c = _Settings(name, metadata)
    if EMBEDDING not in tensors or len(tensors[EMBEDDING].shape) != 2:
        raise UserError(
            f"it has no matrix {EMBEDDING}: it is cut short, or holds no language model"
        )
    vocabulary, width = tensors[EMBEDDING].shape
    epsilon = c.number(EPSILON.get(name, "attention.layer_norm_epsilon"))
    sizes: dict[str, Any] = {
        "vocabulary": vocabulary,
        "context": c.whole("context_length"),
        "width": c.whole("embedding_length"),
        "depth": c.whole("block_count"),
        "heads": c.whole("attention.head_count"),
        "norm_epsilon": epsilon,
        "hidden": c.whole("feed_forward_length"),
    }
    heads, groups = sizes["heads"], c.whole("attention.head_count_kv", sizes["heads"])
    if name == "llama":
        head = c.whole("attention.key_length", width // heads)
        c.expect("attention.value_length", head, head)
        c.expect("rope.dimension_count", head, head)
        sizes |= {"head_dim": None if head * heads == width else head}
        sizes |= {"kv_heads": None if groups == heads else groups}
    else:
        c.expect("attention.head_count_kv", heads, heads)
    if name == "gptneox":
        c.expect("use_parallel_residual", True, True)
        sizes["rotary_dims"] = c.whole("rope.dimension_count", max(1, width // heads))
    if name in ("llama", "gptneox"):
        c.expect("rope.scaling.type", "none", "none")
        sizes["rotary_base"] = c.number("rope.freq_base", 10000.0)
    if name == "bloom" and sizes.pop("hidden") != 4 * width:
        raise UserError(
            "its bloom.feed_forward_length is not 4 times its width: Maquette reads that alone"
        )
    sizes["tied"] = OUTPUT not in tensors
    c.expect("expert_count", 0, 0)
    c.refuse_rest()
    config = MAKE[name](**sizes)
    wanted = config.parameters() + (2 * config.depth * width if name == "gptneox" else 0)
    held = sum(prod(info.shape) for info in tensors.values())
    if wanted != held or sizes["depth"] > len(tensors):
        raise UserError(
            f"its tensors hold {held:,} weights, a model of its metadata has {wanted:,}: it is damaged, or "
            f"has parts that Maquette does not compute"
        )
    return config


class _Settings:
    """The settings of an architecture, each of the type that it must have."""

    def __init__(self, architecture: str, metadata: Mapping[str, Any]) -> None:
        self._prefix, self._metadata = f"{architecture}.", metadata
        self._used = {f"{self._prefix}{key}" for key in HARMLESS}

    def _value(self, key: str, default: Any) -> Any:
        self._used.add(self._prefix + key)
        value = self._metadata.get(self._prefix + key, default)
        if value is None:
            raise UserError(f"it has no {self._prefix}{key}: it is damaged")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"its {self._prefix}{key} is {shown(value)}, not a whole number above 0"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0, as short as fp32 tells it."""
        value = self._value(key, default)
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise UserError(f"its {self._prefix}{key} is {shown(value)}, not a number above 0")
        return float(str(np.float32(value)))

    def expect(self, key: str, wanted: Any, default: Any) -> None:
        """Raise UserError for a value that is not computed."""
        value = self._value(key, default)
        if isinstance(value, np.ndarray) or value != wanted:
            raise UserError(
                f"its {self._prefix}{key} is {shown(value)}: Maquette computes {wanted!r} alone"
            )

    def refuse_rest(self) -> None:
        """Raise UserError for a setting of the architecture that nobody asked for."""
        for key in self._metadata:
            if key.startswith(self._prefix) and key not in self._used:
                raise UserError(
                    f"it has {key} = {shown(self._metadata[key])}, which Maquette does not compute"
                )


def parts_of(
    architecture: str, config: DecoderConfig, name: str, shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    """The tensors of a file that one of ours is made of, with their shapes, stacked in that order."""
    theirs = list(names_in(TABLES[architecture], name))
    rows = part_sizes(config, len(theirs)) or [shape[0]]
    return {their: (size, *shape[1:]) for their, size in zip(theirs, rows, strict=True)}


def copies_of(architecture: str, their: str) -> list[str]:
    """Further tensors of a file that repeat one of its: the second norm of GPT-NeoX."""
    doubled = architecture == "gptneox" and "attn_norm" in their
    return [their.replace("attn_norm", "ffn_norm")] if doubled else []


def to_pairs(architecture: str, config: DecoderConfig, their: str, tensor: Tensor) -> Tensor:
    """A tensor with the rows of its heads in the order of interleaved pairs, where llama.cpp has them so."""
    if not _paired(architecture, their):
        return tensor
    return _swapped(tensor, 2, config.head // 2)


def from_pairs(architecture: str, config: DecoderConfig, their: str, tensor: Tensor) -> Tensor:
    """The way back of `to_pairs`."""
    if not _paired(architecture, their):
        return tensor
    return _swapped(tensor, config.head // 2, 2)


def _paired(architecture: str, their: str) -> bool:
    return architecture == "llama" and their.endswith(("attn_q.weight", "attn_k.weight"))


def _swapped(tensor: Tensor, outer: int, inner: int) -> Tensor:
    """The rows of every head, (outer, inner) of them, in the order (inner, outer)."""
    rows: Tensor = tensor.unflatten(0, (-1, outer, inner))  # (heads, outer, inner, ...)
    return rows.transpose(1, 2).flatten(0, 2)
