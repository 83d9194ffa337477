"""The words and lines of a text, and which of them come again, in compiled loops.

Characters come as code points, and what each of them is as a table of classes by code point. Words stand
between white space, lines between line feeds; where a script has no spaces, each of its letters is a
word here, with the marks and signs that follow it, and the part of a word it stands for is summed.
"""

import functools
import operator

import numpy as np
import numpy.typing as npt

from maquette.base.jit import jit
from maquette.corpus.text.ngram_hashes import BASE, mix
from maquette.corpus.text.scripts import WORD, parts_of_words

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SPACE, ALPHABETIC, BULLET, TERMINAL, CLOSING = 1, 2, 4, 8, 16  # classes of characters
UNSPACED = 64  # a letter of a script without spaces
BULLETS, TERMINALS, CLOSERS = "-*•‣▪◦●·–", ".?!", "\"'”’»)]"
QUOTES = (0x22, 0x201D)  # " and ”: C4 counts the end quotation mark as terminal punctuation
COVERED = 0x32400  # code points that have classes: all letters of Unicode 15 are below
START, END, LENGTH, KEY, WORDS, MARKS, SENTENCES = range(7)  # columns of lines
ELLIPSIS = 32  # beside BULLET and TERMINAL in MARKS

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]


@functools.cache
def classes() -> npt.NDArray[np.uint8]:
    """Class of each character, by code point."""
    known = map(chr, range(COVERED))
    classes = np.array([SPACE * c.isspace() + ALPHABETIC * c.isalpha() for c in known], np.uint8)
    for characters, kind in ((BULLETS, BULLET), (TERMINALS, TERMINAL), (CLOSERS, CLOSING)):
        classes[[ord(c) for c in characters]] |= np.uint8(kind)
    classes[(classes & ALPHABETIC != 0) & (parts_of() < WORD)] |= np.uint8(UNSPACED)
    return classes


@functools.cache
def parts_of() -> npt.NDArray[np.uint8]:
    """Part of a word of each character, by code point."""
    return parts_of_words(COVERED)


@functools.cache
def stop_words() -> Hashes:
    """Each stop word as one number: its letters in base 32."""
    powers = [32**n for n in range(4)]
    letters = [[ord(letter) % 32 for letter in reversed(word)] for word in STOP_WORDS]
    return np.array([sum(map(operator.mul, word, powers)) for word in letters], np.uint64)


@jit
def words_in(
    codes: Codes, classes: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8], stop_words: Hashes
) -> tuple[Hashes, Integers, Integers]:
    """Hashes and lengths of the words, and sums.

    Sums: characters of words, words with a letter, signs #, ellipses, the set of stop words as bits,
    characters that stand for parts of words, these parts.
    A stop word may have punctuation around it, and capitals.
    """
    most = len(codes) + 1
    hashes, lengths = np.empty(most, np.uint64), np.empty(most, np.int64)
    total = alphabetic = hash_signs = ellipses = stopwords = 0
    count = start = letters = dots = singles = held = 0
    h = packed = np.uint64(0)
    single = False  # the word is one character of a script without spaces
    for i in range(len(codes) + 1):
        code = np.uint64(codes[i]) if i < len(codes) else np.uint64(32)
        kind = classes[code] if code < len(classes) else np.uint8(0)
        if i > start and (kind & UNSPACED or (single and kind & ALPHABETIC)):
            hashes[count], lengths[count] = mix(h), i - start
            count += 1
            total += i - start
            alphabetic += letters > 0
            letters = dots = 0
            h = packed = np.uint64(0)
            start = i
            single = False
        if kind & UNSPACED:
            single = True
            singles += 1
            held += parts[code]
        if not kind & SPACE:
            h = h * BASE + code + np.uint64(1)
            if kind & ALPHABETIC:
                letters += 1 if code < 128 else 5  # no stop word has so many
                packed = packed * np.uint64(32) + (code & np.uint64(31))
                continue
            hash_signs += code == 35
            dots = dots + 1 if code == 46 and i > start and codes[i - 1] == 46 else 1
            ellipses += code == 0x2026 or (code == 46 and dots == 3)
            continue
        if i > start:
            hashes[count], lengths[count] = mix(h), i - start
            count += 1
            total += i - start
            alphabetic += letters > 0
            if 0 < letters <= 4:
                for word in range(len(stop_words)):
                    if stop_words[word] == packed:
                        stopwords |= 1 << word
            letters = dots = 0
            h = packed = np.uint64(0)
        start = i + 1
        single = False
    sums = np.array([total, alphabetic, hash_signs, ellipses, stopwords, singles, held])
    return hashes[:count].copy(), lengths[:count].copy(), sums


