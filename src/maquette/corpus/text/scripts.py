"""Scripts that are written without spaces: how many of their characters a word has.

    Chinese characters                        1.5 a word
    Japanese kana, bopomofo, Yi               2
    Thai, Lao, Khmer, Burmese, and their kin  4

These are about the mean lengths that segmenters find (Chinese 1.5 to 1.7 characters; Japanese short
units 1.8 to 2; Thai and Khmer 4 to 5 with the signs above and below), rounded down, so that thirteen
words are no more text than in English, and what is found is as sure. Tibetan parts its syllables and
Hangul its words; so they are not here. Source of the blocks: Unicode 15, Blocks.txt.
"""

import numpy as np
import numpy.typing as npt

WORD = 12  # parts of a word
HAN, KANA, THAI = 8, 6, 3  # parts that a character of the three rows above stands for
LEAST = THAI
BLOCKS = {
    HAN: [(0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
          (0x20000, 0x3FFFF)],
    KANA: [(0x3031, 0x3035), (0x3041, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF),
           (0xA000, 0xA48F), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F)],
    THAI: [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF),
           (0x1B00, 0x1B7F), (0xA980, 0xA9FF), (0xAA60, 0xAADF)],
}  # fmt: skip


def parts_of_words(codes: int) -> npt.NDArray[np.uint8]:
    """Part of a word, of WORD parts, for each of the first characters of Unicode, (codes,)."""
    parts = np.full(codes, WORD, np.uint8)
    for part, blocks in BLOCKS.items():
        for first, last in blocks:
            parts[first : last + 1] = part
    return parts
