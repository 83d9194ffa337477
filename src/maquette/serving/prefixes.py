"""A cache of prompts: keys and values of their tokens, for prompts that begin in the same way.

A few-shot prompt, the words of the system, the turns of a conversation, n answers to one prompt: what was
computed for the first tokens of one request serves the next one that begins with them. What is used least is
dropped first. An entry belongs to the weights of the adapters that it was computed with.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maquette.serving.engine_cache import Kept

LEAST = 16  # tokens that are worth being kept, or looked up


@dataclass(eq=False)
class Entry:
    """A prompt's tokens and what they left in every block, with adapters of these weights."""

    weights: Hashable
    tokens: npt.NDArray[np.int64]
    kept: Kept

    def common(self, tokens: npt.NDArray[np.int64]) -> int:
        """Number of first tokens that the entry and a prompt have in common."""
        return common(self.tokens, tokens)


class PrefixCache:
    """Entries of prompts, the one used last at the end. bytes_per_token: of keys and values."""

    def __init__(self, bytes_per_token: int) -> None:
        self._bytes_per_token = bytes_per_token
        self.entries: list[Entry] = []

    def bytes(self) -> int:
        """Number of bytes that the entries take."""
        return self.bytes_of(self.entries)

    def bytes_of(self, entries: Collection[Entry]) -> int:
        """Number of bytes that some entries take."""
        return sum(len(entry.tokens) for entry in entries) * self._bytes_per_token

    def find(self, weights: Hashable, tokens: npt.NDArray[np.int64]) -> tuple[Entry | None, int]:
        """The entry with the most first tokens in common, and how many, less than all; it is used now."""
        best, most = None, LEAST - 1
        for entry in self.entries:
            if entry.weights == weights:
                shared = min(entry.common(tokens), len(tokens) - 1)
                if shared > most:
                    best, most = entry, shared
        if best is None:
            return None, 0
        self.entries.remove(best)
        self.entries.append(best)
        return best, most

    def holds(self, weights: Hashable, tokens: npt.NDArray[np.int64]) -> bool:
        """Whether an entry begins with these tokens."""
        return any(e.weights == weights and e.common(tokens) == len(tokens) for e in self.entries)

    def add(self, entry: Entry) -> None:
        """Keep an entry, in place of those that it begins with."""
        self.entries = [
            e
            for e in self.entries
            if e.weights != entry.weights or e.common(entry.tokens) < len(e.tokens)
        ]
        self.entries.append(entry)

    def shrink(self, most: int, held: Collection[Entry] = ()) -> None:
        """Drop what was used longest ago, but for `held`, until the entries take at most so many bytes."""
        for entry in [entry for entry in self.entries if entry not in held]:
            if self.bytes() <= most:
                break
            self.entries.remove(entry)

    def clear(self) -> None:
        """Drop all entries."""
        self.entries.clear()


def common(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """Number of first tokens that two sequences have in common."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if len(differ) else n
