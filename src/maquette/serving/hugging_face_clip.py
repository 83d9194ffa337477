"""Round trips with Hugging Face: CLIP with a Vision Transformer, in and out.

What differs is folded into the weights. Theirs takes pixels scaled by the mean and deviation that its
preprocessor_config.json names, ours takes [-1, 1]: the scale goes into the patch map, the shift into the
positions of the patches. Ours may carry the multipliers of maximal-update parametrisation: they go into
the embeddings, the query maps and the maps that write into the residual stream. Resizing and cropping
pictures is not part of the model, in neither. Captions reach ours renumbered, their end first
(`training/picture_data.py`); the rows of the embedding move along.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.files import directory_aside, read_json, write_json
from maquette.corpus.store import TOKENIZER
from maquette.corpus.tokenizer import load_tokenizer
from maquette.models.clip import LARGEST, Clip
from maquette.models.clip_config import ClipConfig
from maquette.models.picture_config import END
from maquette.models.store import CONFIG, WEIGHTS, fill, save_config, save_tensors
from maquette.nn.rules import Parametrisation
from maquette.serving.hugging_face_config import expect as _expect
from maquette.serving.hugging_face_tensors import read_tensors as _read

PREPROCESSOR = "preprocessor_config.json"
CLASS = "CLIPModel"
SYMBOLS = "caption_tower.symbols.weight"
TOWERS: dict[str, dict[str, str]] = {
    "picture_tower": {
        "patches.map.weight": "vision_model.embeddings.patch_embedding.weight",
        "class_token.weight": "vision_model.embeddings.class_embedding",
        "positions.weight": "vision_model.embeddings.position_embedding.weight",
        "norm_before": "vision_model.pre_layrnorm",
        "blocks": "vision_model.encoder.layers",
        "norm": "vision_model.post_layernorm",
        "map.weight": "visual_projection.weight",
    },
    "caption_tower": {
        "symbols.weight": "text_model.embeddings.token_embedding.weight",
        "positions.weight": "text_model.embeddings.position_embedding.weight",
        "blocks": "text_model.encoder.layers",
        "norm": "text_model.final_layer_norm",
        "map.weight": "text_projection.weight",
    },
}
IN_BLOCK = {
    "attention_norm": ("layer_norm1",),
    "attention.qkv": tuple(f"self_attn.{x}_proj" for x in "qkv"),
    "attention.out": ("self_attn.out_proj",),
    "feedforward_norm": ("layer_norm2",),
    "feedforward.up": ("mlp.fc1",),
    "feedforward.down": ("mlp.fc2",),
}
# What their config.json leaves out where it is the default (transformers 5).
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}


def import_clip(source: Path, out: Path) -> ClipConfig:
    """Read a folder of transformers' CLIPModel into a run directory `out`."""
    theirs = read_json(source / CONFIG)
    config, end = read_config(theirs), end_of(theirs)
    if (source / TOKENIZER).exists() and load_tokenizer(source / TOKENIZER).end != end:
        raise UserError(f"{source / TOKENIZER} ends a text otherwise than {CONFIG} says ({end})")
    model = Clip(config)
    tensors = from_theirs(model, _read(source), *scaling_of(source))
    tensors[SYMBOLS] = tensors[SYMBOLS][order(config.vocabulary, end)]
    fill(model, tensors, source)
    with directory_aside(out) as folder:
        save_config(folder, config)
        save_tensors(folder / WEIGHTS, dict(model.named_parameters()))
        if (source / TOKENIZER).exists():
            shutil.copyfile(source / TOKENIZER, folder / TOKENIZER)
    return config


