"""Tokenizers in a GGUF file, as llama.cpp runs them, and back.

    gpt2     byte-level BPE: tokens by GPT-2's names of bytes, merges, and the name of a pattern that texts
             are cut at, of those that llama.cpp knows
    llama    SentencePiece's BPE: pieces with a score, which is minus the rank of their merge, byte tokens

Beside them stands `tokenizer.json` itself (the key tokenizer.huggingface.json), which is read first, so that
a tokenizer comes back as it went. A file without it gives the same from tokens, merges and scores.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maquette.base.errors import UserError
from maquette.base.files import write_atomic
from maquette.corpus.examples.chat_template import CHAT_TEMPLATE
from maquette.corpus.foreign_tokenizer import BYTE, Foreign
from maquette.corpus.special_tokens import SpecialTokens
from maquette.corpus.text.store import TOKENIZER
from maquette.corpus.tokenizer import BYTE_OF, BYTES, Tokenizer, load_tokenizer, pattern
from maquette.serving.gguf_format import shown

HUGGING_FACE = "tokenizer.huggingface.json"
CHAT = "tokenizer.chat_template"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE_TYPE = 1, 2, 3, 4, 5, 6
LONGEST_PIECE = 1024  # characters; every one of them is a place where a piece may be cut
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
PATTERNS = {"gpt-2": GPT2, "llama-bpe": pattern(3), "qwen2": pattern(1), "bloom": BLOOM}
"""patterns that texts are cut at, by llama.cpp's names (llama-vocab.cpp)"""
ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "gpt2": "gpt-2", "olmo": "gpt-2",
           "dbrx": "llama-bpe", "smaug-bpe": "llama-bpe"}  # fmt: skip
SPECIAL_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "padding_token_id": "pad"}


