"""A Hugging Face model's tokenizer: read beside its weights, and written so that transformers reads alike.

Read are `tokenizer.json` as it stands, or the `vocab.json` and `merges.txt` of GPT-2's tokenizer where
there is none, with what `corpus/special_tokens.py` reads beside them. What is written is opened by
transformers' AutoTokenizer as a PreTrainedTokenizerFast, which takes `tokenizer.json` as it is; a class
such as LlamaTokenizer would build its own from the same pieces, which cuts leading spaces otherwise.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.files import read_json, write_atomic, write_json
from maquette.corpus.foreign_tokenizer import Foreign
from maquette.corpus.special_tokens import (
    SpecialTokens,
    read_settings,
    read_special_tokens,
    token_name,
)
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import BYTE_OF, EOS_TOKEN, Tokenizer, load_tokenizer

CLASS = "PreTrainedTokenizerFast"
VOCAB, MERGES, SENTENCEPIECE = "vocab.json", "merges.txt", "tokenizer.model"
NAMED_KEYS = ("additional_special_tokens", "extra_special_tokens")


def read_tokenizer(
    source: Path, vocabulary: int, say: Callable[[str], None] = lambda text: None
) -> Tokenizer:
    """The tokenizer of a model with so many rows in its embedding; `say` is told what is odd.

    Raises UserError where there is none that can be read, or where it is another model's.
    """
    if (source / TOKENIZER).exists():
        tokenizer = load_tokenizer(source / TOKENIZER)
    elif (source / VOCAB).exists() and (source / MERGES).exists():
        tokenizer = _gpt2(source)
    else:
        raise UserError(f"{source} holds no {TOKENIZER}: {_mend(source)}")
    _check(tokenizer, source, vocabulary, say)
    if tokenizer.eos_token_id is None:
        say(
            f"{source} names no token that ends a text: generation stops at --tokens or a --stop string"
        )
    return tokenizer


def _mend(source: Path) -> str:
    convert = (
        "open it with transformers' AutoTokenizer (pip install sentencepiece tiktoken) and "
        "save_pretrained it there"
    )
    if (source / SENTENCEPIECE).exists():
        return f"its {SENTENCEPIECE} is not read: {convert}"
    if (source / VOCAB).exists():
        return f"copy the model's {MERGES} beside its {VOCAB}, or its {TOKENIZER}"
    return f"copy the model's {TOKENIZER} there"


def _check(tokenizer: Tokenizer, source: Path, vocabulary: int, say: Callable[[str], None]) -> None:
    """Raise UserError for a tokenizer with more tokens than the model has rows; note added tokens."""
    beyond = [] if tokenizer.vocabulary <= vocabulary else range(vocabulary, tokenizer.vocabulary)
    missing = set(tokenizer.missing(tokenizer.vocabulary))
    tokens = [token for token in beyond if token not in missing]
    special = tokenizer.special_ids if isinstance(tokenizer, Foreign) else set()
    if any(token not in special for token in tokens):
        raise UserError(
            f"the tokenizer of {source} has {tokenizer.vocabulary:,} tokens, the model "
            f"{vocabulary:,}: it belongs to another model"
        )
    if tokens:
        names = ", ".join(tokenizer.decode([token]) for token in tokens[:3])
        say(f"{len(tokens)} special tokens have no row in the model and cannot be used: {names}")


def _gpt2(source: Path) -> Foreign:
    """The tokenizer of GPT-2's two files, as transformers' GPT2Tokenizer makes it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    names, settings = read_json(source / VOCAB), read_settings(source)
    if not isinstance(names, dict) or not all(name in names for name in BYTE_OF):
        raise UserError(f"{source / VOCAB} is not of a byte-level tokenizer: {_mend(source)}")
    try:
        model = models.BPE.from_file(str(source / VOCAB), str(source / MERGES))
    except Exception as error:  # the Rust library raises a bare Exception
        raise UserError(f"{source / MERGES} does not fit {VOCAB} ({error}): restore it") from error
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(bool(settings.get("add_prefix_space")))
    made.decoder = decoders.ByteLevel()
    added = source / "added_tokens.json"
    more = read_json(added) if added.exists() else {}
    if not isinstance(more, dict):
        raise UserError(f"{added} is no JSON object: restore it, or remove it")
    if not all(type(number) is int for number in more.values()):
        raise UserError(f"{added} has numbers that are none: restore it, or remove it")
    for name in sorted(more, key=more.__getitem__):
        made.add_tokens([AddedToken(name, normalized=False)])
        if made.token_to_id(name) != more[name]:
            raise UserError(
                f"{added} says {name} is token {more[name]}, after {VOCAB} it is "
                f"{made.token_to_id(name)}: restore both"
            )
    for key in ("bos_token", "eos_token", "unk_token"):
        settings.setdefault(key, EOS_TOKEN)  # as GPT2Tokenizer does
    known = {token_name(value) for key, value in settings.items() if key.endswith("_token")}
    made.add_special_tokens([n for n in known if n and made.token_to_id(n) is not None])
    special = read_special_tokens(source, made, settings)
    return Foreign(made.to_str(), special)


