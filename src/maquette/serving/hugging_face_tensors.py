"""The tensors of a Hugging Face checkpoint under our names, and ours under theirs.

Every tensor has its place: one that the config does not use would make the model compute otherwise than
its authors' and is refused. Writing folds the multipliers of maximal-update parametrisation into the
weights (into the norm before the output, the query projection, the layers that write into the residual
stream), so that what transformers computes is the same to rounding.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.files import read_json
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.store import WEIGHTS, load_tensors

# Ours -> theirs, `#` the number of the block. A tuple of theirs is stacked along the output.
Names = dict[str, str | tuple[str, ...]]
MAPS: dict[str, Names] = {
    "gpt2": {
        "embedding": "transformer.wte",
        "position": "transformer.wpe",
        "blocks.#.attention_norm": "transformer.h.#.ln_1",
        "blocks.#.attention.qkv": "transformer.h.#.attn.c_attn",
        "blocks.#.attention.out": "transformer.h.#.attn.c_proj",
        "blocks.#.feedforward_norm": "transformer.h.#.ln_2",
        "blocks.#.feedforward.up": "transformer.h.#.mlp.c_fc",
        "blocks.#.feedforward.down": "transformer.h.#.mlp.c_proj",
        "norm": "transformer.ln_f",
        "output": "lm_head",
    },
    "gptj": {
        "embedding": "transformer.wte",
        "blocks.#.attention_norm": "transformer.h.#.ln_1",
        "blocks.#.attention.qkv": tuple(f"transformer.h.#.attn.{x}_proj" for x in "qkv"),
        "blocks.#.attention.out": "transformer.h.#.attn.out_proj",
        "blocks.#.feedforward.up": "transformer.h.#.mlp.fc_in",
        "blocks.#.feedforward.down": "transformer.h.#.mlp.fc_out",
        "norm": "transformer.ln_f",
        "output": "lm_head",
    },
    "llama": {
        "embedding": "model.embed_tokens",
        "blocks.#.attention_norm": "model.layers.#.input_layernorm",
        "blocks.#.attention.qkv": tuple(f"model.layers.#.self_attn.{x}_proj" for x in "qkv"),
        "blocks.#.attention.out": "model.layers.#.self_attn.o_proj",
        "blocks.#.feedforward_norm": "model.layers.#.post_attention_layernorm",
        "blocks.#.feedforward.up": ("model.layers.#.mlp.gate_proj", "model.layers.#.mlp.up_proj"),
        "blocks.#.feedforward.down": "model.layers.#.mlp.down_proj",
        "norm": "model.norm",
        "output": "lm_head",
    },
    "bloom": {
        "embedding": "transformer.word_embeddings",
        "embedding_norm": "transformer.word_embeddings_layernorm",
        "blocks.#.attention_norm": "transformer.h.#.input_layernorm",
        "blocks.#.attention.qkv": "transformer.h.#.self_attention.query_key_value",
        "blocks.#.attention.out": "transformer.h.#.self_attention.dense",
        "blocks.#.feedforward_norm": "transformer.h.#.post_attention_layernorm",
        "blocks.#.feedforward.up": "transformer.h.#.mlp.dense_h_to_4h",
        "blocks.#.feedforward.down": "transformer.h.#.mlp.dense_4h_to_h",
        "norm": "transformer.ln_f",
    },
}
TRANSPOSED = ("c_attn", "c_proj", "c_fc")  # GPT-2 keeps (in, out)
# Masks and rotations that older files hold beside the parameters: computed, not read.
BUFFERS = (".attn.bias", ".attn.masked_bias", ".inv_freq", ".attn.embed_positions")
HEAD = "lm_head.weight"
NAMED = 3  # tensors in a message


def from_family(family: str, config: DecoderConfig, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names. Raises UserError for one that is missing, or has no place."""
    ours, used = {}, set()
    names = dict(Decoder(config).named_parameters())
    for name in names:
        keys = [_key(theirs, their) for their in their_names(family, name)]
        used.update(keys)
        ours[name] = joined(family, config, name, [theirs[key] for key in keys])
    _refuse_rest(config, theirs, ours["embedding.weight"], theirs.keys() - used)
    return ours


def joined(family: str, config: DecoderConfig, name: str, theirs: list[Tensor]) -> Tensor:
    """The tensor of ours that is made of one of theirs, or of several."""
    tensor = torch.cat(theirs) if len(theirs) > 1 else theirs[0]
    if is_transposed(family, name):
        tensor = tensor.T
    if family == "bloom" and ".qkv." in name:  # (heads, 3, head) -> (3, heads, head)
        tensor = tensor.unflatten(0, (config.heads, 3, config.head)).transpose(0, 1)
        tensor = tensor.flatten(0, 2)
    return tensor


