"""Round trips with Hugging Face: GPT-2, GPT-J, LLaMA and BLOOM checkpoints, in and out.

Reading needs neither transformers nor trust: config.json, safetensors, tokenizer.json; pickled
weights are refused. Writing folds the multipliers of maximal-update parametrisation into the
weights (into the norm before the output, the query map, the maps that write into the residual
stream), so that what transformers computes is the same to rounding.
"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.files import directory_aside, read_json, write_atomic, write_json
from maquette.corpus.store import TOKENIZER
from maquette.corpus.tokenizer import END, load_tokenizer
from maquette.models import families
from maquette.models.clip import Clip
from maquette.models.clip_config import ClipConfig
from maquette.models.config import DecoderConfig
from maquette.models.decoder import Decoder
from maquette.models.store import (
    CONFIG,
    WEIGHTS,
    fill,
    load_config,
    load_model,
    load_tensors,
    save_config,
    save_tensors,
)

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
CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "gptj": "GPTJForCausalLM",
    "llama": "LlamaForCausalLM",
    "bloom": "BloomForCausalLM",
}
TRANSPOSED = ("c_attn", "c_proj", "c_fc")  # GPT-2 keeps (in, out)
BUFFERS = (".attn.bias", ".attn.masked_bias", ".inv_freq")


def import_model(source: Path, out: Path) -> DecoderConfig | ClipConfig:
    """Read a Hugging Face folder into a run directory `out` that generates and evaluates."""
    if not (source / CONFIG).exists():
        raise UserError(f"{source} holds no Hugging Face model (no {CONFIG})")
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    theirs = read_json(source / CONFIG)
    family = theirs.get("model_type")
    if family == "clip":
        from maquette.serving.hugging_face_clip import import_clip

        return import_clip(source, out)
    if family not in MAPS:
        known = ", ".join([*MAPS, "clip"])
        raise UserError(f"{source} is a {family} model: Maquette reads {known}")
    config = read_config(family, theirs)
    model = Decoder(config)
    tensors = from_family(family, config, _read(source))
    fill(model, tensors, source)
    with directory_aside(out) as folder:
        save_config(folder, config)
        save_tensors(folder / WEIGHTS, dict(model.named_parameters()))
        if (source / TOKENIZER).exists():
            shutil.copyfile(source / TOKENIZER, folder / TOKENIZER)
    return config


def export_model(
    run: Path, out: Path, weights: Path | None = None, words: int | None = None
) -> str:
    """Write a run as a folder that transformers opens; returns the class that reads it.

    words: symbols that a CLIP run reads of a caption; see `export_clip`.
    """
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    model = load_model(run, weights)
    if isinstance(model, Clip):
        from maquette.serving.hugging_face_clip import export_clip

        return export_clip(model, run, out, words)
    if not isinstance(model, Decoder):
        raise UserError(
            f"{run} is a model of kind {load_config(run).kind}, which transformers has no class for: "
            f"only decoders and CLIPs can be exported"
        )
    family = family_of(model.config)
    with directory_aside(out) as folder:
        save_tensors(folder / WEIGHTS, to_family(family, model.config, folded(model)))
        end = None
        if (run / TOKENIZER).exists():
            shutil.copyfile(run / TOKENIZER, folder / TOKENIZER)
            end = load_tokenizer(run / TOKENIZER).end
            names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
            write_json(folder / "tokenizer_config.json", names)
        write_json(folder / CONFIG, write_config(family, model.config, end))
        write_atomic(
            folder / "generation_config.json",
            json.dumps({"bos_token_id": end, "eos_token_id": end}),
        )
    return CLASSES[family]


def folded(model: Decoder) -> dict[str, Tensor]:
    """The parameters with every forward multiplier multiplied in, as a standard model has them."""
    c, scaling = model.config, model.scaling
    t = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    into, out = scaling.input_multiplier, scaling.output_multiplier
    query = scaling.attention_scale(c.head) * math.sqrt(c.head)
    t["embedding.weight"] *= into
    if c.positions == "learned":
        t["position.weight"] *= into
    before_output = out / into if c.tied else out  # the tied output carries `into` already
    for name in ("norm.weight", "norm.bias"):
        if name in t:
            t[name] *= before_output
    for name, tensor in t.items():
        if ".attention.qkv." in name:
            tensor[: c.heads * c.head] *= query
        elif ".attention.out." in name or ".feedforward.down." in name:
            tensor *= scaling.residual_multiplier
    return t


def family_of(config: DecoderConfig) -> str:
    """The Hugging Face family that has this shape. Raises UserError when none has."""
    sizes = {
        name: getattr(config, name)
        for name in ("vocabulary", "context", "width", "depth", "heads", "norm_epsilon", "dropout")
    }
    free: dict[str, tuple[str, ...]] = {
        "gpt2": ("hidden", "tied"),
        "gptj": ("hidden", "rotary_dims"),
        "llama": ("hidden", "kv_heads", "head_dim", "rotary_base", "tied"),
        "bloom": (),
    }
    for family, names in free.items():
        own = {name: getattr(config, name) for name in names}
        like = getattr(families, family)(**sizes, **own, parametrisation=config.parametrisation)
        if like == config:
            return family
    raise UserError(
        "no Hugging Face class has this architecture: export needs the shape of GPT-2, GPT-J, "
        "LLaMA or BLOOM (see maquette.models.families)"
    )


def from_family(family: str, config: DecoderConfig, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names."""
    ours = {}
    names = dict(Decoder(config).named_parameters())
    for name in names:
        found = [_their_tensor(theirs, their) for their in _their_names(family, name)]
        tensor = torch.cat(found) if len(found) > 1 else found[0]
        if _is_transposed(family, name):
            tensor = tensor.T
        if family == "bloom" and ".qkv." in name:  # (heads, 3, head) -> (3, heads, head)
            tensor = tensor.unflatten(0, (config.heads, 3, config.head)).transpose(0, 1)
            tensor = tensor.flatten(0, 2)
        ours[name] = tensor
    return ours


