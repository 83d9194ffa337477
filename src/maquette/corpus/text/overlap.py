"""Overlap of a text with the examples of a benchmark: runs of n words in common.

GPT-3's rule (Brown et al. 2020, appendix C): an example is dirty when any n-gram of its words, n = 13
or the 5th percentile of its task's lengths kept within 8 and 13, is in any training document. The
grams of the benchmark are hashed once; the corpus streams past them, one multiplication a byte; and
a hash that is known is compared with the benchmark letter by letter, so nothing is flagged falsely.

A word is a longest run of characters of Unicode's categories L, M and N (letters, marks, numbers),
each replaced by its lower case where that is one character, wide and narrow forms by the usual ones
(half-width katakana with a voice mark, two characters, stay two).
Texts are compared in the normal form C. Bytes that are not UTF-8 part words.
GPT-3's words are parted by white space alone and lose their punctuation: its "don't" is one word,
dont, and ours two; so our grams are never longer than its, and a gram here forgives a hyphen, a
slash or a quotation mark that it does not.

Where words are not parted by spaces, each character stands for a part of a word (scripts.py): a gram
from any word or character on reaches as far as it needs to count n words. Thirteen words are 20
characters of Chinese, 20 to 26 of Japanese, 52 of Thai. GPT-3's words are clauses there.
Left out: GPT-3 ignored grams found in more than 10 training documents.
"""

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse
from maquette.base.jit import jit
from maquette.corpus.text.ngram_hashes import BASE, Bytes, Hashes, Offsets, as_bytes, mix
from maquette.corpus.text.scripts import LEAST, WORD, parts_of_words
from maquette.corpus.text.unicode_normalisation import nfc, nfc_bytes_places

N = 13
FEWEST, MOST = 8, 13  # words of a gram where the task's lengths decide
WINDOW = 200  # characters removed to each side of a collision, and the shortest piece that is kept
PIECES = 10  # a document that falls into more is removed
LETTERS = 0x40000  # the planes that hold letters
PART = np.uint32(24)  # bits of a letter below its part of a word
SPACED = np.uint32(WORD << 24)  # and above
Letters = npt.NDArray[np.uint32]


@dataclass(frozen=True, order=True)
class Hit:
    """A run of n words or more, bytes start .. end of the text, that is also in an example."""

    start: int
    end: int
    example: int


