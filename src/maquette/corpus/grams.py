"""Hashes of byte n-grams: what portrait, locator and near-duplicates are made of.

A gram is `width` bytes of UTF-8. Its hash is a polynomial in an odd number modulo 2^64 (Karp and
Rabin 1987), rolled from offset to offset in constant time, then mixed so that every bit is usable.
Whoever may choose the text can make two grams collide (powers of two in the coefficients: the
Thue-Morse sequence does); what matters against an adversary is verified against the text.
"""

import numpy as np
import numpy.typing as npt

from maquette.base.jit import jit

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]
BASE = np.uint64(0x9E3779B97F4A7C15)


@jit
def mix(h: np.uint64) -> np.uint64:
    """The finaliser of MurmurHash3: a bijection in which every input bit moves every output bit."""
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@jit
def gram_hashes(data: Bytes, width: int) -> Hashes:
    """The hash of the gram at every offset of `data`: (max(0, len(data) - width + 1),)."""
    count = len(data) - width + 1
    out = np.empty(max(0, count), np.uint64)
    if count <= 0:
        return out
    leaving = np.uint64(1)
    h = np.uint64(0)
    for i in range(width):
        h = h * BASE + np.uint64(data[i]) + np.uint64(1)
        leaving *= BASE
    out[0] = mix(h)
    for i in range(1, count):
        gone = (np.uint64(data[i - 1]) + np.uint64(1)) * leaving
        h = h * BASE + np.uint64(data[i + width - 1]) + np.uint64(1) - gone
        out[i] = mix(h)
    return out


@jit
def strided_hashes(data: Bytes, width: int, stride: int) -> Hashes:
    """The hashes of the grams at offsets 0, stride, 2 stride ... that lie inside `data`."""
    count = (len(data) - width) // stride + 1 if len(data) >= width else 0
    out = np.empty(count, np.uint64)
    for n in range(count):
        h = np.uint64(0)
        for i in range(n * stride, n * stride + width):
            h = h * BASE + np.uint64(data[i]) + np.uint64(1)
        out[n] = mix(h)
    return out


def as_bytes(text: str | bytes) -> Bytes:
    """Text as an array of its UTF-8 bytes (read-only, not copied where it is bytes)."""
    return np.frombuffer(text if isinstance(text, bytes) else text.encode(), np.uint8)
