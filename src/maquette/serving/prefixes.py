"""A cache of prompts: keys and values of their tokens, for prompts that begin in the same way.

A few-shot prompt, the words of the system, the turns of a conversation, n answers to one prompt: what was
computed for the first tokens of one request serves the next one that begins with them. What is used least is
dropped first. An entry belongs to the weights of the adapters that it was computed with.

Entries are sorted by their tokens, so that the one with the most first tokens in common with a prompt stands
beside the prompt's place, and is found by bisection. No entry begins with another one.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from maquette.serving.engine_cache import Kept

LEAST = 16  # tokens that are worth being kept, or looked up

Tokens = npt.NDArray[np.int64]


@dataclass(eq=False)
class Entry:
    """A prompt's tokens and what they left in every block, with adapters of these weights."""

    weights: Hashable
    tokens: Tokens
    kept: Kept
    order: bytes = field(init=False)
    """place among entries of the same weights"""

    def __post_init__(self) -> None:
        self.order = _order(self.tokens)


class PrefixCache:
    """Entries of prompts, the one used last at the end. bytes_per_token: of keys and values."""

    def __init__(self, bytes_per_token: int) -> None:
        self._bytes_per_token = bytes_per_token
        self._used: OrderedDict[Entry, None] = OrderedDict()
        self._sorted: dict[Hashable, list[Entry]] = {}
        self._tokens = 0

    @property
    def entries(self) -> list[Entry]:
        """The entries, the one used last at the end."""
        return list(self._used)

    def bytes(self) -> int:
        """Number of bytes that the entries take."""
        return self._tokens * self._bytes_per_token

    def bytes_of(self, entries: Collection[Entry]) -> int:
        """Number of bytes that some entries take."""
        return sum(len(entry.tokens) for entry in entries) * self._bytes_per_token

    def find(self, weights: Hashable, tokens: Tokens) -> tuple[Entry | None, int]:
        """The entry with the most first tokens in common, and how many, less than all; it is used now."""
        best, most = None, LEAST - 1
        entries, place = self._place(weights, tokens)
        for entry in entries[max(0, place - 1) : place + 1]:
            shared = min(common(entry.tokens, tokens), len(tokens) - 1)
            if shared > most:
                best, most = entry, shared
        if best is None:
            return None, 0
        self._used.move_to_end(best)
        return best, most

    def holds(self, weights: Hashable, tokens: Tokens) -> bool:
        """Whether an entry begins with these tokens."""
        entries, place = self._place(weights, tokens)
        return place < len(entries) and common(entries[place].tokens, tokens) == len(tokens)

    def add(self, entry: Entry) -> None:
        """Keep an entry, in place of the one that it begins with, unless one begins with it."""
        if self.holds(entry.weights, entry.tokens):
            return
        entries, place = self._place(entry.weights, entry.tokens)
        before = entries[place - 1] if place else None
        if before is not None and common(before.tokens, entry.tokens) == len(before.tokens):
            self._drop(before)
        entries, place = self._place(entry.weights, entry.tokens)
        entries.insert(place, entry)
        self._sorted[entry.weights] = entries
        self._used[entry] = None
        self._tokens += len(entry.tokens)

    def shrink(self, most: int, held: Collection[Entry] = ()) -> None:
        """Drop what was used longest ago, but for `held`, until the entries take at most so many bytes."""
        while self.bytes() > most:
            entry = next((entry for entry in self._used if entry not in held), None)
            if entry is None:
                break
            self._drop(entry)

    def clear(self) -> None:
        """Drop all entries."""
        self._used.clear()
        self._sorted.clear()
        self._tokens = 0

    def _drop(self, entry: Entry) -> None:
        entries, place = self._place(entry.weights, entry.tokens)
        del self._used[entry], entries[place]
        self._tokens -= len(entry.tokens)
        if not entries:
            del self._sorted[entry.weights]

    def _place(self, weights: Hashable, tokens: Tokens) -> tuple[list[Entry], int]:
        """The entries of these weights, sorted, and the place of tokens among them."""
        entries = self._sorted.get(weights, [])
        return entries, bisect_left(entries, _order(tokens), key=lambda entry: entry.order)


def common(one: Tokens, other: Tokens) -> int:
    """Number of first tokens that two sequences have in common."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if len(differ) else n


def _order(tokens: Tokens) -> bytes:
    """Bytes that are sorted as the tokens are."""
    return tokens.astype(">u4").tobytes()