class Overlap:
    """Index of the word n-grams of a benchmark, to look up in texts.

    texts: the benchmark's examples. One with fewer than n words has no n-gram and is never found:
    it is too short to tell (`short` (examples,) says which). So it is with GPT-3's rule, whose n leaves
    5 % of them shorter.
    """

    def __init__(self, texts: Sequence[str], n: int = N) -> None:
        if n < 1:
            raise WrongUse(f"words is {n}: a gram has 1 word or more, such as {N}")
        self.n = n
        data = [nfc(text).encode("utf-8", "replace") for text in texts]
        grams = [_grams(as_bytes(d), n, lower_case()) for d in data]
        self.short = np.array([len(starts) == 0 for starts, _ in grams], bool)
        offsets = np.cumsum([0, *(len(d) + 1 for d in data)])
        self._text = as_bytes(b"\n".join(data))  # so that no word runs into the next example
        places = _joined([s + o for (s, _), o in zip(grams, offsets, strict=False)], np.int64)
        hashes = _joined([h for _, h in grams], np.uint64)
        examples = np.repeat(np.arange(len(data)), [len(s) for s, _ in grams])
        order = np.argsort(hashes, kind="stable")
        hashes, places, examples = hashes[order], places[order], examples[order]
        group = _distinct(self._text, hashes, places, n, lower_case())  # gram number of each place
        first = np.flatnonzero(np.diff(group, prepend=-1) > 0)
        pairs = np.unique(np.stack([group, examples], 1), axis=0)  # (gram, example), in order
        self._hashes, self._places, self._owners = hashes[first], places[first], pairs[:, 1]
        self._owned = np.searchsorted(pairs[:, 0], np.arange(len(first) + 1))
        size = max(6, int(32 * len(first)).bit_length())  # 2^size bits, at least 16 a gram
        self._shift = np.uint64(64 - size)
        self._bits = np.zeros(1 << (size - 6), np.uint64)
        slots = self._hashes >> self._shift
        np.bitwise_or.at(self._bits, slots >> np.uint64(6), np.uint64(1) << (slots & np.uint64(63)))

    def __len__(self) -> int:
        """Number of distinct n-grams."""
        return len(self._hashes)

    def find(self, data: bytes) -> tuple[Offsets, Offsets, Offsets]:
        """Every n-gram of `data` that is known: its first byte, the byte after it, its number."""
        normal, places = nfc_bytes_places(data)
        matches = _find(
            as_bytes(normal), self.n, lower_case(), self._bits, self._shift,
            self._hashes, self._text, self._places,
        )  # fmt: skip
        starts, ends, grams = matches[:, 0], matches[:, 1], matches[:, 2]
        if places is None:
            return starts, ends, grams
        after = np.searchsorted(places, places[ends - 1], "right")  # the last letter with its marks
        return places[starts], places[after], grams

    def hits(self, starts: Offsets, ends: Offsets, grams: Offsets) -> list[Hit]:
        """The matches of `find` by example, in text order: grams that overlap or touch are one hit."""
        owners = self._owned[grams + 1] - self._owned[grams]
        row = np.repeat(np.arange(len(grams)), owners)  # a gram, once for each of its examples
        nth = np.arange(len(row)) - np.repeat(np.cumsum(owners) - owners, owners)
        example = self._owners[self._owned[grams][row] + nth]
        order = np.lexsort((row, example))
        row, example = row[order], example[order]
        new = np.ones(len(row), bool)
        new[1:] = (example[1:] != example[:-1]) | (starts[row[1:]] > ends[row[:-1]])
        first = np.flatnonzero(new)
        final = np.append(first[1:], len(row))[: len(first)] - 1
        columns = (starts[row[first]], ends[row[final]], example[first])
        return sorted(map(Hit, *(column.tolist() for column in columns)))

    def scan(self, data: bytes) -> list[Hit]:
        """The matches of `data` with the examples."""
        return self.hits(*self.find(data))

    @staticmethod
    def cuts(text: bytes, hits: Iterable[Hit]) -> list[tuple[int, int]] | None:
        """The bytes that GPT-3's filter cuts out of a training document; None: all of them.

        A collision goes with 200 characters to each side of it, what remains in pieces of fewer
        than 200 goes too, and a document that falls into more than 10 pieces goes whole.
        """
        spans = sorted({(hit.start, hit.end) for hit in hits})
        if not spans:
            return []
        begins = np.append(np.flatnonzero((as_bytes(text) & 0xC0) != 0x80), len(text))
        final = len(begins) - 1  # in characters, as what follows
        pieces: list[tuple[int, int]] = []
        reached = 0
        for first, after in np.searchsorted(begins, np.array(spans)).tolist():
            if first - WINDOW > reached:
                pieces.append((reached, first - WINDOW))
            reached = max(reached, min(after + WINDOW, final))
        pieces += [(reached, final)] if reached < final else []
        kept = [(a, b) for a, b in pieces if b - a >= WINDOW]
        if not kept or len(pieces) > PIECES:
            return None
        edges = [0, *begins[np.array(kept).reshape(-1)].tolist(), len(text)]
        between = zip(edges[::2], edges[1::2], strict=True)
        return [(start, end) for start, end in between if start < end]


def _joined(parts: Sequence[npt.NDArray[Any]], kind: type[Any]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, kind)


def gram_length(texts: Sequence[str]) -> int:
    """GPT-3's n for a task: the 5th percentile of its examples' lengths in words, in 8 .. 13."""
    lengths = [word_count(text) for text in texts]
    return int(np.clip(np.percentile(lengths, 5), FEWEST, MOST)) if lengths else N


