"""Repeated stretches of text: found exactly, wherever they stand, in bounded memory.

A window is `length` bytes of one document. Every window that stands before, in an earlier document
or in the same one without overlap, is cut: of each stretch the first occurrence stays. Lee et al.
2022 find the same windows in a suffix array, made in pieces and merged; they strike out every copy,
and may cut a character in two. Here:

    1  winnowing (Schleimer, Wilkerson, Aiken 2003): of the grams of half the length that a window
       holds, it chooses the one with the least hash. Equal windows choose equal grams, neighbours
       mostly the same one; so a window whose gram is chosen at one place only does not repeat. That
       settles most of a clean corpus, at two lookups for each `length / 2` bytes.
    2  two hashes of each window that is left, in a set, in the order of the text: a window that is
       there repeats. A window is put there once the text is past it, so that none repeats by
       overlapping itself ("aaaa").

Tables that would be larger than `block_bytes` are made in several passes, each for a part of the
hashes, with the same result. The guarantee: every repeated window is cut, and nothing else, unless
two different windows share both hashes, 90 bits: a chance of 1 in 1000 for a whole terabyte.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse
from maquette.base.jit import jit
from maquette.corpus.text.ngram_hashes import Hashes, as_bytes, gram_hashes, roll

OTHER_BASE = np.uint64(0xD1342543DE82EF95)
CHOSEN_BYTES = 16  # of memory for a chosen gram while the repeated ones are looked for: to sort it
LEAST, MOST = 1 << 10, 1 << 32  # places in a table: in a tiny one a part might not find room
LOW = np.uint64(0xFFFFFFFF)
Ranges = list[tuple[int, int]]
Places = npt.NDArray[np.int64]  # (ranges, 2): starts and ends


def repeated_ranges(
    texts: Sequence[bytes], length: int = 100, block_bytes: int = 256 << 20
) -> list[Ranges]:
    """For each text, which of its bytes stand before: ranges to cut, in order and apart.

    texts: UTF-8, in the order in which the first stays; read several times, one at a time. length:
    bytes that have to repeat. block_bytes: memory for the tables; the longest text needs 24 times
    its size besides. A range is a union of windows, less the parts of characters at its ends.
    What a cut brings together can repeat anew: in natural text under 0.1 % of what was cut.
    """
    if length < 2:
        raise WrongUse(f"the length is {length}: repeats have 2 bytes or more, such as 100")
    candidates = list(_candidates(texts, length, _repeated_grams(texts, length, block_bytes)))
    windows = sum(int(np.sum(c[:, 1] - c[:, 0])) for c in candidates)
    slots = min(3 * windows // 2, block_bytes // 8, MOST)
    table = np.empty(max(slots, LEAST), np.uint64)
    parts = -(-3 * windows // (2 * len(table)))
    parts_of: dict[int, list[Places]] = {i: [] for i, c in enumerate(candidates) if len(c)}
    for part in range(parts):
        table[:] = 0
        for i, cuts in parts_of.items():
            data = as_bytes(texts[i])
            keys, others = gram_hashes(data, length), np.empty(len(data) - length + 1, np.uint64)
            roll(data, length, OTHER_BASE, others)
            cuts.append(_repeats(keys, others, candidates[i], length, table, part, parts))
    ranges: list[Ranges] = [[] for _ in candidates]
    for i, cuts in parts_of.items():
        ranges[i] = whole_characters(texts[i], np.concatenate(cuts))
    return ranges


def _repeated_grams(texts: Sequence[bytes], length: int, block_bytes: int) -> Hashes:
    """The sampled grams that occur more than once, sorted."""
    chosen = 2 * sum(map(len, texts)) // (length - length // 2 + 2)  # Schleimer et al., density
    parts = -(-chosen * CHOSEN_BYTES // block_bytes) or 1
    repeated = []
    for part in range(parts):
        kept = [np.empty(0, np.uint64)]
        for text in texts:
            values, _ = _chosen(text, length)
            kept.append(values[values % np.uint64(parts) == part] if parts > 1 else values)
        ordered = np.sort(np.concatenate(kept))
        repeated.append(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    return np.sort(np.concatenate(repeated))


def _candidates(texts: Sequence[bytes], length: int, repeated: Hashes) -> Iterator[Places]:
    """For each text, the ranges of windows that have chosen a repeated gram."""
    for text in texts:
        values, starts = _chosen(text, length)
        hit = np.zeros(len(values) + 2, np.int8)
        if len(repeated):
            at = np.searchsorted(repeated, values)
            hit[1:-1] = repeated[np.minimum(at, len(repeated) - 1)] == values
        yield starts[np.flatnonzero(np.diff(hit))].reshape(-1, 2)


def _chosen(text: bytes, length: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The grams sampled by the windows of a text, the start of each gram's windows, and the end of all."""
    if len(text) < length:
        return np.empty(0, np.uint64), np.zeros(1, np.int64)
    width = length // 2
    return _winnow(gram_hashes(as_bytes(text), width), length - width + 1)


