"""Near-duplicates: MinHash finds candidates, the Jaccard similarity of the texts decides.

A text is the set of its byte grams, after folding: ASCII letters in lower case, every run of ASCII
white space one space, none at the ends, all else in the normal form C. So texts that differ in case,
indentation, line breaks or in how accents are written are duplicates. A text shorter than a gram is
one gram.

    signatures   one permutation hashing (Li, Owen, Zhang 2012): one hash for each gram, whose high
                 half chooses a bin and whose low half competes for the bin's minimum; an empty bin
                 takes that of another (optimal densification, Shrivastava 2017). Two signatures
                 agree in a bin with the probability of the Jaccard similarity J of the two sets.
    candidates   texts with an equal band of ROWS bins: with probability 1 - (1 - J^ROWS)^BANDS,
                 0.9999 at J = 0.8 and 0.988 at J = 0.7. In a bucket of many, each meets the first
                 and the NEIGHBOURS before it, so that the work is linear. Pairs that agree in too
                 few bins go no further, one in 800 of those at the threshold among them.
    confirmed    candidates whose gram sets, made again from the texts, have J >= threshold

Duplicates are the connected components of the confirmed pairs (A ~ B and B ~ C put A, B, C together,
whatever A and C share), and the first document of a component is kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse
from maquette.base.jit import jit
from maquette.corpus.text.ngram_hashes import BASE, Bytes, Hashes, mix, roll
from maquette.corpus.text.unicode_normalisation import nfc_bytes

WIDTH = 25  # bytes of a gram: about the five words that others take
BANDS, ROWS = 24, 5
BINS = BANDS * ROWS
NEIGHBOURS = 8  # before it in a bucket, with which a document is compared besides the first
SLACK = 0.11  # so far, three standard deviations, below the threshold an estimate is believed
BLOCK = 4096  # grams hashed at a time, within the processor's cache
LOW = np.uint64(0x7FFFFFFF)
EMPTY = np.uint32(0xFFFFFFFF)  # no hash: those have 31 bits
Signature = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Near:
    """The near-duplicates of documents.

    keep: for each document the first that it duplicates, itself where it is kept. links:
    confirmed pairs (earlier, later), a forest that spans each component.
    """

    keep: Ids
    links: Ids  # (pairs_confirmed, 2)
    pairs_checked: int

    @property
    def pairs_confirmed(self) -> int:
        return len(self.links)


def fold(text: bytes | Bytes) -> Bytes:
    """The text folded for comparison, at least one gram long."""
    data = np.frombuffer(nfc_bytes(bytes(text)), np.uint8)
    return _fold(data)


@jit
def _fold(data: Bytes) -> Bytes:
    out = np.empty(max(len(data), WIDTH), np.uint8)
    n = 0
    space = True
    for byte in data:
        if 65 <= byte <= 90:
            byte |= 32
        elif 9 <= byte <= 13:
            byte = np.uint8(32)
        out[n] = byte
        n += not (space and byte == 32)
        space = byte == 32
    n -= n > 0 and space
    out[n : max(n, WIDTH)] = 0
    return out[: max(n, WIDTH)]


def signature(text: bytes | Bytes) -> Signature:
    """The MinHash signature of a text, (BINS,)."""
    return _signature(fold(text))


def signatures(texts: Iterable[bytes]) -> Signature:
    """The signatures of many, (n, BINS)."""
    rows = [signature(text) for text in texts]
    return np.stack(rows) if rows else np.empty((0, BINS), np.uint32)


@jit
def _signature(data: Bytes) -> Signature:
    least = np.full(BINS, EMPTY, np.uint32)
    hashes = np.empty(min(BLOCK, len(data) - WIDTH + 1), np.uint64)
    for start in range(0, len(data) - WIDTH + 1, BLOCK):
        some = hashes[: len(data) - WIDTH + 1 - start]
        roll(data[start:], WIDTH, BASE, some)
        for h in some:
            slot = ((h >> np.uint64(32)) * np.uint64(BINS)) >> np.uint64(32)
            least[slot] = min(least[slot], np.uint32(h & LOW))
    out = least.copy()
    for i in range(BINS):
        probe = np.uint64(i + 1) * BASE
        slot = np.uint64(i)
        while least[slot] == EMPTY:  # the same walk in every text: Shrivastava 2017, algorithm 1
            probe = mix(probe + BASE)
            slot = probe % np.uint64(BINS)
        out[i] = least[slot]
    return out


def jaccard(a: bytes, b: bytes) -> float:
    """The Jaccard similarity of the gram sets of two texts."""
    return _jaccard(fold(a), fold(b))


@jit
def _jaccard(a: Bytes, b: Bytes) -> float:
    """By a hash set: keys of `a` end in binary 11, keys seen in `b` in 10."""
    if np.array_equal(a, b):
        return 1.0
    bits = 1
    while (1 << bits) < 2 * (len(a) + len(b)):
        bits += 1
    shift, last = np.uint64(64 - bits), np.uint64((1 << bits) - 1)
    table = np.zeros(1 << bits, np.uint64)
    hashes = np.empty(BLOCK, np.uint64)
    union = both = 0
    for second in range(2):
        data = b if second else a
        for start in range(0, len(data) - WIDTH + 1, BLOCK):
            some = hashes[: len(data) - WIDTH + 1 - start]
            roll(data[start:], WIDTH, BASE, some)
            for h in some:
                key = h | np.uint64(3)
                slot = h >> shift
                while table[slot] != 0 and table[slot] | np.uint64(1) != key:
                    slot = (slot + np.uint64(1)) & last
                union += table[slot] == 0
                if second:
                    both += table[slot] == key
                    table[slot] = key ^ np.uint64(1)
                else:
                    table[slot] = key
    return both / union


def near_duplicates(
    signatures: Signature,
    read: Callable[[int], bytes],
    threshold: float = 0.8,
) -> Near:
    """The near-duplicates among documents 0 .. n - 1.

    signatures: (n, BINS) of `signature`; may be memory-mapped: some 40 bytes a document are
    in memory. read: gives the text of a document.
    """
    if not 0.5 <= threshold <= 1:
        raise WrongUse(f"the threshold is {threshold}: use a Jaccard similarity from 0.5 to 1")
    signatures = np.asarray(signatures).view()
    signatures.flags.writeable = False  # whatever it was: the loops are compiled for one kind
    parent = np.arange(len(signatures))
    refused: set[tuple[int, int]] = set()
    links: list[tuple[int, int]] = []
    checked = 0
    grams = lru_cache(8)(lambda i: fold(read(i)))
    for band in range(BANDS):
        keys = _band(signatures, band)
        order = np.argsort(keys, kind="stable")  # within a bucket, documents in their order
        for left, right in _buckets(keys[order]):
            pairs = np.stack([order[left], order[right]], axis=1)
            pairs = pairs[_root(parent, pairs[:, 0]) != _root(parent, pairs[:, 1])]
            pairs = pairs[_agreement(signatures, pairs) >= threshold - SLACK]
            fresh = [pair for pair in map(tuple, pairs.tolist()) if pair not in refused]
            checked += len(fresh)
            similarities = [_jaccard(grams(i), grams(j)) for i, j in fresh]
            for (i, j), similarity in zip(fresh, similarities, strict=True):
                if similarity < threshold:
                    refused.add((i, j))
                    continue
                a, b = sorted(int(r) for r in _root(parent, np.array([i, j])))
                if a != b:
                    parent[b] = a
                    links.append((i, j))
    keep = _root(parent, np.arange(len(parent)))
    return Near(keep, np.array(links, np.int64).reshape(-1, 2), checked)


@jit
def _band(signatures: Signature, band: int) -> Hashes:
    """A key for each document's rows of a band."""
    out = np.empty(len(signatures), np.uint64)
    for i in range(len(signatures)):
        h = np.uint64(band)
        for j in range(band * ROWS, (band + 1) * ROWS):
            h = mix(h * BASE + np.uint64(signatures[i, j]))
        out[i] = h
    return out


def _buckets(keys: Hashes) -> Iterable[tuple[Ids, Ids]]:
    """Pairs of places in the same bucket of sorted `keys`: with its first, then with those before."""
    at = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    yield np.searchsorted(keys, keys[at]), at
    for back in range(1, NEIGHBOURS + 1):
        at = at[at >= back]
        at = at[keys[at] == keys[at - back]]
        yield at - back, at


@jit
def _agreement(signatures: Signature, pairs: Ids) -> npt.NDArray[np.float64]:
    """The fraction of bins in which each pair agrees: an estimate of its Jaccard similarity."""
    out = np.empty(len(pairs))
    for k in range(len(pairs)):
        equal = 0
        for j in range(BINS):
            equal += signatures[pairs[k, 0], j] == signatures[pairs[k, 1], j]
        out[k] = equal / BINS
    return out


def _root(parent: Ids, ids: Ids) -> Ids:
    """The smallest document in the connected component of each."""
    root = parent[ids]
    while np.any(root != (above := parent[root])):
        root = above
    return root
