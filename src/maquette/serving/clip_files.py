"""The small files of transformers' CLIP: config, tokenizer and processor.

Captions: the tokens that begin and end one come from the tokenizer's post-processor; where that adds
none, from tokenizer_config.json, and then from config.json. Where config.json says `eos_token_id` 2 (files
from before July 2023, OpenAI's among them), the caption's vector stands at its highest token. Keys that a
file leaves out have transformers' defaults (version 5).

Pictures: ours are in [-1, 1]; `Scale` says what their model sees instead. How a picture of another size
is cut and resized is no part of a model: it is kept for an export, and `notes` names where it differs.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.base.errors import UserError
from maquette.base.files import read_json
from maquette.corpus.pictures.caption_tokenizer import (
    TOKENIZER_CONFIG,
    CaptionTokenizer,
    open_caption_tokenizer,
)
from maquette.corpus.special_tokens import token_name
from maquette.corpus.text.store import TOKENIZER
from maquette.models.clip_config import ClipConfig
from maquette.models.store import CONFIG
from maquette.nn.rules import Parametrisation
from maquette.serving.hugging_face_config import expect

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
CLASS = "CLIPModel"
HIGHEST = 2  # the eos_token_id of files whose vectors stand at the highest token
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
PROJECTION = 512
USED = {
    "size": "do_resize",
    "crop_size": "do_center_crop",
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
}
NAMES = {"bos": "<|startoftext|>", "eos": "<|endoftext|>"}  # transformers' CLIPTokenizer's own
PICTURES = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
LANCZOS, BICUBIC = 1, 3  # as Pillow numbers them; ours are resized by the first
FILTERS = {
    0: "nearest",
    LANCZOS: "Lanczos",
    2: "bilinear",
    BICUBIC: "bicubic",
    4: "box",
    5: "Hamming",
}


@dataclass(frozen=True)
class Captions:
    """The captions' tokenizer of a folder.

    content, settings: its tokenizer.json and tokenizer_config.json. bos_token_id,
    eos_token_id: the tokens before and behind a caption, as their model numbers them. highest: whether a
    caption's vector stands at its highest token id, where that may be another than EOS. most: tokens of a
    caption, both included.
    """

    content: str
    settings: dict[str, Any]
    bos_token_id: int | None
    eos_token_id: int
    highest: bool
    most: int


@dataclass(frozen=True)
class Scale:
    """Their scaling of a pixel x in [-1, 1]: factor x + shift, (3,) each."""

    factor: Tensor
    shift: Tensor


def tower(theirs: dict[str, Any], name: str, default: dict[str, Any]) -> dict[str, Any]:
    """The config of a tower. Where `NAME_dict` is there, all it leaves out has its default again."""
    newer, older = theirs.get(name) or {}, theirs.get(f"{name}_dict")
    for part in (newer, older or {}):
        if not isinstance(part, dict):
            raise UserError(f"{CONFIG}: {name} is no object: restore the file")
    config = default | newer | ({} if older is None else default | older)
    for key, usual in default.items():
        counted = type(usual) is int and not key.endswith(("_id", "image_size", "patch_size"))
        if counted and (type(config[key]) is not int or config[key] < 1):
            raise UserError(
                f"{CONFIG}: {name}.{key} is {config[key]!r}, not a whole number above 0: restore it"
            )
    return config


def read_captions(source: Path, theirs: dict[str, Any]) -> Captions:
    """The tokenizer of their folder. Raises UserError where there is none, or it fits another model."""
    file, text = source / TOKENIZER, tower(theirs, "text_config", TEXT)
    if not file.exists():
        old = (source / "vocab.json").exists()
        mend = (
            "write one from its vocab.json by transformers' AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER)"
            if old
            else "copy it there"
        )
        raise UserError(f"{source} has no {TOKENIZER}, by which captions are read: {mend}")
    path = source / TOKENIZER_CONFIG
    settings: dict[str, Any] = read_json(path) if path.exists() else {}
    if not isinstance(settings, dict):
        raise UserError(f"{path} is no JSON object: restore it, or remove it")
    tokenizer = open_caption_tokenizer(file, settings)
    if not tokenizer.added.behind:
        content = _with_special_tokens(file, tokenizer, settings, text)
        tokenizer = CaptionTokenizer(content, tokenizer.split)
    before, behind = tokenizer.added.before, tokenizer.added.behind
    if len(before) > 1 or len(behind) != 1:
        raise UserError(
            f"{file} puts {len(before)} tokens before a caption and {len(behind)} behind it, where a CLIP "
            f"has one beginning at most and one end: set its post_processor so"
        )
    bos_token_id, eos_token_id = (before[0] if before else None), behind[0]
    if tokenizer.vocabulary - 1 >= text["vocab_size"]:
        raise UserError(
            f"{file} has tokens up to {tokenizer.vocabulary - 1}, {CONFIG} room for {text['vocab_size']} "
            f"(text_config.vocab_size): they belong to two models"
        )
    named_eos = text["eos_token_id"]
    named_eos = named_eos[0] if isinstance(named_eos, list) and len(named_eos) == 1 else named_eos
    if named_eos not in (HIGHEST, eos_token_id):
        raise UserError(
            f"{file} ends a caption by token {eos_token_id}, {CONFIG} by {named_eos} "
            f"(text_config.eos_token_id): they belong to two models"
        )
    highest = named_eos == HIGHEST and eos_token_id < tokenizer.vocabulary - 1
    most, longest = text["max_position_embeddings"], settings.get("model_max_length")
    if isinstance(longest, int | float) and 0 < longest < most:
        most = int(longest)
    return Captions(tokenizer.to_json(), settings, bos_token_id, eos_token_id, highest, most)


def _with_special_tokens(
    file: Path, tokenizer: CaptionTokenizer, settings: dict[str, Any], text: dict[str, Any]
) -> str:
    """A tokenizer.json without EOS in its post-processor, given the BOS and EOS tokens of other files."""

    def named(key: str) -> int | None:
        token = token_name(settings.get(f"{key}_token"))
        if token is None and str(settings.get("tokenizer_class", "")).startswith("CLIPTokenizer"):
            token = NAMES[key]
        if token is not None:
            return tokenizer.number_of(token)
        number = text[f"{key}_token_id"]
        return None if number is None or text["eos_token_id"] == HIGHEST else int(number)

    eos_token_id = named("eos")
    if eos_token_id is None:
        raise UserError(
            f"{file} adds no end to a caption, and no other file names one: say eos_token in "
            f"{TOKENIZER_CONFIG}"
        )
    return with_special_tokens(tokenizer.to_json(), tokenizer, named("bos"), eos_token_id)


def with_special_tokens(
    content: str, tokenizer: CaptionTokenizer, bos_token_id: int | None, eos_token_id: int
) -> str:
    """A tokenizer.json whose post-processor puts these tokens before a text and behind it."""
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}]
    names = {i: tokenizer.name_of(i) for i in (bos_token_id, eos_token_id) if i is not None}

    def token(i: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": names[i], "type_id": 0}}

    single = (
        ([] if bos_token_id is None else [token(bos_token_id)]) + sequence + [token(eos_token_id)]
    )
    special = {n: {"id": n, "ids": [i], "tokens": [n]} for i, n in names.items()}
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}, token(eos_token_id)],
        "special_tokens": special,
    }
    return json.dumps(json.loads(content) | {"post_processor": template}, ensure_ascii=False)


def read_config(theirs: dict[str, Any], captions: Captions) -> ClipConfig:
    """Their config.json as ours. Raises UserError for a variant that would compute otherwise."""
    v, t = tower(theirs, "vision_config", VISION), tower(theirs, "text_config", TEXT)
    expect(v, "num_channels", (3,))
    for config in (v, t):
        expect(config, "hidden_act", ("gelu", "quick_gelu"))
    for name in ("hidden_act", "layer_norm_eps"):
        expect(t, name, (v[name],))
    bos_token_id, eos_token_id = captions.bos_token_id, captions.eos_token_id
    if bos_token_id is not None:
        bos_token_id += bos_token_id < eos_token_id  # as ours are numbered: EOS first
    return ClipConfig(
        image_size=side_of(v["image_size"], "image_size"),
        width=v["hidden_size"],
        depth=v["num_hidden_layers"],
        patch=side_of(v["patch_size"], "patch_size"),
        heads=v["num_attention_heads"],
        hidden=v["intermediate_size"],
        vocabulary=t["vocab_size"],
        caption_length=captions.most - (bos_token_id is not None),
        bos_token_id=bos_token_id,
        highest=eos_token_id if captions.highest else None,
        text_width=t["hidden_size"],
        text_depth=t["num_hidden_layers"],
        text_heads=t["num_attention_heads"],
        text_hidden=t["intermediate_size"],
        embedding=theirs.get("projection_dim", PROJECTION),
        activation=v["hidden_act"],
        norm_epsilon=v["layer_norm_eps"],
        parametrisation=Parametrisation(kind="standard"),
    )


def write_config(c: ClipConfig, bos_token_id: int | None, eos_token_id: int) -> dict[str, Any]:
    """Our config as their config.json, with their token ids of BOS and EOS."""
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
            "image_size": c.image_size,
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
            "max_position_embeddings": c.caption_length + (c.bos_token_id is not None),
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id if c.highest is None else HIGHEST,
            "pad_token_id": eos_token_id,
        },
    }


def write_tokenizer_config(name: str, most: int) -> dict[str, Any]:
    """tokenizer_config.json of a CLIP trained here. name: the EOS token. most: tokens of a caption."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": name,
        "pad_token": name,
        "model_max_length": most,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }


