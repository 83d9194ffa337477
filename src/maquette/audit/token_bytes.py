"""The bytes of each symbol of a tokenizer: how tokens and characters of a text fit."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.corpus.tokenizer import BYTE_OF, END, BytePair, Tokenizer

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Symbols:
    """A byte-level tokenizer's symbols as bytes; their sizes, and how many characters begin in each."""

    names: list[bytes]
    sizes: Integers
    characters: Integers

    def decode(self, tokens: npt.NDArray[Any]) -> bytes:
        return b"".join([self.names[t] for t in tokens.tolist()])


def symbols_of(tokenizer: Tokenizer) -> Symbols:
    """The bytes of each symbol; UserError where the tokenizer's symbols are not made of bytes."""
    if isinstance(tokenizer, BytePair):
        names = [*tokenizer.symbols, END.encode()]
    else:
        content = json.loads(tokenizer.to_json())
        names = [b""] * tokenizer.vocabulary
        try:
            for name, number in content["model"]["vocab"].items():
                names[number] = bytes(BYTE_OF[c] for c in name)
        except (KeyError, AttributeError, IndexError) as error:
            raise UserError(
                "this corpus' tokenizer is not byte-level BPE, so its tokens have no exact place "
                "in a text: build the corpus with its own tokenizer to trace"
            ) from error
        for added in content["added_tokens"]:
            names[added["id"]] = added["content"].encode()
    sizes = np.array([len(name) for name in names])
    return Symbols(names, sizes, np.array([len(name) - _continuations(name) for name in names]))


def _continuations(data: bytes) -> int:
    return sum(byte & 0xC0 == 0x80 for byte in data)
