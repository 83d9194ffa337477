"""A binary fuse table: `bits` bits for every key of a fixed set, and nothing else kept.

Graf and Lemire 2022 ("Binary fuse filters"), four-wise. A key picks one slot in each of four
consecutive segments of an array; its value is the XOR of the four slots. Keys are peeled off slots
that no other key uses, and the slots are filled in the reverse order (Botelho, Pagh and Ziviani
2007). For a key outside the set the XOR is an arbitrary number, so

    filter      the value is the key's own low bits: an outsider passes with probability 2^-bits
    retrieval   the value is a fingerprint and what is to be found (a location, say)

at about 1.08 bits of space for each bit that is kept; a Bloom filter takes 1.44.

Keys are hashes: uniform in all their 64 bits. Their top bits choose one of several partitions, each
a table of its own of at most about a million keys, so that peeling stays in the cache and partitions
can be made side by side. The next bits choose the segments, so that sorted keys walk through the
slots in order; the low bits are free to be the fingerprint. A seed places a key inside its segments,
and another one is tried where peeling fails: the table depends on the keys and the values alone.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.jit import jit
from maquette.corpus.text.ngram_hashes import Hashes, mix

PARTITION_KEYS = 1 << 20
PLACE = np.uint64(16)  # bits of a hash that place a key in a segment: four times that is the hash
SEEDS = 8  # tried at one size; then the partition grows by a twentieth
TRIES = 64
ROUND = 64  # slots: so a partition begins at a whole word, whatever the bits
SPREAD = np.uint64(0x9E3779B97F4A7C15)
ONE, HALF, WORD = np.uint64(1), np.uint64(32), np.uint64(63)
Words = npt.NDArray[np.uint64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Partition:
    """The table of the keys that begin with the same bits."""

    slots: int
    segments: int
    log: int  # base 2, of the slots in a segment
    seed: int
    words: Words  # slot i is the bits i * bits ... of this stream


@dataclass(frozen=True)
class Fuse:
    """A whole table, in memory or mapped from a file."""

    bits: int
    partitions: npt.NDArray[np.int64]  # (2^top, 4): first slot, segments, log of their slots, seed
    words: Words  # those of the partitions, and one more

    def read(self, keys: Hashes) -> Words:
        """The value of every key; arbitrary for a key that is not in the set."""
        return _read(keys, self.partitions, self.words, self.bits)

    def contains(self, keys: Hashes) -> npt.NDArray[np.bool_]:
        """Membership of keys: True for all in the set, and for 2^-bits of the others."""
        if len(self.words) == 1:
            return np.zeros(len(keys), np.bool_)
        return np.equal(self.read(keys), own_bits(keys, self.bits))

    def arrays(self) -> dict[str, Array]:
        """The arrays that a file stores, besides the number of bits."""
        return {"partitions": self.partitions, "words": self.words}

    @staticmethod
    def of(bits: int, arrays: Mapping[str, Array]) -> "Fuse":
        """A table of the arrays of a file. Raises ValueError for indices out of range."""
        partitions, words = arrays["partitions"], arrays["words"]
        typed = partitions.dtype == np.int64 and words.dtype == np.uint64
        if not (typed and partitions.ndim == 2 and partitions.shape[1] == 4 and words.ndim == 1):
            raise ValueError("these are not the arrays of a fuse table")
        first, segments, log, _ = partitions.T
        room = (len(words) - 1) * 64 // bits
        inside = (first >= 0) & (segments >= 0) & (segments <= room) & (log >= 0) & (log <= PLACE)
        whole = inside & ((first == 0) | (first <= room - ((segments + 3) << log)))
        whole &= (segments == 0) | (((segments + 3) << log) <= room)
        if len(partitions).bit_count() != 1 or not whole.all():
            raise ValueError("the partitions of a fuse table lie outside it")
        return Fuse(bits, partitions, words)


def own_bits(keys: Hashes, bits: int) -> Words:
    """The low bits of each key: its fingerprint."""
    return keys & np.uint64((1 << bits) - 1)


def partition_bits(keys: int) -> int:
    """Number of top bits that choose the partition: the fewest that leave PARTITION_KEYS in each."""
    return max(0, math.ceil(math.log2(max(1, keys) / PARTITION_KEYS)))


def make(keys: Hashes, values: Words, bits: int) -> Fuse:
    """The table of distinct keys in ascending order; `own_bits` as values make it a filter."""
    top = partition_bits(len(keys))
    cuts = [0, *np.searchsorted(keys, starts(top)[1:]).tolist(), len(keys)]
    parts = [make_partition(keys[a:b], values[a:b], top, bits) for a, b in itertools.pairwise(cuts)]
    words = np.concatenate([*(part.words for part in parts), np.zeros(1, np.uint64)])
    return Fuse(bits, table(parts), words)


def starts(top: int) -> Hashes:
    """The smallest key of each of the 2^top partitions."""
    return np.array([i << (64 - top) for i in range(1 << top)], np.uint64)


def table(parts: Iterable[Partition]) -> npt.NDArray[np.int64]:
    """The partitions as `Fuse` holds them, for words that stand in the same order."""
    rows, first = [], 0
    for part in parts:
        rows.append((first, part.segments, part.log, part.seed))
        first += part.slots
    return np.array(rows, np.int64)


def make_partition(keys: Hashes, values: Words, top: int, bits: int) -> Partition:
    """The table of keys that share their `top` first bits, distinct and in ascending order."""
    if not len(keys):
        return Partition(0, 0, 0, 0, np.empty(0, np.uint64))
    for seed in range(TRIES):
        segments, log = _shape(len(keys), 1 + seed // SEEDS / 20)
        order, at = _peel(keys, top, segments, log, seed)
        if len(order) == len(keys):
            words = _fill(keys, values, order, at, top, segments, log, seed, bits)
            return Partition(len(words) * 64 // bits, segments, log, seed, words)
    raise ValueError("these keys are not distinct hashes: a fuse table needs all 64 bits uniform")


def _shape(keys: int, more: float) -> tuple[int, int]:
    """Segments and the logarithm of their slots, by the rule of Graf and Lemire 2022, section 4."""
    logarithm = math.log(max(2, keys))
    log = min(int(PLACE), max(3, math.floor(logarithm / math.log(2.91) - 0.5)))
    factor = more * max(1.075, 0.77 + 0.305 * math.log(600_000) / logarithm)
    return max(1, math.ceil(keys * factor / (1 << log)) - 3), log


@jit
def _places(
    key: np.uint64, top: int, segments: int, log: int, seed: int
) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    """The slots of a key in its partition, one in each of four consecutive segments."""
    first = (((key << np.uint64(top)) >> HALF) * np.uint64(segments)) >> HALF
    h = mix(key ^ (np.uint64(seed) * SPREAD))
    size = np.uint64(log)
    mask = (ONE << size) - ONE
    start, length = np.int64(first << size), np.int64(ONE << size)
    return (
        start + np.int64(h & mask),
        start + length + np.int64((h >> PLACE) & mask),
        start + 2 * length + np.int64((h >> (PLACE + PLACE)) & mask),
        start + 3 * length + np.int64((h >> (PLACE + PLACE + PLACE)) & mask),
    )


@jit
def _peel(
    keys: Hashes, top: int, segments: int, log: int, seed: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The keys in an order in which each is alone in some slot, and that slot.

    Fewer than all of them where this seed fails.
    """
    slots = (segments + 3) << log
    degree = np.zeros(slots, np.uint8)
    inside = np.zeros(slots, np.uint32)  # the XOR of the numbers of the keys in a slot
    for i in range(len(keys)):
        for p in _places(keys[i], top, segments, log, seed):
            degree[p] += np.uint8(1)
            inside[p] ^= np.uint32(i)
    alone = np.empty(slots, np.uint32)
    waiting = 0
    for slot in range(slots):
        if degree[slot] == 1:
            alone[waiting] = slot
            waiting += 1
    order = np.empty(len(keys), np.uint32)
    at = np.empty(len(keys), np.uint32)
    done = 0
    while waiting:
        waiting -= 1
        last = alone[waiting]
        if degree[last] != 1:
            continue
        i = inside[last]
        order[done] = i
        at[done] = last
        done += 1
        for p in _places(keys[i], top, segments, log, seed):
            degree[p] -= np.uint8(1)
            inside[p] ^= i
            if degree[p] == 1:
                alone[waiting] = p
                waiting += 1
    return order[:done], at[:done]