def export_clip(model: Clip, run: Path, out: Path) -> str:
    """Write a CLIP, whose run has the tokenizer, as a folder that transformers opens."""
    c = model.config
    if c.objective != "softmax" or c.noised:
        what = "sees noise and the time" if c.noised else "was trained with the sigmoid loss"
        raise UserError(f"{run} {what}: transformers' {CLASS} has no place for that")
    end = load_tokenizer(run / TOKENIZER).end if (run / TOKENIZER).exists() else END
    if end is None or end == 2:
        raise UserError(f"captions of {run} end with symbol {end}, which {CLASS} does not read")
    tensors, symbols = to_theirs(model), TOWERS["caption_tower"]["symbols.weight"]
    tensors[symbols] = tensors[symbols][order(c.vocabulary, end).argsort()]
    with directory_aside(out) as folder:
        save_tensors(folder / WEIGHTS, tensors)
        if (run / TOKENIZER).exists():
            shutil.copyfile(run / TOKENIZER, folder / TOKENIZER)
        half = [0.5, 0.5, 0.5]
        write_json(
            folder / PREPROCESSOR,
            {
                "image_processor_type": "CLIPImageProcessor",
                "image_mean": half,
                "image_std": half,
                "size": {"shortest_edge": c.size},
                "crop_size": {"height": c.size, "width": c.size},
            },
        )
        write_json(folder / CONFIG, write_config(c, end))
    return CLASS


def order(vocabulary: int, end: int) -> Tensor:
    """Their number of each of our symbols, (vocabulary,): the end, those before it, those after."""
    numbers = torch.arange(vocabulary)
    return torch.cat([numbers[end : end + 1], numbers[:end], numbers[end + 1 :]])


def end_of(theirs: dict[str, Any]) -> int:
    """The symbol that ends their captions."""
    text = _tower(theirs, "text_config", TEXT)
    end, vocabulary = int(text["eos_token_id"]), int(text["vocab_size"])
    if end == 2:  # in files from before July 2023, for the highest symbol
        return vocabulary - 1
    if not 0 <= end < vocabulary:
        raise UserError(f"text_config.eos_token_id is {end}, the vocabulary has {vocabulary}")
    return end


def _tower(theirs: dict[str, Any], name: str, default: dict[str, Any]) -> dict[str, Any]:
    return default | (theirs.get(name) or {}) | (theirs.get(f"{name}_dict") or {})


def read_config(theirs: dict[str, Any]) -> ClipConfig:
    """Their config.json as ours. Raises UserError for a variant that would compute otherwise."""
    v, t = _tower(theirs, "vision_config", VISION), _tower(theirs, "text_config", TEXT)
    _expect(v, "num_channels", (3,))
    for tower in (v, t):
        _expect(tower, "hidden_act", ("gelu", "quick_gelu"))
    for name in ("hidden_act", "layer_norm_eps"):
        _expect(t, name, (v[name],))
    begin, end = t["bos_token_id"], end_of(theirs)
    if begin is not None:
        begin = None if begin >= t["vocab_size"] or begin == end else begin + (begin < end)
    return ClipConfig(
        size=v["image_size"],
        width=v["hidden_size"],
        depth=v["num_hidden_layers"],
        patch=v["patch_size"],
        heads=v["num_attention_heads"],
        hidden=v["intermediate_size"],
        vocabulary=t["vocab_size"],
        words=t["max_position_embeddings"] - (begin is not None),
        begin=begin,
        text_width=t["hidden_size"],
        text_depth=t["num_hidden_layers"],
        text_heads=t["num_attention_heads"],
        text_hidden=t["intermediate_size"],
        embedding=theirs.get("projection_dim", 512),
        activation=v["hidden_act"],
        norm_epsilon=v["layer_norm_eps"],
        parametrisation=Parametrisation(kind="standard"),
    )


def write_config(c: ClipConfig, end: int) -> dict[str, Any]:
    """Our config as their config.json. end: the symbol that ends a caption there."""
    begin = None if c.begin is None else int(order(c.vocabulary, end)[c.begin])
    both = {
        "hidden_act": c.activation,
        "layer_norm_eps": c.norm_epsilon,
        "projection_dim": c.embedding,
    }
    return {
        "architectures": [CLASS],
        "model_type": "clip",
        "projection_dim": c.embedding,
        "torch_dtype": "float32",
        "vision_config": both
        | {
            "model_type": "clip_vision_model",
            "hidden_size": c.width,
            "intermediate_size": c.hidden or 4 * c.width,
            "num_hidden_layers": c.depth,
            "num_attention_heads": c.heads,
            "image_size": c.size,
            "patch_size": c.patch,
        },
        "text_config": both
        | {
            "model_type": "clip_text_model",
            "vocab_size": c.vocabulary,
            "hidden_size": c.text_width,
            "intermediate_size": c.text_hidden or 4 * c.text_width,
            "num_hidden_layers": c.text_depth,
            "num_attention_heads": c.text_heads,
            "max_position_embeddings": c.words + (c.begin is not None),
            "bos_token_id": begin,
            "eos_token_id": end,
            "pad_token_id": end,
        },
    }