def word_count(text: str) -> int:
    """Number of words of a text; scripts without spaces count by characters."""
    data = as_bytes(nfc(text).encode("utf-8", "replace"))
    return int(_parts(data, lower_case()) // WORD)


@functools.cache
def lower_case() -> Letters:
    """Every character's lower case with its part of a word above, 0 for what is in no word: (LETTERS,)."""
    letters = np.zeros(LETTERS, np.uint32)
    for code in range(LETTERS):
        if unicodedata.category(chr(code))[0] in "LMN":
            usual = unicodedata.decomposition(chr(code))
            wide = usual.startswith(("<wide>", "<narrow>"))
            lower = chr(int(usual.split()[1], 16) if wide else code).lower()
            letters[code] = ord(lower) if len(lower) == 1 else code
    parts = parts_of_words(LETTERS).astype(np.uint32)
    known = letters > 0
    letters[known] |= parts[letters[known]] << PART
    return letters


@jit
def _letter(data: Bytes, i: int, letters: Letters) -> tuple[np.uint32, int]:
    """The letter at byte i (0: none) and the bytes it takes; after the end there is none."""
    none = np.uint32(0)
    if i >= len(data):
        return none, 1
    lead = np.uint32(data[i])
    if lead < 0x80:
        return letters[lead], 1
    if lead < 0xC2 or lead > 0xF4:
        return none, 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    code = lead & np.uint32(0x7F >> width)
    for k in range(1, width):
        if i + k >= len(data) or data[i + k] & 0xC0 != 0x80:
            return none, 1
        code = (code << np.uint32(6)) | np.uint32(data[i + k] & 0x3F)
    overlong = (width == 3 and code < 0x800) or (width == 4 and code < 0x10000)
    if overlong or code >= LETTERS:
        return none, 1 if overlong else width
    return letters[code], width


@jit
def _word(data: Bytes, i: int, letters: Letters) -> tuple[int, int, np.uint64, int]:
    """The next word at or after byte i: its first byte, the byte after it, its hash, its part.

    That is WORD, or less for a character that stands for a part of one. Where there is none, both
    bytes are the end of the data.
    """
    size = len(data)
    letter, width = np.uint32(0), 1
    while i < size:
        letter, width = _letter(data, i, letters)
        if letter:
            break
        i += width
    start = min(i, size)
    h = np.uint64(letter)
    part = int(letter >> PART)
    if letter < SPACED:  # a character by itself
        return start, min(i + width, size) if letter else start, mix(h), part
    i += width
    while i < size:
        byte = data[i]
        if byte < 0x80:
            letter, width = letters[byte], 1
        else:
            letter, width = _letter(data, i, letters)
        if letter < SPACED:
            break
        h = h * BASE + np.uint64(letter)
        i += width
    return start, min(i, size), mix(h), part


@jit
def _parts(data: Bytes, letters: Letters) -> int:
    """Length of a text in parts of words."""
    total = 0
    start, end, _, part = _word(data, 0, letters)
    while start < len(data):
        total += part
        start, end, _, part = _word(data, end, letters)
    return total


@jit
def _powers(n: int) -> Hashes:
    """BASE^k for as many words or characters k as a gram of n words can have."""
    powers = np.ones(n * (WORD // LEAST) + 2, np.uint64)
    for k in range(1, len(powers)):
        powers[k] = powers[k - 1] * BASE
    return powers


@jit
def _grams(data: Bytes, n: int, letters: Letters) -> tuple[Offsets, Hashes]:
    """The first byte and the hash of every n-gram of words."""
    most = len(data) + 1
    starts = np.empty(most, np.int64)
    hashes = np.empty(most, np.uint64)
    parts = np.empty(most, np.int64)
    count = 0
    start, end, h, part = _word(data, 0, letters)
    while start < len(data):
        starts[count], hashes[count], parts[count] = start, h, part
        count += 1
        start, end, h, part = _word(data, end, letters)
    powers = _powers(n)
    out = np.empty(count, np.uint64)
    grams = held = last = 0
    total = np.uint64(0)
    for first in range(count):
        while last < count and held < n * WORD:
            total = total * BASE + hashes[last]
            held += parts[last]
            last += 1
        if held < n * WORD:
            break
        out[grams] = mix(total)
        grams += 1
        total -= hashes[first] * powers[last - first - 1]
        held -= parts[first]
    return starts[:grams].copy(), out[:grams].copy()


@jit
def _same(a: Bytes, i: int, b: Bytes, j: int, n: int, letters: Letters) -> bool:
    """Whether the n words from the word that begins at byte i of a, and j of b, are the same."""
    held = 0
    while held < n * WORD:
        i, end, _, part = _word(a, i, letters)
        j, other, _, same = _word(b, j, letters)
        if part != same or i >= len(a) or j >= len(b):
            return False
        while i < end and j < other:
            x, p = _letter(a, i, letters)
            y, q = _letter(b, j, letters)
            if x != y:
                return False
            i, j = i + p, j + q
        if i != end or j != other:
            return False
        held += part
    return True


@jit
def _equal(a: Bytes, i: int, end: int, b: Bytes, j: int, letters: Letters) -> bool:
    """Whether the words i .. end of a stand from byte j of b on to the byte: the common case."""
    while i < end and j < len(b) and a[i] == b[j]:
        i, j = i + 1, j + 1
    return i == end and not _letter(b, j, letters)[0]


@jit
def _distinct(text: Bytes, hashes: Hashes, places: Offsets, n: int, letters: Letters) -> Offsets:
    """Number the grams by what they say: equal hashes stand together, rising.

    Two grams of one hash have two numbers; that a third, equal to the first, then gets another
    number yet does no harm.
    """
    group = np.empty(len(hashes), np.int64)
    number = -1
    for i in range(len(hashes)):
        if (
            i == 0
            or hashes[i] != hashes[i - 1]
            or not _same(text, places[i], text, places[i - 1], n, letters)
        ):
            number += 1
        group[i] = number
    return group


@jit
def _find(
    data: Bytes, n: int, letters: Letters, bits: Hashes, shift: np.uint64,
    hashes: Hashes, text: Bytes, places: Offsets,
) -> Offsets:  # fmt: skip
    """The grams of `data` that are known: (grams, 3) first byte, byte after, number."""
    out = np.empty((16, 3), np.int64)
    count = 0
    powers = _powers(n)
    room = len(powers)
    starts = np.zeros(room, np.int64)  # of the last words, in a ring
    recent = np.zeros(room, np.uint64)
    parts = np.zeros(room, np.int64)
    total = np.uint64(0)
    oldest = units = held = 0
    start, end, h, part = _word(data, 0, letters)
    while start < len(data):
        slot = oldest + units
        slot = slot if slot < room else slot - room
        total = total * BASE + h
        starts[slot], recent[slot], parts[slot] = start, h, part
        units += 1
        held += part
        while held >= n * WORD:
            first = starts[oldest]
            key = mix(total)
            bit = key >> shift
            if (bits[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1):
                gram = np.searchsorted(hashes, key)
                while gram < len(hashes) and hashes[gram] == key:
                    if _equal(data, first, end, text, places[gram], letters) or _same(
                        data, first, text, places[gram], n, letters
                    ):
                        if count == len(out):
                            grown = np.empty((2 * count, 3), np.int64)
                            for row in range(count):  # a slice would take seconds to compile
                                for column in range(3):
                                    grown[row, column] = out[row, column]
                            out = grown
                        out[count, 0], out[count, 1], out[count, 2] = first, end, gram
                        count += 1
                    gram += 1
            units -= 1
            total -= recent[oldest] * powers[units]
            held -= parts[oldest]
            oldest = oldest + 1 if oldest + 1 < room else 0
        start, end, h, part = _word(data, end, letters)
    return out[:count].copy()