@jit
def _fill(
    keys: Hashes,
    values: Words,
    order: npt.NDArray[np.uint32],
    at: npt.NDArray[np.uint32],
    top: int,
    segments: int,
    log: int,
    seed: int,
    bits: int,
) -> Words:
    """Slots such that the four of each key XOR to its value, packed."""
    slots = -(-((segments + 3) << log) // ROUND) * ROUND
    content = np.zeros(slots, np.uint64)
    for n in range(len(order) - 1, -1, -1):
        a, b, c, d = _places(keys[order[n]], top, segments, log, seed)
        content[at[n]] = values[order[n]] ^ content[a] ^ content[b] ^ content[c] ^ content[d]
    words = np.zeros(slots // 64 * bits, np.uint64)
    for p in range(slots):
        word, shift = (p * bits) >> 6, np.uint64((p * bits) & 63)
        words[word] |= content[p] << shift
        if np.int64(shift) + bits > 64:
            words[word + 1] |= content[p] >> (np.uint64(64) - shift)
    return words


@jit
def _slot(words: Words, slot: int, bits: int) -> np.uint64:
    """The slot's bits, with those of the slots after it above them."""
    word, shift = (slot * bits) >> 6, np.uint64((slot * bits) & 63)
    return np.uint64((words[word] >> shift) | ((words[word + 1] << ONE) << (WORD - shift)))


@jit
def _read(keys: Hashes, partitions: npt.NDArray[np.int64], words: Words, bits: int) -> Words:
    out = np.zeros(len(keys), np.uint64)
    top = 0
    while (1 << top) < len(partitions):
        top += 1
    mask = (ONE << np.uint64(bits)) - ONE
    for i in range(len(keys)):
        n = np.int64((keys[i] >> ONE) >> np.uint64(63 - top))
        start, segments = partitions[n, 0], partitions[n, 1]
        if segments:
            a, b, c, d = _places(keys[i], top, segments, partitions[n, 2], partitions[n, 3])
            value = _slot(words, start + a, bits) ^ _slot(words, start + b, bits)
            value ^= _slot(words, start + c, bits) ^ _slot(words, start + d, bits)
            out[i] = value & mask
    return out