def scaling_of(source: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (3,) each, that pixels in [0, 1] are scaled by before their model."""
    if (source / PREPROCESSOR).exists():
        content = read_json(source / PREPROCESSOR)
    elif (source / "processor_config.json").exists():
        content = read_json(source / "processor_config.json").get("image_processor", {})
    else:
        raise UserError(
            f"{source} holds no {PREPROCESSOR}, which says how pixels are scaled: copy it there"
        )
    if not content.get("do_normalize", True):
        return torch.zeros(3), torch.ones(3)
    if "image_mean" not in content or "image_std" not in content:
        raise UserError(f"{source / PREPROCESSOR} says neither image_mean nor image_std: add them")
    return torch.tensor(content["image_mean"]), torch.tensor(content["image_std"])


def from_theirs(
    model: Clip, theirs: dict[str, Tensor], mean: Tensor, deviation: Tensor
) -> dict[str, Tensor]:
    """Their tensors under our names, for pixels in [-1, 1]."""
    ours = {}
    for name, parameter in model.named_parameters():
        names = their_names(name)
        missing = [one for one in names if one not in theirs]
        if missing:
            raise UserError(f"the checkpoint lacks {missing[0]}: it is cut short or no CLIP")
        found = torch.cat([theirs[one].float() for one in names]) if len(names) > 1 else None
        tensor = theirs[names[0]].float() if found is None else found
        whole = name.endswith(("patches.map.weight", "class_token.weight", "logit_scale"))
        ours[name] = tensor.reshape(parameter.shape) if whole else tensor
    # (p - mean) / deviation with p = (x + 1) / 2 is x / (2 deviation) + (1/2 - mean) / deviation
    patches = theirs["vision_model.embeddings.patch_embedding.weight"].float()
    shift = (patches.sum((2, 3)) * ((0.5 - mean) / deviation)).sum(1)  # (width,)
    scaled = patches / (2 * deviation)[:, None, None]
    ours["picture_tower.patches.map.weight"] = scaled.flatten(1)
    positions = ours["picture_tower.positions.weight"].clone()
    positions[1:] += shift
    ours["picture_tower.positions.weight"] = positions
    return ours


def to_theirs(model: Clip) -> dict[str, Tensor]:
    """Our tensors under their names, the multipliers of muP folded in."""
    c, scaling = model.config, model.scaling
    theirs = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().float().clone()
        text = name.startswith("caption_tower")
        width, heads = (c.text_width, c.text_heads) if text else (c.width, c.heads)
        if ".attention.qkv." in name:
            tensor[:width] *= scaling.attention_scale(width // heads) * math.sqrt(width // heads)
        elif ".attention.out." in name or ".feedforward.down." in name:
            tensor *= scaling.residual_multiplier
        elif name in (SYMBOLS, "caption_tower.positions.weight"):
            tensor *= scaling.input_multiplier
        elif name.endswith("patches.map.weight"):
            tensor = tensor.unflatten(1, (3, c.patch, c.patch))
        elif name.endswith("class_token.weight"):
            tensor = tensor[0]
        elif name == "logit_scale":
            tensor = tensor.clamp(max=LARGEST).reshape(())
        names = their_names(name)
        for one, part in zip(
            names, tensor.chunk(len(names)) if names[1:] else [tensor], strict=True
        ):
            theirs[one] = part.contiguous()
    return theirs


def their_names(name: str) -> tuple[str, ...]:
    """What one of our parameters is called there; several that are stacked along the output."""
    if name == "logit_scale":
        return (name,)
    tower, _, rest = name.partition(".")
    names = TOWERS[tower]
    if rest in names:
        return (names[rest],)
    module, _, kind = rest.rpartition(".")
    if module in names:
        return (f"{names[module]}.{kind}",)
    _, number, inner = module.split(".", 2)
    return tuple(f"{names['blocks']}.{number}.{one}.{kind}" for one in IN_BLOCK[inner])