def to_family(family: str, config: DecoderConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    theirs = {}
    for name, tensor in ours.items():
        their = list(_their_names(family, name))
        if family == "bloom" and ".qkv." in name:
            tensor = tensor.unflatten(0, (3, config.heads, config.head)).transpose(0, 1)
            tensor = tensor.flatten(0, 2)
        if _is_transposed(family, name):
            tensor = tensor.T
        sizes = [tensor.shape[0]]
        if len(their) == 3:
            sizes = [config.heads * config.head] + [config.group_heads * config.head] * 2
        elif len(their) == 2:
            sizes = [config.inner] * 2
        for one, part in zip(their, tensor.split(sizes), strict=True):
            theirs[one] = part.contiguous()
    return theirs


def read_config(family: str, c: dict[str, Any]) -> DecoderConfig:
    """Their config.json as ours. Raises UserError for a variant that would compute otherwise."""
    common = {"vocabulary": c["vocab_size"]}
    if family in ("gpt2", "gptj"):
        _expect(c, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
        common |= {
            "context": c["n_positions"],
            "width": c["n_embd"],
            "depth": c["n_layer"],
            "heads": c["n_head"],
            "hidden": c.get("n_inner"),
            "norm_epsilon": c.get("layer_norm_epsilon", 1e-5),
        }
        if family == "gptj":
            return families.gptj(**common, rotary_dims=c.get("rotary_dim", 64))
        _expect(c, "scale_attn_by_inverse_layer_idx", (None, False))
        _expect(c, "scale_attn_weights", (None, True))
        return families.gpt2(**common, tied=c.get("tie_word_embeddings", True))
    if family == "bloom":
        _expect(c, "apply_residual_connection_post_layernorm", (None, False))
        return families.bloom(
            **common,
            context=c.get("seq_length", 2048),
            width=c.get("hidden_size", c.get("n_embed")),
            depth=c.get("n_layer", c.get("num_hidden_layers")),
            heads=c.get("n_head", c.get("num_attention_heads")),
            norm_epsilon=c.get("layer_norm_epsilon", 1e-5),
        )
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    _expect({"rope_type": rope.get("rope_type", rope.get("type"))}, "rope_type", (None, "default"))
    _expect(c, "hidden_act", ("silu",))
    if c.get("attention_bias") or c.get("mlp_bias"):
        raise UserError("this LLaMA variant has biases, which Maquette's LLaMA shape does not")
    return families.llama(
        **common,
        context=c["max_position_embeddings"],
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        kv_heads=c.get("num_key_value_heads"),
        head_dim=c.get("head_dim"),
        hidden=c["intermediate_size"],
        norm_epsilon=c["rms_norm_eps"],
        rotary_base=float(rope.get("rope_theta", c.get("rope_theta", 10000.0))),
        tied=c.get("tie_word_embeddings", False),
    )


def write_config(family: str, c: DecoderConfig, end: int | None) -> dict[str, Any]:
    """Our config as their config.json."""
    common: dict[str, Any] = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": c.vocabulary,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": c.tied,
        "torch_dtype": "float32",
    }
    if family in ("gpt2", "gptj"):
        return common | {
            "n_positions": c.context,
            "n_embd": c.width,
            "n_layer": c.depth,
            "n_head": c.heads,
            "n_inner": c.inner,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": c.norm_epsilon,
            "rotary_dim": c.turned,
        }
    if family == "bloom":
        return common | {
            "seq_length": c.context,
            "hidden_size": c.width,
            "n_layer": c.depth,
            "n_head": c.heads,
            "layer_norm_epsilon": c.norm_epsilon,
        }
    return common | {
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.group_heads,
        "head_dim": c.head,
        "intermediate_size": c.inner,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_epsilon,
        "rope_theta": c.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rotary_base},
        "attention_bias": False,
        "mlp_bias": False,
    }


def _read(source: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or several."""
    index = source / f"{WEIGHTS}.index.json"
    if index.exists():
        files = sorted(set(read_json(index)["weight_map"].values()))
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


def _their_names(family: str, name: str) -> Iterator[str]:
    module, _, kind = name.rpartition(".")
    parts = module.split(".")
    number = parts[1] if parts[0] == "blocks" else ""
    key = module.replace(f"blocks.{number}.", "blocks.#.") if number else module
    theirs = MAPS[family][key]
    for one in (theirs,) if isinstance(theirs, str) else theirs:
        yield f"{one.replace('#', number)}.{kind}"


def _their_tensor(theirs: dict[str, Tensor], name: str) -> Tensor:
    for alternative in (name, name.removeprefix("transformer."), name.removeprefix("model.")):
        if alternative in theirs:
            return theirs[alternative]
    raise UserError(f"the checkpoint lacks {name}: it is cut short or of another architecture")


def _is_transposed(family: str, name: str) -> bool:
    if family != "gpt2" or not name.endswith(".weight"):
        return False
    return any(part in next(_their_names(family, name)) for part in TRANSPOSED)


def _expect(config: dict[str, Any], name: str, accepted: tuple[Any, ...]) -> None:
    if config.get(name) not in accepted:
        raise UserError(
            f"the model has {name} = {config.get(name)!r}, which Maquette does not compute "
            f"(it computes {accepted[-1]!r})"
        )