def write_tokenizer(
    tokenizer: Tokenizer | None,
    vocabulary: int,
    chat_template: str | None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The metadata of a tokenizer for a model with so many tokens.

    say: is told where llama.cpp cuts texts otherwise. Raises UserError for a kind that llama.cpp has not.
    """
    if tokenizer is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    content = json.loads(tokenizer.to_json())
    model = content["model"]
    if model.get("type") != "BPE":
        raise UserError(
            f"llama.cpp has no tokenizer of the type {model.get('type')} for these models"
        )
    names: dict[int, str] = {number: name for name, number in model["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for token in content.get("added_tokens") or []:
        names[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    metadata: dict[str, Any]
    if model.get("byte_fallback"):
        for number, name in names.items():
            if BYTE.fullmatch(name):
                types[number] = BYTE_TYPE
        pairs = {tuple(pair) for pair in _merges_of_scores(names, types)}
        if pairs - {tuple(merge.split(" ")) for merge in merges}:
            say("llama.cpp joins pairs that this tokenizer's merges do not: pass it token ids")
        if (unknown := model["vocab"].get(model.get("unk_token"))) is not None:
            types[unknown] = UNKNOWN
        ranks: dict[str, int] = {}
        for rank, merge in enumerate(merges):
            ranks.setdefault(merge.replace(" ", ""), rank)
        scores = [-float(ranks.get(names.get(i, ""), 0)) for i in range(vocabulary)]
        metadata = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.scores": np.array(scores, np.float32),
            "tokenizer.ggml.add_space_prefix": "prepend" in json.dumps(content).lower(),
        }
    else:
        metadata = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": _pattern_name(content, bool(merges), say),
            "tokenizer.ggml.merges": merges,
        }
    missing = [i for i in range(vocabulary) if i not in names]
    names |= {i: f"[PAD{i}]" for i in missing}
    types |= dict.fromkeys(missing, UNUSED)
    metadata["tokenizer.ggml.tokens"] = [names[i] for i in range(vocabulary)]
    metadata["tokenizer.ggml.token_type"] = np.array(
        [types[i] for i in range(vocabulary)], np.int32
    )
    metadata |= _special(tokenizer.special, vocabulary)
    metadata[HUGGING_FACE] = tokenizer.to_json()
    if isinstance(tokenizer, Foreign) and chat_template is None:
        own = tokenizer.special.settings.get("chat_template")
        chat_template = own if isinstance(own, str) else None
    if chat_template is not None:
        metadata[CHAT] = chat_template
    return metadata


def _special(special: SpecialTokens, vocabulary: int) -> dict[str, Any]:
    ids = {
        "bos_token_id": special.bos_token_id,
        "eos_token_id": special.eos_token_id,
        "eot_token_id": next(iter(special.eos_token_ids[1:]), None),
        "padding_token_id": special.pad_token_id,
    }
    known = {k: v for k, v in ids.items() if v is not None and v < vocabulary}
    flags = {"add_bos_token": bool(special.prefix), "add_eos_token": False}
    return {f"tokenizer.ggml.{key}": value for key, value in (known | flags).items()}


def _pattern_name(content: dict[str, Any], merges: bool, say: Callable[[str], None]) -> str:
    """llama.cpp's name of a byte-level tokenizer's pattern, or the nearest with a note."""
    before = content.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    found = [part["pattern"].get("Regex") for part in parts if part.get("type") == "Split"]
    if not found and any(part.get("use_regex", True) for part in parts):
        found = [GPT2]
    if content.get("normalizer") is not None:
        say("llama.cpp does not normalise texts as this tokenizer does: pass it token ids")
    for name, regex in PATTERNS.items():
        if found == [regex]:
            return name
    digits = [n for n in range(1, 10) if found == [pattern(n)]]
    if digits and merges:
        say(
            f"this tokenizer cuts numbers into {digits[0]} digits, llama.cpp into 3: it reads longer numbers "
            f"otherwise (corpus build --digits 3 reads alike)"
        )
    elif merges:
        say(
            "llama.cpp does not know this tokenizer's pattern and takes llama-bpe's: pass it token ids"
        )
    return "llama-bpe"


def read_tokenizer(
    metadata: Mapping[str, Any], vocabulary: int, folder: Path, say: Callable[[str], None]
) -> None:
    """Write the tokenizer of a file into a run's folder, with its special tokens and chat template.

    say: is told where there is none. Raises UserError for one that cannot be read.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is not None and not isinstance(kind, str):
        raise UserError(f"its tokenizer is of the kind {shown(kind)}: it is damaged")
    if kind in (None, "none", "no_vocab"):
        say("the file has no tokenizer: prompts cannot be read")
        return
    content = metadata.get(HUGGING_FACE)
    names = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(names, list) or len(names) != vocabulary:
        raise UserError(f"its list of tokens is not of the {vocabulary:,} rows of its embedding")
    if not isinstance(content, str):
        content = json.dumps(_content(metadata, names), ensure_ascii=False)
    _check_text(content, "its tokenizer")
    write_atomic(folder / TOKENIZER, content)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    chat = metadata.get(CHAT)
    if isinstance(chat, str):
        _check_text(chat, "its chat template")
    if isinstance(tokenizer, Foreign):
        settings = {"chat_template": chat} if isinstance(chat, str) else {}
        _read_special(metadata, vocabulary, settings).save(folder)
        tokenizer = load_tokenizer(folder / TOKENIZER)
    elif isinstance(chat, str):
        write_atomic(folder / CHAT_TEMPLATE, chat)
    special = tokenizer.special_ids if isinstance(tokenizer, Foreign) else set()
    beyond = set(range(vocabulary, tokenizer.vocabulary)) - special
    if beyond - set(tokenizer.missing(tokenizer.vocabulary)):
        raise UserError(f"its tokenizer has more tokens than the {vocabulary:,} of its embedding")
    if tokenizer.eos_token_id is None:
        say(
            "the file names no token that ends a text: generation stops at --tokens or a --stop string"
        )


def _check_text(content: str, what: str) -> None:
    """Raise UserError for bytes of a file that are not UTF-8, and for half a character of JSON."""
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} is not text in UTF-8, which Maquette reads alone") from error


