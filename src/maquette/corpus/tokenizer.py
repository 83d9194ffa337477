r"""Byte-pair tokenizers: trained by rustbpe, run by tiktoken, kept as Hugging Face `tokenizer.json`.

Measured on 31 MB of source code, 2 cores, a vocabulary of 4,096: training 2.1 s (Hugging Face tokenizers
5.6 s) and encoding 12 MB/s (3.5 MB/s), with the same tokens to the last one; so the fast pair does
the work and the common file format carries the result. `tokenizer.json` files from elsewhere run
through the Hugging Face library.

The pattern is Llama 3's, numbers cut to two digits because a small vocabulary has no room for a
thousand three-digit numbers. A vocabulary of 257 is plain bytes and an EOS token.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.base.files import read_json, write_atomic
from maquette.corpus.foreign_tokenizer import Foreign, load_foreign
from maquette.corpus.special_tokens import SPECIAL, SpecialTokens

EOS_TOKEN = "<|endoftext|>"
DIGITS = 2
BYTES = 256
Tokens = npt.NDArray[np.uint32]


def pattern(digits: int = DIGITS) -> str:
    """The pre-tokenization pattern: text is split there; numbers are cut to `digits` digits."""
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{digits}}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


class Tokenizer(Protocol):
    """A tokenizer: text to token ids and back."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens, special ones included."""
        ...

    @property
    def special(self) -> SpecialTokens:
        """The special tokens: BOS, EOS and padding."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """The token id that ends a document."""
        ...

    def encode(self, text: str) -> list[int]:
        """The text's token ids, without special tokens added."""
        ...

    def encode_batch(self, texts: Sequence[str], workers: int) -> list[Tokens]:
        """`encode` of many texts on `workers` threads, in their order."""
        ...

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, with its prefix; empty only where no special token can begin a text."""
        ...

    def encode_marked(self, text: str) -> list[int]:
        """Token ids of a text in which the names of special tokens are these tokens, without a prefix."""
        ...

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of the token ids; broken characters become U+FFFD."""
        ...

    def unsettled(self, tokens: Sequence[int]) -> int:
        """Number of tokens at the end whose text may still change with the tokens that follow."""
        ...

    def missing(self, vocabulary: int) -> list[int]:
        """Token ids below a model's `vocabulary` that the tokenizer lacks: of padding, holes."""
        ...

    def decode_bytes(self, tokens: npt.NDArray[Any]) -> bytes:
        """The bytes of the token ids, UTF-8 for whole documents; without EOS tokens."""
        ...

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        ...


