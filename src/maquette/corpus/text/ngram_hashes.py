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
def roll(data: Bytes, width: int, base: np.uint64, out: Hashes) -> None:
    """Fill `out` with the hashes of the grams at offsets 0, 1 ... of `data`, in the odd `base`.

    Every hash waits for the one before it; so four quarters of the offsets are rolled side by side.
    """
    power = np.uint64(1)
    for _ in range(width):
        power *= base
    leaving = np.empty(256, np.uint64)  # what a byte has come to when it leaves the gram
    for byte in range(256):
        leaving[byte] = (np.uint64(byte) + np.uint64(1)) * power - np.uint64(1)
    n = len(out) // 4
    a, b, c, d = data, data[n:], data[2 * n :], data[3 * n :]
    e, f, g, h = out[:n], out[n : 2 * n], out[2 * n : 3 * n], out[3 * n : 4 * n]
    p = q = r = s = np.uint64(0)
    for i in range(width if n else 0):
        p = p * base + np.uint64(a[i]) + np.uint64(1)
        q = q * base + np.uint64(b[i]) + np.uint64(1)
        r = r * base + np.uint64(c[i]) + np.uint64(1)
        s = s * base + np.uint64(d[i]) + np.uint64(1)
    for i in range(n):
        e[i], f[i], g[i], h[i] = p, q, r, s
        if i + 1 < n:
            p = p * base + np.uint64(a[i + width]) - leaving[a[i]]
            q = q * base + np.uint64(b[i + width]) - leaving[b[i]]
            r = r * base + np.uint64(c[i + width]) - leaving[c[i]]
            s = s * base + np.uint64(d[i + width]) - leaving[d[i]]
    for i in range(4 * n, len(out)):  # three at most
        p = np.uint64(0)
        for j in range(i, i + width):
            p = p * base + np.uint64(data[j]) + np.uint64(1)
        out[i] = p
    for i in range(len(out)):
        out[i] = mix(out[i])


def gram_hashes(data: Bytes, width: int) -> Hashes:
    """The hash of the gram at every offset of `data`: (max(0, len(data) - width + 1),).

    Not compiled: NumPy asks for huge pages where Numba's allocator lets every small one fault.
    """
    out = np.empty(max(0, len(data) - width + 1), np.uint64)
    roll(data, width, BASE, out)
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
