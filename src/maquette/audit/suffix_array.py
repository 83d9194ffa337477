"""Suffix arrays of tokens: sorting, and the loops that search.

`tokens` are documents with an EOS token after each, `suffixes` the offsets of the sorted suffixes,
`buckets` (vocabulary + 1,) the ranks at which the suffixes of each first token begin. A query holds only
tokens that occur inside documents, so that what it matches lies inside one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.jit import jit

CHUNK = 1 << 20  # tokens turned into bytes at a time
LONG = 32  # tokens: what begins inside a longer match is stepped over where it can
Integers = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def sort_suffixes(tokens: Array, vocabulary: int) -> tuple[npt.NDArray[np.uint32], Integers]:
    """The suffix array of the tokens, and how often each token id occurs."""
    import pydivsufsort

    counts = np.zeros(vocabulary, np.int64)
    for at in range(0, len(tokens), CHUNK):
        counts += np.bincount(tokens[at : at + CHUNK], minlength=vocabulary)
    code = _code(np.cumsum(counts > 0) - 1, tokens[:CHUNK])
    data = np.empty((len(tokens), code.shape[1]), np.uint8)
    for at in range(0, len(tokens), CHUNK):
        np.take(code, tokens[at : at + CHUNK], 0, data[at : at + CHUNK], "clip")
    sorted_bytes = pydivsufsort.divsufsort(data.reshape(-1))
    kept = _compact(sorted_bytes, code.shape[1])
    suffixes = sorted_bytes[:kept]
    if suffixes.itemsize == 8:  # the bytes are 2 GiB or more
        suffixes = suffixes.astype(np.uint32)
    return suffixes.view(np.uint32), counts


def _code(rank: Integers, some: Array) -> npt.NDArray[np.uint8]:
    """Each token id's rank as digits of one base: (vocabulary, width).

    All bases give the same order. divsufsort sorts only the suffixes that begin just before a local
    maximum, and derives the others; the base is that which makes them fewest in `some` tokens (of
    28 million tokens of a vocabulary of 4,096, base 32 took 3.6 s and base 256 took 4.3).
    """
    distinct = int(rank[-1]) + 1
    width = 1 if distinct <= 1 << 8 else 2 if distinct <= 1 << 16 else 3
    best: tuple[int, npt.NDArray[np.uint8]] | None = None
    for base in (256, 128, 64, 32, 16):
        if distinct > 256 * base ** (width - 1):
            break
        digits = [rank // base ** (width - 1), *(rank // base**n % base for n in range(width - 1))]
        code = np.stack(digits[:1] + digits[:0:-1], 1).astype(np.uint8)
        data = code[some].reshape(-1)
        peaks = int(((data[1:-1] > data[:-2]) & (data[1:-1] > data[2:])).sum())
        if best is None or peaks < best[0]:
            best = peaks, code
    assert best is not None
    return best[1]


@jit
def _compact(suffixes: Array, width: int) -> int:
    """Move the positions of whole tokens to the front, counted in tokens; returns how many."""
    kept = 0
    for suffix in suffixes:
        if suffix % width == 0:
            suffixes[kept] = suffix // width
            kept += 1
    return kept


@jit
def _longest(
    tokens: Array, suffixes: Array, buckets: Array, query: Array, start: int, stop: int
) -> tuple[int, int]:
    """Length of the longest prefix of query[start:stop] that occurs, and the rank of a suffix with it.

    Binary search among the suffixes that begin with the first token. What both ends of the range
    share with the query is not compared again (Manber and Myers 1993, section 2).
    """
    if start >= stop:
        return 0, -1
    low, high = buckets[query[start]] - 1, buckets[query[start] + 1]
    low_shared = high_shared = length = 0
    rank = -1
    while high - low > 1:
        middle = (low + high) // 2
        at: Any = np.int64(suffixes[middle]) - start
        end = min(stop, len(tokens) - at)
        i = start + min(low_shared, high_shared)
        while i < end and tokens[at + i] == query[i]:
            i += 1
        if i - start > length:
            length, rank = i - start, middle
        if i == stop:
            break
        if i == end or tokens[at + i] < query[i]:
            low, low_shared = middle, i - start
        else:
            high, high_shared = middle, i - start
    return length, rank


@jit
def matches(
    tokens: Array, suffixes: Array, buckets: Array, query: Array, stops: Array
) -> tuple[Integers, Integers]:
    """Length of the longest match at each token and the rank of a suffix with it (-1: not searched).

    A later match never ends before an earlier one. Inside a long match, the starts whose matches
    end with it are stepped over by doubling, then halving, the step: a text that is one long
    quotation takes few searches and not the square of its length.
    """
    lengths = np.zeros(len(query), np.int64)
    ranks = np.full(len(query), -1, np.int64)
    i = 0
    while i < len(query):
        lengths[i], ranks[i] = _longest(tokens, suffixes, buckets, query, i, stops[i])
        end = i + lengths[i]
        if lengths[i] <= LONG:
            i += 1
            continue
        same, later, step = i, end, 1  # matches at same end at end, those at later end later
        while later - same > 1:
            probe = same + step if later == end else (same + later) // 2
            if probe >= later:
                probe = (same + later) // 2
            length, _ = _longest(tokens, suffixes, buckets, query, probe, stops[probe])
            if probe + length > end:
                later = probe
            else:
                same = probe
                step *= 2
        for j in range(i + 1, later):
            lengths[j] = end - j
        i = later
    return lengths, ranks


@jit
def counts(
    tokens: Array,
    suffixes: Array,
    buckets: Array,
    query: Array,
    lengths: Array,
    ranks: Array,
    chosen: Array,
) -> Integers:
    """Number of suffixes that begin with the match at each of the chosen tokens."""
    counts = np.zeros(len(chosen), np.int64)
    for n, i in enumerate(chosen):
        part = query[i : i + lengths[i]]
        low, high = _around(tokens, suffixes, buckets, part, ranks[i])
        counts[n] = high - low
    return counts


@jit
def find(
    tokens: Array, suffixes: Array, buckets: Array, query: Array, eos_token_id: int
) -> tuple[int, int]:
    """The range of the suffixes that begin with the query; empty where it holds an EOS token."""
    for token in query:
        if token < 0 or token >= len(buckets) - 1 or token == eos_token_id:
            return 0, 0
    length, rank = _longest(tokens, suffixes, buckets, query, 0, len(query))
    if length < len(query):
        return 0, 0
    return _around(tokens, suffixes, buckets, query, rank)


@jit
def _around(
    tokens: Array, suffixes: Array, buckets: Array, query: Array, rank: int
) -> tuple[int, int]:
    """The range of the suffixes that begin with the query, around the suffix at `rank`, which does."""
    bounds = np.empty(2, np.int64)
    for side in range(2):
        sign = 2 * side - 1
        most = (buckets[query[0] + 1] - 1 - rank) if side else rank - buckets[query[0]]
        inside, outside, step = 0, most + 1, 1  # steps away from place
        while outside - inside > 1:
            probe = inside + step
            if probe >= outside:
                probe = (inside + outside) // 2
            if _begins(tokens, np.int64(suffixes[rank + sign * probe]), query):
                inside = probe
                step *= 2
            else:
                outside = probe
                step = outside  # from here on the step is halved
        bounds[side] = rank + sign * inside
    return bounds[0], bounds[1] + 1


@jit
def _begins(tokens: Array, at: Any, query: Array) -> bool:
    """Whether the tokens from `at` on begin with the query."""
    if at + len(query) > len(tokens):
        return False
    i = len(query) - 1
    while i >= 0 and tokens[at + i] == query[i]:
        i -= 1
    return i < 0


@jit
def earliest(
    suffixes: Array, low: int, high: int, documents: Array, most: int
) -> tuple[Integers, Integers]:
    """The first `most` documents among suffixes low .. high, each with its first place."""
    numbers, positions = np.empty(most, np.int64), np.empty(most, np.int64)
    count = 0
    bound = np.int64(1) << 62  # places from here on are too late
    for s in range(low, high):
        position = np.int64(suffixes[s])
        if position >= bound:
            continue
        number = np.searchsorted(documents, position, "right") - 1
        k = count
        while k > 0 and numbers[k - 1] > number:
            k -= 1
        if k > 0 and numbers[k - 1] == number:
            positions[k - 1] = min(positions[k - 1], position)
            continue
        count = min(count + 1, most)
        numbers[k + 1 : count] = numbers[k : count - 1].copy()
        positions[k + 1 : count] = positions[k : count - 1].copy()
        numbers[k], positions[k] = number, position
        if count == most and numbers[most - 1] + 1 < len(documents):
            bound = documents[numbers[most - 1] + 1]
    return numbers[:count], positions[:count]