class BytePair:
    """Byte-level BPE: token ids 0-255 are the bytes, each later token joins two before it."""

    def __init__(self, token_bytes: Sequence[bytes], regex: str | None = None) -> None:
        import tiktoken

        self.regex = regex or pattern()
        self._joined: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None = None
        self.token_bytes = list(token_bytes)  # of each token id, without the EOS token
        self.vocabulary = len(self.token_bytes) + 1
        self.eos_token_id: int | None = len(self.token_bytes)
        self.special = SpecialTokens(
            eos_token_ids=(len(self.token_bytes),), bos_token_id=len(self.token_bytes)
        )
        self._encoding = tiktoken.Encoding(
            "maquette",
            pat_str=self.regex,
            mergeable_ranks={token: i for i, token in enumerate(self.token_bytes)},
            special_tokens={EOS_TOKEN: len(self.token_bytes)},
        )

    def encode(self, text: str) -> list[int]:
        if len(self.token_bytes) == BYTES:
            return list(text.encode("utf-8", "replace"))
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], workers: int) -> list[Tokens]:
        if len(self.token_bytes) == BYTES:
            encoded = (text.encode("utf-8", "replace") for text in texts)
            return [np.frombuffer(e, dtype=np.uint8).astype(np.uint32) for e in encoded]
        batch = self._encoding.encode_ordinary_batch(list(texts), num_threads=workers)
        return [np.array(tokens, dtype=np.uint32) for tokens in batch]

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text) or [len(self.token_bytes)]

    def encode_marked(self, text: str) -> list[int]:
        first, *others = map(self.encode, text.split(EOS_TOKEN))
        return [*first, *(token for part in others for token in (len(self.token_bytes), *part))]

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = False) -> str:
        eos_token = b"" if skip_special_tokens else EOS_TOKEN.encode()
        joined = b"".join(
            self.token_bytes[t] if t != self.eos_token_id else eos_token for t in tokens
        )
        return joined.decode("utf-8", "replace")

    def unsettled(self, tokens: Sequence[int]) -> int:
        return 0  # but for half a character, which reads as U+FFFD

    def missing(self, vocabulary: int) -> list[int]:
        return list(range(self.vocabulary, vocabulary))

    def decode_bytes(self, tokens: npt.NDArray[Any]) -> bytes:
        if len(self.token_bytes) == BYTES:
            return tokens.astype(np.uint8).tobytes()
        from maquette.corpus.detokenize import gather

        if self._joined is None:
            edges = np.cumsum([0, *map(len, self.token_bytes)])
            self._joined = np.frombuffer(b"".join(self.token_bytes), np.uint8), edges
        return gather(*self._joined, tokens).tobytes()

    def to_json(self) -> str:
        names = [_printable(token) for token in self.token_bytes]
        split = {"type": "Split", "pattern": {"Regex": self.regex}, "behavior": "Isolated"}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
        special = {
            "id": self.eos_token_id,
            "content": EOS_TOKEN,
            "special": True,
            "normalized": False,
        }
        flags = {"single_word": False, "lstrip": False, "rstrip": False}
        return json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [special | flags],
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [
                        split | {"invert": False},
                        byte_level | {"use_regex": False},
                    ],
                },
                "post_processor": None,
                "decoder": byte_level | {"use_regex": False},
                "model": {
                    "type": "BPE",
                    "dropout": None,
                    "unk_token": None,
                    "continuing_subword_prefix": None,
                    "end_of_word_suffix": None,
                    "fuse_unk": False,
                    "byte_fallback": False,
                    "ignore_merges": False,
                    "vocab": {name: i for i, name in enumerate(names)}
                    | {EOS_TOKEN: self.eos_token_id},
                    "merges": [list(map(_printable, pair)) for pair in _merges(self.token_bytes)],
                },
            },
            ensure_ascii=False,
        )


def byte_tokenizer() -> BytePair:
    """A tokenizer of one token per byte, and an EOS token."""
    return BytePair([bytes([b]) for b in range(BYTES)])


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, or_fewer: bool = False, digits: int = DIGITS
) -> BytePair:
    """Train a BPE tokenizer of `vocabulary` tokens (the 256 bytes and EOS among them) on the texts.

    digits: most digits of a number in one token. or_fewer: accept the fewer tokens that the texts
    support; without it, too few are a UserError.
    """
    if vocabulary == BYTES + 1:
        return byte_tokenizer()
    if vocabulary <= BYTES:
        raise WrongUse(
            f"vocabulary {vocabulary} is too small for bytes: use {BYTES + 1} (bytes) or more"
        )
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocabulary - 1, pattern=pattern(digits))
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    if len(ranks) < vocabulary - 1 and not or_fewer:
        raise UserError(
            f"the text supports a vocabulary of {len(ranks) + 1}, not {vocabulary}: "
            f"pass --vocabulary {len(ranks) + 1} or fewer, or add text"
        )
    return BytePair([token for _, token in ranks], pattern(digits))


def named_tokenizer(name: str, eos_token: str | None = None) -> Tokenizer:
    """A tokenizer that is there: "bytes", a corpus or run, a tokenizer.json, or a tiktoken encoding.

    tiktoken encodings are named "tiktoken:NAME"; the library downloads one it has not seen.
    eos_token: the name of the token that ends a document, where the tokenizer's files name none or
    another. Raises WrongUse where the tokenizer has no such token.
    """
    tokenizer = _named(name)
    if eos_token is None:
        return tokenizer
    if isinstance(tokenizer, Foreign):
        return tokenizer.with_eos_token(eos_token)
    if eos_token != EOS_TOKEN:
        raise WrongUse(f"documents of {name} end with {EOS_TOKEN}: leave --eos-token out")
    return tokenizer


