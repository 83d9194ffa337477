"""Any `tokenizer.json` that Maquette did not write, run by the Hugging Face library."""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse, did_you_mean
from maquette.corpus.special_tokens import (
    SpecialTokens,
    load_special_tokens,
    put_around,
    read_special_tokens,
    token_name,
)

NAMED = 8  # special tokens in a message
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
Tokens = npt.NDArray[np.uint32]


class Foreign:
    """A tokenizer of the `tokenizers` library: the content of `tokenizer.json`, and its special tokens."""

    def __init__(self, content: str, special: SpecialTokens) -> None:
        self._content = content
        self._tokenizer = _open(content)
        self.special = special
        _mark(self._tokenizer, special.settings)
        self._tokenizer.encode_special_tokens = True  # text that looks like one is text
        self._names: dict[int, str] = {i: n for n, i in self._tokenizer.get_vocab().items()}
        self.vocabulary: int = max(self._names, default=-1) + 1
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = {i for i, token in added.items() if token.special}
        self._bytes: set[int] = set()
        if '"ByteFallback"' in json.dumps(json.loads(content).get("decoder")):
            self._bytes = {i for i, name in self._names.items() if BYTE.fullmatch(name)}

    @property
    def eos_token_id(self) -> int | None:
        return self.special.eos_token_id

    def with_eos_token(self, name: str) -> "Foreign":
        """The same tokenizer, whose documents end with the token of that name."""
        eos_token_id = self._tokenizer.token_to_id(name)
        if eos_token_id is None:
            known = [self._names[i] for i in self.special_ids]
            raise WrongUse(
                f"the tokenizer has no token {name}{did_you_mean(name, known)}{self.choices()}"
            )
        others = [other for other in self.special.eos_token_ids if other != eos_token_id]
        return Foreign(self._content, replace(self.special, eos_token_ids=(eos_token_id, *others)))

    def choices(self) -> str:
        """The special tokens as the end of an error message."""
        known = [self._names[i] for i in sorted(self.special_ids)]
        shown = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
        return f" (special tokens: {shown or 'none'})"

    def without_prefix(self) -> "Foreign":
        """The same tokenizer without prefix and BOS: texts begin after an EOS token alone."""
        return Foreign(self._content, replace(self.special, prefix=(), bos_token_id=None))

    def has(self, name: str) -> bool:
        """Whether the vocabulary has a token of that name."""
        return self._tokenizer.token_to_id(name) is not None

    def put_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the post-processor of `tokenizer.json` puts before a text, and behind it."""
        return put_around(self._tokenizer)

    def name(self, token: int) -> str | None:
        """The token as `tokenizer.json` writes it."""
        return self._names.get(token)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str], workers: int) -> list[Tokens]:
        batch = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in batch]

    def encode_prompt(self, text: str) -> list[int]:
        """A prompt as transformers reads it: the names of special tokens in it are these tokens."""
        split = bool(self.special.settings.get("split_special_tokens"))
        plain = split or not any(self._names[i] in text for i in self.special_ids)
        reader = self._tokenizer if plain else self._parsing
        ids = [*self.special.prefix, *reader.encode(text, add_special_tokens=False).ids]
        return ids or list(self.special.start)

    def encode_marked(self, text: str) -> list[int]:
        return list(self._parsing.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = False) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens))

    def decode_bytes(self, tokens: npt.NDArray[Any]) -> bytes:
        return self.decode(tokens.tolist()).encode("utf-8", "replace")

    def unsettled(self, tokens: Sequence[int]) -> int:
        """Length of the last run of byte tokens: the library decodes it only where it is valid UTF-8."""
        count = 0
        for token in reversed(tokens):
            if token not in self._bytes and (token not in self.special_ids or not self._bytes):
                break
            count += 1
        return count

    def missing(self, vocabulary: int) -> list[int]:
        return [token for token in range(vocabulary) if token not in self._names]

    def to_json(self) -> str:
        return self._content

    @functools.cached_property
    def _parsing(self) -> Any:
        """A tokenizer that parses the names of special tokens in a text as these tokens."""
        tokenizer = _open(self._content)
        _mark(tokenizer, self.special.settings)
        return tokenizer


def load_foreign(path: Path) -> Foreign:
    """Read a `tokenizer.json`, its special tokens as the files beside it say."""
    content, special = path.read_text(encoding="utf-8"), load_special_tokens(path.parent)
    return Foreign(content, special or read_special_tokens(path.parent, _open(content)))


def _open(content: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _mark(tokenizer: Any, settings: dict[str, Any]) -> None:
    """Make the tokens special that `tokenizer_config.json` names, where the vocabulary has them."""
    names = [token_name(value) for key, value in settings.items() if key.endswith("_token")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(key)
        names += [token_name(value) for value in (more if isinstance(more, list) else [])]
    table = settings.get("added_tokens_decoder")
    if isinstance(table, dict):
        names += [token_name(t) for t in table.values() if isinstance(t, dict) and t.get("special")]
    added = tokenizer.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special}
    known = [n for n in names if n and n not in special and tokenizer.token_to_id(n) is not None]
    tokenizer.add_special_tokens(known)
