"""The bytes of each token of a tokenizer: how tokens and characters of a text fit."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.corpus.tokenizer import BYTE_OF, EOS_TOKEN, BytePair, Tokenizer

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenBytes:
    """The bytes of each token of a byte-level tokenizer, with their counts of bytes and characters."""

    values: list[bytes]
    sizes: Integers
    """bytes of each token, (vocabulary,)"""
    characters: Integers
    """characters that begin in each token, (vocabulary,)"""

    def decode(self, tokens: npt.NDArray[Any]) -> bytes:
        return b"".join([self.values[t] for t in tokens.tolist()])


def token_bytes_of(tokenizer: Tokenizer) -> TokenBytes:
    """The bytes of each token. Raises UserError where the tokenizer is not byte-level BPE."""
    if isinstance(tokenizer, BytePair):
        values = [*tokenizer.token_bytes, EOS_TOKEN.encode()]
    else:
        content = json.loads(tokenizer.to_json())
        values = [b""] * tokenizer.vocabulary
        try:
            for name, number in content["model"]["vocab"].items():
                values[number] = bytes(BYTE_OF[c] for c in name)
        except (KeyError, AttributeError, IndexError) as error:
            raise UserError(
                "this corpus' tokenizer is not byte-level BPE, so its tokens have no exact place "
                "in a text: build the corpus with its own tokenizer to trace"
            ) from error
        for added in content["added_tokens"]:
            values[added["id"]] = added["content"].encode()
    sizes = np.array([len(value) for value in values])
    return TokenBytes(
        values, sizes, np.array([len(value) - _continuations(value) for value in values])
    )


def _continuations(data: bytes) -> int:
    return sum(byte & 0xC0 == 0x80 for byte in data)