def read_processor(source: Path) -> dict[str, Any]:
    """The settings of their processor, completed by its defaults."""
    if (source / PREPROCESSOR).exists():
        content = read_json(source / PREPROCESSOR)
    elif (source / PROCESSOR).exists():
        content = read_json(source / PROCESSOR).get("image_processor", {})
    else:
        raise UserError(
            f"{source} holds no {PREPROCESSOR}, which says how pixels are scaled: copy it there"
        )
    if not isinstance(content, dict):
        raise UserError(f"the {PREPROCESSOR} of {source} is no JSON object: restore it")
    kind = str(content.get("image_processor_type", content.get("feature_extractor_type", "CLIP")))
    left_out = sorted(PICTURES.keys() - content.keys())
    if left_out and not kind.startswith("CLIP"):
        raise UserError(
            f"the {PREPROCESSOR} of {source} is a {kind}, whose default of {left_out[0]} Maquette does not "
            f"know: add it there"
        )
    processor: dict[str, Any] = PICTURES | content
    for name, used in USED.items():  # of null transformers makes no, and refuses what it then needs
        if processor[name] is None and processor[used]:
            raise UserError(
                f"the {PREPROCESSOR} of {source} says {used}, and {name} is null: restore it"
            )
    for name, edge in (("size", "shortest_edge"), ("crop_size", "")):
        side = processor[name]
        if isinstance(side, int):
            processor[name] = {edge: side} if edge else {"height": side, "width": side}
    return processor