def _read_special(
    metadata: Mapping[str, Any], vocabulary: int, settings: dict[str, Any]
) -> SpecialTokens:
    def token(key: str) -> int | None:
        value: Any = metadata.get(f"tokenizer.ggml.{key}")
        whole = isinstance(value, int) and not isinstance(value, bool)
        return int(value) if whole and 0 <= int(value) < vocabulary else None

    ends = [token("eos_token_id"), token("eot_token_id"), token("eom_token_id")]
    bos = token("bos_token_id")
    default = metadata.get("tokenizer.ggml.model") == "llama"
    prefixed = metadata.get("tokenizer.ggml.add_bos_token", default) is True and bos is not None
    return SpecialTokens(
        tuple(dict.fromkeys(end for end in ends if end is not None)),
        (bos,) if prefixed and bos is not None else (),
        bos,
        token("padding_token_id"),
        settings,
    )


def _content(metadata: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """A `tokenizer.json` from a file's tokens, merges and scores."""
    kind = metadata["tokenizer.ggml.model"]
    types = metadata.get("tokenizer.ggml.token_type")
    if (
        not isinstance(types, np.ndarray)
        or types.dtype.kind not in "iu"
        or len(types) != len(names)
    ):
        raise UserError("its tokens have no types: it is damaged")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": name, "special": int(types[i]) in (CONTROL, UNKNOWN)} | flags
        for i, name in enumerate(names)
        if int(types[i]) in (CONTROL, USER_DEFINED, UNKNOWN)
    ]
    vocabulary = {n: i for i, n in enumerate(names) if int(types[i]) != UNUSED}
    model: dict[str, Any] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "ignore_merges": False, "vocab": vocabulary,
    }  # fmt: skip
    shared = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
              "post_processor": None}  # fmt: skip
    if kind == "gpt2":
        model["merges"] = _merges(metadata)
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
        pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
        regex = PATTERNS.get(ALIASES.get(pre, pre) if isinstance(pre, str) else "")
        if regex is None:
            raise UserError(
                f"its tokenizer cuts texts by the pattern {shown(pre)}: Maquette knows {', '.join(PATTERNS)}"
            )
        if not all(name in vocabulary for name in BYTE_OF):
            raise UserError(f"its tokenizer lacks some of the {BYTES} bytes: it is damaged")
        split = {
            "type": "Split",
            "pattern": {"Regex": regex},
            "behavior": "Isolated",
            "invert": False,
        }
        parts = [split, byte_level | {"use_regex": False}]
        return shared | {
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
            "decoder": byte_level | {"use_regex": False},
            "model": model,
        }
    if kind != "llama":
        raise UserError(
            f"its tokenizer is of the kind {shown(kind)}: Maquette reads gpt2 and llama"
        )
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(names):
        raise UserError("its tokens have no scores: it is damaged")
    unknown = next((n for i, n in enumerate(names) if int(types[i]) == UNKNOWN), None)
    pairs = _merges_of_scores(dict(enumerate(names)), dict(enumerate(types.tolist())))
    merges = sorted(pairs, key=lambda pair: -float(scores[vocabulary["".join(pair)]]))
    model |= {"merges": merges, "byte_fallback": True, "fuse_unk": True, "unk_token": unknown}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefixed = metadata.get("tokenizer.ggml.add_space_prefix", True) is True
    before = [{"type": "Prepend", "prepend": SPACE}] if prefixed else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixed else []
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    return shared | {
        "normalizer": {"type": "Sequence", "normalizers": [*before, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }


def _merges(metadata: Mapping[str, Any]) -> list[list[str]]:
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise UserError("its tokenizer has no merges: it is damaged")
    pairs = [re.split(r"(?<=.) ", merge, maxsplit=1) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError("its tokenizer has a merge that is no pair: it is damaged")
    return pairs


def _merges_of_scores(names: Mapping[int, str], types: Mapping[int, int]) -> list[list[str]]:
    """Every pair of pieces that makes a piece, in the order of the pieces.

    Raises UserError for a piece so long that to cut it everywhere would take long.
    """
    plain = {name: None for number, name in names.items() if types[number] == NORMAL}
    longest = max(map(len, plain), default=0)
    if longest > LONGEST_PIECE:
        raise UserError(
            f"its tokenizer has a token of {longest:,} characters, of at most {LONGEST_PIECE:,} that "
            f"Maquette reads: it is damaged"
        )
    return [
        [name[:k], name[k:]]
        for name in plain
        for k in range(1, len(name))
        if name[:k] in plain and name[k:] in plain
    ]