@jit
def _winnow(hashes: Hashes, span: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The least of every `span` successive hashes: each chosen one, and the first span it is of."""
    spans = len(hashes) - span + 1
    values, starts = np.empty(spans, np.uint64), np.empty(spans + 1, np.int64)
    count = 0
    at = -1
    for i in range(spans):
        before = at
        if at < i:  # it has left the span: the last of the least ones follows
            at = i
            for j in range(i + 1, i + span):
                if hashes[j] <= hashes[at]:
                    at = j
        elif hashes[i + span - 1] < hashes[at]:
            at = i + span - 1
        if at != before:
            values[count], starts[count] = hashes[at], i
            count += 1
    starts[count] = spans
    return values[:count].copy(), starts[: count + 1].copy()


@jit
def _repeats(
    keys: Hashes,
    others: Hashes,
    candidates: Places,
    length: int,
    table: Hashes,
    part: int,
    parts: int,
) -> Places:
    """The union of the candidate windows that are in the set `table`; the others are put there.

    keys, others: two hashes of each window of a text. Of all, those of one of `parts` are handled.
    """
    room = 0
    for k in range(len(candidates)):
        room += (candidates[k, 1] - candidates[k, 0]) // (length + 1) + 1
    cuts = np.empty((room, 2), np.int64)
    count = 0
    ring = np.empty(length, np.int64)  # windows that the text is not yet past
    put = new = 0
    for k in range(len(candidates)):
        for at in range(candidates[k, 0], candidates[k, 1]):
            if ((others[at] & LOW) * np.uint64(parts)) >> np.uint64(32) != part:
                continue
            while put < new and ring[put % length] + length <= at:
                _put(table, keys, others, ring[put % length])
                put += 1
            if table[_place(table, keys[at], others[at])] == 0:
                ring[new % length] = at
                new += 1
            elif count and at <= cuts[count - 1, 1]:
                cuts[count - 1, 1] = at + length
            else:
                cuts[count, 0], cuts[count, 1] = at, at + length
                count += 1
    while put < new:
        _put(table, keys, others, ring[put % length])
        put += 1
    return cuts[:count].copy()


@jit
def _put(table: Hashes, keys: Hashes, others: Hashes, at: int) -> None:
    table[_place(table, keys[at], others[at])] = keys[at] | np.uint64(1)


@jit
def _place(table: Hashes, key: np.uint64, other: np.uint64) -> np.uint64:
    """Slot of a window in an open-addressed set, where it is or would be; 0 marks an empty slot."""
    slots = np.uint64(len(table))
    slot = ((other >> np.uint64(32)) * slots) >> np.uint64(32)
    while table[slot] != 0 and table[slot] != key | np.uint64(1):
        slot = (slot + np.uint64(1)) % slots
    return slot


def whole_characters(text: bytes, ranges: Places) -> Ranges:
    """The union of ranges, each less its incomplete characters."""
    union: Ranges = []
    for start, end in sorted(ranges.tolist()):
        if union and start <= union[-1][1]:
            union[-1] = union[-1][0], max(end, union[-1][1])
        else:
            union.append((start, end))
    whole = ((_character(text, start, 1), _character(text, end, -1)) for start, end in union)
    return [(start, end) for start, end in whole if start < end]


def _character(text: bytes, at: int, step: int) -> int:
    """The nearest place from `at` on, in either direction, where a character starts or all ends."""
    while 0 < at < len(text) and text[at] & 0xC0 == 0x80:
        at += step
    return at