def scale_of(processor: dict[str, Any]) -> Scale:
    """The scaling of a processor: (255 (x + 1) / 2 rescale - mean) / deviation."""
    ones = torch.ones(3)
    half = 127.5 * (float(processor["rescale_factor"]) if processor["do_rescale"] else 1.0) * ones
    if not processor["do_normalize"]:
        return Scale(half, half)
    mean, deviation = torch.tensor(processor["image_mean"]), torch.tensor(processor["image_std"])
    return Scale(half / deviation, (half - mean) / deviation)


def differences(processor: dict[str, Any], image_size: int) -> list[str]:
    """Notes on differences between their processing of a picture of another size and ours.

    Raises UserError where what they make does not fit the model.
    """
    crop, shape = processor["crop_size"], processor["size"]
    whole = {"height": image_size, "width": image_size}
    if processor["do_center_crop"] and {k: crop.get(k) for k in whole} != whole:
        raise UserError(
            f"{PREPROCESSOR} cuts pictures to crop_size {crop}, the model takes {image_size} x {image_size}: "
            f"they belong to two models"
        )
    notes = []
    if processor["do_resize"] and processor["resample"] != LANCZOS:
        name = FILTERS.get(processor["resample"], str(processor["resample"]))
        notes.append(f"resizes pictures by the {name} filter, Maquette by Lanczos")
    if processor["do_resize"] and not processor["do_center_crop"] and "shortest_edge" not in shape:
        notes.append("squeezes a picture into a square, Maquette takes its middle square")
    if processor["do_resize"] and shape.get("shortest_edge", image_size) != image_size:
        notes.append(
            f"takes the middle {image_size} pixels of {shape['shortest_edge']}, Maquette the whole middle "
            f"square"
        )
    if not processor["do_resize"]:
        notes.append("resizes no picture, Maquette resizes its middle square")
    return [
        f"their processor {note}: pictures of {image_size} x {image_size} are read alike"
        for note in notes
    ]


def write_processor(processor: dict[str, Any] | None, image_size: int) -> dict[str, Any]:
    """The processor of a model that takes pixels in [-1, 1]. processor: what was read with it, if it was.

    Else as our pictures are made: the middle square, resized by Lanczos.
    """
    ours: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": LANCZOS,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_convert_rgb": True,
    }
    scaled = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return (ours if processor is None else processor) | scaled


def side_of(value: Any, name: str) -> int:
    """A size in pixels; their files also write it as height and width."""
    sides = set(value) if isinstance(value, list) else {value}
    if len(sides) != 1:
        raise UserError(f"the model has {name} = {value!r}: Maquette computes squares")
    return int(sides.pop())
