"""The small files of transformers' CLIP: config and tokenizer. The processor's are in `clip_processor.py`.

Captions: the tokens that begin and end one come from the tokenizer's post-processor; where that adds
none, from tokenizer_config.json, and then from config.json. Where config.json says `eos_token_id` 2 (files
from before July 2023, OpenAI's among them), the caption's vector stands at its highest token. Keys that a
file leaves out have transformers' defaults (version 5).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
NAMES = {"bos": "<|startoftext|>", "eos": "<|endoftext|>"}  # transformers' CLIPTokenizer's own


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


def side_of(value: Any, name: str) -> int:
    """A size in pixels; their files also write it as height and width."""
    sides = set(value) if isinstance(value, list) else {value}
    if len(sides) != 1:
        raise UserError(f"the model has {name} = {value!r}: Maquette computes squares")
    return int(sides.pop())
