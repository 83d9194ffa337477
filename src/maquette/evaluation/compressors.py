"""Bits per byte of general compressors, the baseline of a language model.

Each gets all documents of a component as one stream at its strongest setting, so it may copy from
one document to the next; it has read nothing before. A model has read the training text, and sees
its own context only.
"""

import lzma

import zstandard


def compressors(text: bytes) -> dict[str, float]:
    """Bits per byte of `zstd -19` (long window) and `xz -9e`."""
    zstd = zstandard.ZstdCompressor(level=19).compress(text)
    xz = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    size = max(1, len(text))
    return {"zstd -19": 8 * len(zstd) / size, "xz -9e": 8 * len(xz) / size}