@jit
def lines_in(
    codes: Codes, classes: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8]
) -> Integers:
    """A row for each line: start, end (after its line feed), length and hash of what is between
    its margins, words, marks, sentences that end in it. Marks: it starts with a bullet, it ends in
    terminal punctuation (not in an ellipsis), it ends in an ellipsis."""
    count = 1
    for code in codes:
        count += code == 10
    rows = np.zeros((count, 7), np.int64)
    at = 0
    for row in range(count):
        start = at
        while at < len(codes) and codes[at] != 10:
            at += 1
        first, last = start, at
        at += at < len(codes)
        rows[row, START], rows[row, END] = start, at
        while first < last and _kind(codes, classes, first) & SPACE:
            first += 1
        while first < last and _kind(codes, classes, last - 1) & SPACE:
            last -= 1
        if first == last:
            continue
        h, words, sentences, inside = np.uint64(0), 0, 0, False
        for i in range(first, last):
            code = np.uint64(codes[i])
            h = h * BASE + code + np.uint64(1)
            kind = _kind(codes, classes, i)
            if kind & UNSPACED:
                words += parts[code]
            elif not kind & SPACE and not inside:
                words += WORD
            inside = not kind & SPACE
            if kind & TERMINAL:
                j = i + 1
                while j < last and _kind(codes, classes, j) & CLOSING:
                    j += 1
                sentences += j == last or _kind(codes, classes, j) & SPACE != 0
        marks = _kind(codes, classes, first) & BULLET
        dots = last - first >= 3 and codes[last - 1] == 46
        if (dots and codes[last - 2] == 46 and codes[last - 3] == 46) or codes[last - 1] == 0x2026:
            marks |= ELLIPSIS
        elif _kind(codes, classes, last - 1) & TERMINAL or codes[last - 1] in QUOTES:
            marks |= TERMINAL
        rows[row, LENGTH], rows[row, WORDS] = last - first, (words + WORD - 1) // WORD
        rows[row, KEY] = np.int64(mix(h))
        rows[row, MARKS], rows[row, SENTENCES] = marks, sentences
    return rows


@jit
def _kind(codes: Codes, classes: npt.NDArray[np.uint8], at: int) -> int:
    code = np.int64(codes[at])
    return int(classes[code]) if code < len(classes) else 0


@jit
def paragraphs_in(lines: Integers) -> Integers:
    """Runs of lines without an empty one between: rows like those of lines, KEY and LENGTH set."""
    rows = np.zeros((len(lines) + 1, 7), np.int64)
    count = 0
    h = np.uint64(0)
    for i in range(len(lines) + 1):
        if i < len(lines) and lines[i, LENGTH]:
            h = h * BASE + np.uint64(lines[i, KEY])
            rows[count, LENGTH] += lines[i, LENGTH]
        elif rows[count, LENGTH]:
            rows[count, KEY] = np.int64(mix(h))
            h = np.uint64(0)
            count += 1
    return rows[:count].copy()


@jit
def firsts(hashes: Hashes) -> Integers:
    """For each hash, the place where it stands first."""
    size = 16
    while size < 2 * len(hashes):
        size *= 2
    table = np.full(size, -1, np.int32)
    first = np.empty(len(hashes), np.int64)
    mask = np.uint64(size - 1)
    for i in range(len(hashes)):
        slot = hashes[i] & mask
        while table[slot] >= 0 and hashes[table[slot]] != hashes[i]:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] < 0:
            table[slot] = i
        first[i] = table[slot]
    return first


@jit
def repeated_grams(hashes: Hashes, lengths: Integers, top: int, longest: int) -> Integers:
    """Characters of words covered by n-grams of words, (longest + 1,) by n.

    Up to n = top: by the n-gram that stands most often, the earliest of several, where it stands
    twice. Above: by n-grams that stood before. An n-gram is repeated only where its first n - 1 words
    are, so fewer and fewer places are looked at.
    """
    covered = np.zeros(longest + 1, np.int64)
    starts = np.arange(len(hashes))
    grams = np.zeros(len(hashes), np.uint64)  # by place, of the n - 1 words from there
    for n in range(1, longest + 1):
        starts = starts[starts + n <= len(hashes)]
        keys = np.empty(len(starts), np.uint64)
        for i in range(len(starts)):
            start = starts[i]
            grams[start] = grams[start] * BASE + hashes[start + n - 1]
            keys[i] = mix(grams[start])
        first = firsts(keys)
        counts = np.zeros(len(starts), np.int64)
        for i in range(len(starts)):
            counts[first[i]] += 1
        if len(starts) == 0 or counts.max() < 2:
            break
        most = counts.argmax()
        until = 0  # words before it are counted
        for i in range(len(starts)):
            if (first[i] == most) if n <= top else (first[i] != i):
                for word in range(max(until, starts[i]), starts[i] + n):
                    covered[n] += lengths[word]
                until = starts[i] + n
        starts = starts[counts[first] > 1]
    return covered