def write_tokenizer(
    tokenizer: Tokenizer, folder: Path, context: int, chat_template: str | None = None
) -> None:
    """Write tokenizer.json and tokenizer_config.json for transformers.

    chat_template: how conversations are written, where that is not what the tokenizer says. With one, the
    name of the end token is that token in any text, for so the end of an answer is written.
    """
    special = tokenizer.special
    content = json.loads(tokenizer.to_json())
    if isinstance(tokenizer, Foreign):
        if tokenizer.put_around()[0] != special.prefix:
            content["post_processor"] = _template(tokenizer, special)
        settings = _settings(tokenizer)
    else:
        settings = {
            "bos_token": EOS_TOKEN,
            "eos_token": EOS_TOKEN,
            "pad_token": EOS_TOKEN,
            "padding_side": "left",
            "model_max_length": context,
            "split_special_tokens": True,  # text that looks like the end is text, as it is here
            "clean_up_tokenization_spaces": False,
        }
    write_atomic(folder / TOKENIZER, json.dumps(content, ensure_ascii=False))
    if chat_template is not None:
        settings |= {"chat_template": chat_template, "split_special_tokens": False}
    write_json(folder / "tokenizer_config.json", settings | {"tokenizer_class": CLASS})


def _settings(tokenizer: Foreign) -> dict[str, Any]:
    """The tokenizer's own `tokenizer_config.json`, without names of missing tokens."""
    special, settings = tokenizer.special, dict(tokenizer.special.settings)
    for key in ("auto_map", "tokenizer_file", "name_or_path"):
        settings.pop(key, None)
    for key in [key for key in settings if key.endswith("_token")]:
        if isinstance(value := settings.pop(key), bool):
            settings[key] = value  # add_bos_token
        elif (name := token_name(value)) is not None and tokenizer.has(name):
            settings[key] = name  # its flags are in tokenizer.json
        # Any other one transformers would add, and the model has no row for it.
    for key in NAMED_KEYS:
        if isinstance(more := settings.pop(key, None), list):
            names = [token_name(value) or "" for value in more]
            settings[key] = [name for name in names if tokenizer.has(name)]
    if special.bos_token_id is None:  # its texts begin after an EOS token
        settings.pop("bos_token", None)
    if "add_bos_token" in settings:
        settings["add_bos_token"] = bool(special.prefix)
    if isinstance(added := settings.pop("added_tokens_decoder", None), dict):
        settings["added_tokens_decoder"] = {
            number: token
            for number, token in added.items()
            if tokenizer.has(token_name(token) or "")
        }
    for key, token in (("bos_token", special.bos_token_id), ("eos_token", special.eos_token_id)):
        if token is not None and special.settings.get(key, "") is not None:
            settings.setdefault(key, tokenizer.name(token))
    if "pad_token" not in settings:
        pad = special.eos_token_id if special.pad_token_id is None else special.pad_token_id
        if pad is not None:
            settings["pad_token"] = tokenizer.name(pad)
        settings.setdefault("padding_side", "left")
    if str(settings.get("tokenizer_class", "")).startswith("LlamaTokenizer"):
        settings.setdefault("padding_side", "left")  # the default of that class
    return settings


def _template(tokenizer: Foreign, special: SpecialTokens) -> dict[str, Any] | None:
    """A post-processor that puts the prefix before a text."""
    if not special.prefix:
        return None
    from tokenizers import processors

    names = [(tokenizer.name(token) or "", token) for token in special.prefix]
    before = [name for name, _ in names]
    template = processors.TemplateProcessing(
        single=[*before, "$A"], pair=[*before, "$A", *before, "$B"], special_tokens=names
    )
    state: dict[str, Any] = json.loads(template.__getstate__())
    return state