def _named(name: str) -> Tokenizer:
    if name == "bytes":
        return byte_tokenizer()
    kind, _, encoding = name.partition(":")
    if kind == "tiktoken":
        return _from_tiktoken(encoding)
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"there is no tokenizer {name}: name a corpus, a run, a tokenizer.json, "
            "tiktoken:cl100k_base, or bytes"
        )
    return load_tokenizer(file)


def _from_tiktoken(name: str) -> BytePair:
    import tiktoken

    try:
        encoding = tiktoken.get_encoding(name)
    except ValueError as error:
        known = tiktoken.list_encoding_names()
        raise WrongUse(f"tiktoken has no encoding {name}{did_you_mean(name, known)}") from error
    except Exception as error:  # whatever its download raises
        raise UserError(
            f"tiktoken cannot read {name} ({type(error).__name__}): it is downloaded at first use"
        ) from error
    ranks = sorted((rank, token) for token, rank in encoding._mergeable_ranks.items())
    return BytePair([token for _, token in ranks], encoding._pat_str)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`, and the special tokens of a foreign one beside it."""
    write_atomic(path, tokenizer.to_json())
    if isinstance(tokenizer, Foreign):
        tokenizer.special.save(path.parent)


def for_documents(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer for a corpus, whose documents have an EOS token behind them and no prefix.

    Raises UserError where the tokenizer has no EOS token: documents would run into each other.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer's files name no token that ends a document: name it with --eos-token"
            + (tokenizer.choices() if isinstance(tokenizer, Foreign) else "")
        )
    return tokenizer.without_prefix() if isinstance(tokenizer, Foreign) else tokenizer


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files that `save_tokenizer` wrote from one folder into another."""
    for name in ("tokenizer.json", SPECIAL):
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read `tokenizer.json`, Maquette's or any other with the files that stand beside it."""
    if not path.exists():
        raise UserError(f"{path} is missing: copy the tokenizer.json of the model there")
    content = read_json(path)
    own = _own(content)
    try:
        return BytePair(*own) if own else load_foreign(path)
    except UserError:
        raise
    except Exception as error:  # the Rust library raises a bare Exception
        raise UserError(f"{path} is not a tokenizer that can be read: {error}") from error


def digest(tokenizer: Tokenizer) -> str:
    """Hex SHA-256 of the tokenizer's file."""
    return hashlib.sha256(tokenizer.to_json().encode()).hexdigest()


def _own(content: Any) -> tuple[list[bytes], str] | None:
    """The bytes of the tokens and the pattern of a file that `BytePair.to_json` wrote, None for any other."""
    try:
        regex = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        names = sorted(content["model"]["vocab"].items(), key=lambda item: int(item[1]))
        merges = content["model"]["merges"]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if not names or names[-1][0] != EOS_TOKEN or len(names) != BYTES + len(merges) + 1:
        return None
    if content["model"].get("type") != "BPE" or content.get("normalizer") is not None:
        return None
    added = [token.get("content") for token in content.get("added_tokens") or []]
    if added not in ([], [EOS_TOKEN]) or content.get("post_processor") is not None:
        return None
    made = ["".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in merges]
    if [name for name, _ in names[:-1]] != [*_NAME_OF, *made]:
        return None
    return [bytes(BYTE_OF[c] for c in name) for name, _ in names[:-1]], str(regex)


def _merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that made each token: its bytes, encoded with the tokens before it, are two tokens."""
    ranks = {token: i for i, token in enumerate(tokens)}
    merges = []
    for rank in range(BYTES, len(tokens)):
        parts = [bytes([b]) for b in tokens[rank]]
        while len(parts) > 2:
            best = min(
                range(len(parts) - 1),
                key=lambda i: ranks.get(parts[i] + parts[i + 1], rank),
            )
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        merges.append((parts[0], parts[1]))
    return merges


def _byte_names() -> list[str]:
    """GPT-2's printable character for every byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names = {b: chr(b) for b in plain}
    others = (b for b in range(BYTES) if b not in names)
    names |= {b: chr(BYTES + i) for i, b in enumerate(others)}
    return [names[b] for b in range(BYTES)]


_NAME_OF = _byte_names()
BYTE_OF = {name: b for b, name in enumerate(_NAME_OF)}


def _printable(token: bytes) -> str:
    return "".join(_NAME_OF[b] for b in token)