def _refuse_rest(
    config: DecoderConfig, theirs: dict[str, Tensor], embedding: Tensor, rest: set[str]
) -> None:
    """Raise UserError for tensors that the model has no place for."""
    if config.tied and HEAD in rest:
        if not torch.equal(theirs[HEAD].float(), embedding.float()):
            raise UserError(
                f"the checkpoint has an {HEAD} that is not the embedding, and config.json ties the two: "
                f"write tie_word_embeddings: false to use it, or leave the tensor out"
            )
        rest = rest - {HEAD}
    if rest:
        shown = ", ".join(sorted(rest)[:NAMED]) + (", ..." if len(rest) > NAMED else "")
        raise UserError(
            f"the checkpoint has {len(rest)} tensors that a model of this config.json has no place for "
            f"({shown}): mend config.json (its number of layers, its biases), or leave them out"
        )


def to_family(family: str, config: DecoderConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    theirs = {}
    for name, tensor in ours.items():
        their = list(their_names(family, name))
        if family == "bloom" and ".qkv." in name:
            tensor = tensor.unflatten(0, (3, config.heads, config.head)).transpose(0, 1)
            tensor = tensor.flatten(0, 2)
        if is_transposed(family, name):
            tensor = tensor.T
        sizes = part_sizes(config, len(their)) or [tensor.shape[0]]
        for key, part in zip(their, tensor.split(sizes), strict=True):
            theirs[key] = part.contiguous()
    return theirs


def part_sizes(config: DecoderConfig, parts: int) -> list[int]:
    """Rows of each of the tensors of theirs that one of ours is made of; empty for a single one."""
    if parts == 3:
        return [config.heads * config.head] + [config.group_heads * config.head] * 2
    return [config.inner] * 2 if parts == 2 else []


def folded(model: Decoder) -> dict[str, Tensor]:
    """The parameters with every forward multiplier multiplied in, as a standard model has them."""
    return {name: folded_parameter(model, name, p) for name, p in model.named_parameters()}


def folded_parameter(model: Decoder, name: str, parameter: Tensor) -> Tensor:
    """A parameter of a model in fp32, its forward multipliers multiplied in."""
    c, scaling = model.config, model.scaling
    tensor = parameter.detach().float().clone()
    into, out = scaling.input_multiplier, scaling.output_multiplier
    if name in ("embedding.weight", "position.weight"):
        tensor *= into
    elif name in ("norm.weight", "norm.bias"):
        tensor *= out / into if c.tied else out  # the tied output carries `into` already
    fold_rows(model, name, tensor)
    return tensor


def fold_rows(model: Decoder, name: str, tensor: Tensor, *, back: bool = False) -> None:
    """Multiply the multipliers into a tensor of a block's linear map, whose rows are its outputs.

    back: divide by them, in place as well.
    """
    c, scaling = model.config, model.scaling
    sign = -1 if back else 1
    if ".attention.qkv." in name:
        tensor[: c.heads * c.head] *= (scaling.attention_scale(c.head) * math.sqrt(c.head)) ** sign
    elif ".attention.out." in name or ".feedforward.down." in name:
        tensor *= scaling.residual_multiplier**sign


def read_tensors(source: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or several."""
    index = source / f"{WEIGHTS}.index.json"
    if index.exists():
        content = read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not all(
            isinstance(v, str) for v in weight_map.values()
        ):
            raise UserError(f"{index} names no files: restore it")
        files = sorted(set(weight_map.values()))
    elif (source / WEIGHTS).exists():
        files = [WEIGHTS]
    elif any(source.glob("*.bin")) or any(source.glob("*.pt")):
        raise UserError(
            f"{source} holds pickled weights, which can run code when they are read: "
            f"convert them to safetensors where you trust them (save_pretrained does)"
        )
    else:
        raise UserError(f"{source} holds no weights ({WEIGHTS})")
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= load_tensors(source / name)
    return {name: t for name, t in tensors.items() if not name.endswith(BUFFERS)}


def their_names(family: str, name: str) -> Iterator[str]:
    """What the tensors are called that one of ours is made of."""
    return names_in(MAPS[family], name)


def names_in(table: Names, name: str) -> Iterator[str]:
    """What a table calls the tensors that one of ours is made of."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    number = parts[1] if parts[0] == "blocks" else ""
    key = module.replace(f"blocks.{number}.", "blocks.#.") if number else module
    theirs = table[key]
    for pattern in (theirs,) if isinstance(theirs, str) else theirs:
        yield f"{pattern.replace('#', number)}.{kind}"


def _key(theirs: dict[str, Tensor], name: str) -> str:
    """The checkpoint's name of a tensor, with or without the model's prefix."""
    for alternative in (name, name.removeprefix("transformer."), name.removeprefix("model.")):
        if alternative in theirs:
            return alternative
    raise UserError(f"the checkpoint lacks {name}: it is cut short or of another architecture")


def is_transposed(family: str, name: str) -> bool:
    """Whether theirs is (in, out)."""
    if family != "gpt2" or not name.endswith(".weight"):
        return False
    return any(part in next(their_names(family, name)) for part in TRANSPOSED)
