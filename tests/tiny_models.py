"""Tiny random models of transformers with tokenizers of four kinds, as folders that people download."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from maquette.corpus.tokenizer import BYTE_OF

WORDS = ["hello", "world", "the", "cat", "sat", "Hello"]


def merged(vocabulary: dict[str, int], words: list[str]) -> list[tuple[str, str]]:
    """Put every beginning of the words into the vocabulary; returns the merges that make them."""
    merges = []
    for word in words:
        for n in range(2, len(word) + 1):
            if word[:n] not in vocabulary:
                merges.append((word[: n - 1], word[n - 1]))
                vocabulary[word[:n]] = len(vocabulary)
    return merges


def byte_level(*special: str, begin: str = "") -> Tokenizer:
    """GPT-2's and Llama 3's kind. begin: what the post-processor puts before a text."""
    vocabulary = {name: i for i, name in enumerate(BYTE_OF)}
    merges = merged(vocabulary, [*WORDS, *(f"Ġ{word}" for word in WORDS)])
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in special])
    if begin:
        made.post_processor = beginning(made, begin)
    return made


def pieces(scheme: str = "prepend") -> Tokenizer:
    """SentencePiece's kind, as Llama 2's: a space is part of a word, unknown characters are bytes."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"<0x{b:02X}>": b + 3 for b in range(256)}
    for letter in "▁abcdefghijklmnopqrstuvwxyzH.,!?<>/|_":
        vocabulary[letter] = len(vocabulary)
    merges = merged(vocabulary, [*WORDS, *(f"▁{word}" for word in WORDS)])
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    if scheme == "prepend":
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    made.post_processor = beginning(made, "<s>")
    return made


def unigram() -> Tokenizer:
    """SentencePiece's other kind, which scores its pieces."""
    bpe = json.loads(pieces().to_str())["model"]["vocab"]
    scored = [(name, -float(i) / 100) for i, name in enumerate(bpe)]
    made = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    made.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    made.post_processor = beginning(made, "<s>")
    return made


def beginning(tokenizer: Tokenizer, name: str) -> Any:
    """A post-processor that puts the token of that name before a text."""
    return processors.TemplateProcessing(
        single=[name, "$A"], special_tokens=[(name, tokenizer.token_to_id(name))]
    )


@dataclass(frozen=True)
class Kind:
    """A tokenizer, what the files beside it say, and rows of the model that are no token."""

    tokenizer: Callable[[], Tokenizer]
    settings: dict[str, Any]
    ends: tuple[str, ...]
    bos: str | None
    padded: int = 0
    listed: bool = False
    """whether only generation_config.json names the ends"""


KINDS = {
    "bos and a list of ends": Kind(
        lambda: byte_level("<|begin|>", "<|end|>", "<|eot|>", begin="<|begin|>"),
        {"bos_token": "<|begin|>", "eos_token": {"__type": "AddedToken", "content": "<|end|>"}},
        ("<|end|>", "<|eot|>"),
        "<|begin|>",
    ),
    "an end of its own name": Kind(
        lambda: byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
        ("<|im_end|>",),
        "<|im_start|>",
    ),
    "pieces": Kind(pieces, {"bos_token": "<s>", "eos_token": "</s>"}, ("</s>",), "<s>"),
    "scored pieces": Kind(unigram, {"bos_token": "<s>", "eos_token": "</s>"}, ("</s>",), "<s>"),
    "a padded vocabulary": Kind(
        lambda: byte_level("<|endoftext|>"), {"eos_token": "<|endoftext|>"}, ("<|endoftext|>",), None, 41
    ),
}  # fmt: skip


def write_files(folder: Path, tokenizer: Tokenizer, settings: dict[str, Any] | None) -> None:
    """Write tokenizer.json, and tokenizer_config.json where settings are given."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings is not None:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | settings
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_model(folder: Path, kind: Kind, seed: int = 0) -> Any:
    """Write a folder that transformers opens; returns its model."""
    tokenizer = kind.tokenizer()
    ends = [tokenizer.token_to_id(name) for name in kind.ends]
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + kind.padded,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=96,
        initializer_range=0.4,
        bos_token_id=None if kind.bos is None else tokenizer.token_to_id(kind.bos),
        eos_token_id=ends if len(ends) > 1 else ends[0],
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    write_files(folder, tokenizer, kind.settings)
    return model


@torch.no_grad()
def continued(folder: Path, prompt: str, tokens: int, start: list[int]) -> tuple[str, list[int]]:
    """What transformers writes after a prompt, greedily: as its pipeline shows it, and as tokens.

    start: what an empty prompt begins with. Rows of the model that are no token are suppressed.
    """
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = reader(prompt)["input_ids"] or start
    rows = torch.tensor([ids])
    missing = list(range(len(reader), model.config.vocab_size))
    written = model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        do_sample=False,
        max_new_tokens=tokens,
        suppress_tokens=missing or None,
        pad_token_id=0,
    )[0].tolist()
    before = reader.decode(ids, skip_special_tokens=True)
    return reader.decode(written, skip_special_tokens=True)[len(before) :], written[len(ids) :]
