"""What a text is as language: which one, its words and lines, and how far it is running prose.

A `View` reads the words and lines of a text once, in compiled loops, for all rules that ask for
them. Measures and names are those of Gopher (Rae et al. 2021, appendix A1.1) and of C4 (Raffel et
al. 2020, section 2.2); the bars, and what is done with a text that misses one, are in `clean.py`.

Words stand between white space and lines between line feeds: no tokenizer, so that a megabyte takes
hundredths of a second. Where words are not parted by spaces, each character, with the marks and signs
that follow it, stands for a part of a word (scripts.py), and n-grams have as many characters as n words.
The language is py3langid's: a naive Bayes classifier over byte n-grams, 140 languages. It reads
excerpts of at most 1,050 characters (3 to 4 MB of them in a CPU-second). Short or mixed texts, names
and tables get low probabilities, and close relatives (Malay and Indonesian) are told apart badly.
"""

import functools
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.jit import jit
from maquette.corpus.grams import BASE, mix
from maquette.corpus.scripts import WORD, parts_of_words

SURE = 0.9  # probability of a language from which on a text is not taken for English
EXCERPTS, EXCERPT = 3, 350  # start, middle and end; characters of each
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SPACE, ALPHABETIC, BULLET, TERMINAL, CLOSING = 1, 2, 4, 8, 16  # classes of characters
UNSPACED = 64  # a letter of a script without spaces
BULLETS, TERMINALS, CLOSERS = "-*•‣▪◦●·–", ".?!", "\"'”’»)]"
QUOTES = (0x22, 0x201D)  # " and ”: C4 counts the end quotation mark as terminal punctuation
C4_WORDS = 5  # of a line, at least
AGAIN, AGAIN_WORDS = 3, 5
NOTICE_WORDS = 40  # a longer line is an article's
NOTICES = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies", "accept cookies", "skip to content", "skip to main content", "skip navigation",
    "back to top", "subscribe to our newsletter", "share on facebook", "share on twitter",
)  # fmt: skip
"""the first six are C4's"""
JAVASCRIPT = ("enable", "disabled", "turn on", "turned off", "browser", "requires")
SEPARATORS = (" | ", " » ", " › ", " · ", " • ")
COVERED = 0x32400  # code points that have classes: all letters of Unicode 15 are below
TOP, DUPLICATE = range(2, 5), range(5, 11)  # lengths of the n-grams of Gopher's table A1

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]
Span = tuple[int, int]


class View:
    """A text, and what rules ask of it, each computed at most once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def lower(self) -> str:
        """The text in small letters, character for character."""
        lower = self.text.lower()
        if len(lower) != len(self.text):  # İ becomes two characters
            lower = "".join(c.lower() if c.isascii() else c for c in self.text)
        return lower

    @functools.cached_property
    def codes(self) -> Codes:
        """The characters as numbers."""
        return np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), np.uint32)

    @functools.cached_property
    def words(self) -> tuple[Hashes, Integers, list[int]]:
        """Hash and length of each word, and sums over them (see `_words`)."""
        hashes, lengths, sums = _words(self.codes, _classes(), _parts(), _stop_words())
        return hashes, lengths, sums.tolist()

    @functools.cached_property
    def lines(self) -> Integers:
        """A row for each line: see `_lines`."""
        return _lines(self.codes, _classes(), _parts())

    @functools.cached_property
    def unspaced(self) -> float:
        """Characters a word, where most words are not parted by spaces; else 0."""
        singles, parts = self.words[2][5:]
        return WORD * singles / parts if parts > WORD * (len(self.words[0]) - singles) else 0.0

    @functools.cached_property
    def foreign(self) -> tuple[str, float] | None:
        """The language, where it is surely not English, and its probability."""
        code, probability = next(iter(self.language.items()))
        return (code, probability) if code != "en" and probability >= SURE else None

    @functools.cached_property
    def gopher(self) -> dict[str, float]:
        """The measures of Gopher's rules, by name; 0 where there is nothing to measure."""
        hashes, _, (total, alphabetic, hash_signs, ellipses, stop_words, singles, parts) = (
            self.words
        )
        words = len(hashes) - singles + parts / WORD
        count = max(1, words)
        lines = self.lines[self.lines[:, LENGTH] > 0]
        shown = max(1, len(lines))
        return {
            "words": float(words),
            "mean-word-length": total / count,
            "hash-ratio": hash_signs / count,
            "ellipsis-ratio": ellipses / count,
            "alphabetic-words": alphabetic / max(1, len(hashes)),
            "stop-words": float(bin(stop_words).count("1")),
            "bullet-lines": int((lines[:, MARKS] & BULLET != 0).sum()) / shown,
            "ellipsis-lines": int((lines[:, MARKS] & ELLIPSIS != 0).sum()) / shown,
        }

    @functools.cached_property
    def repetition(self) -> dict[str, float]:
        """The measures of Gopher's table A1, by name.

        A line, paragraph or n-gram of words is a duplicate where it stood before (so datatrove counts,
        too; the paper leaves open whether the first one is). For n-grams, each word counts once: its
        characters over those of all words. Of the most frequent n-gram every occurrence counts, if
        there are two.
        """
        hashes, lengths, _ = self.words
        lines = self.lines[self.lines[:, LENGTH] > 0]
        paragraphs = _paragraphs(self.lines)
        measures = {}
        for name, table in (("line", lines), ("paragraph", paragraphs)):
            keys = np.ascontiguousarray(table[:, KEY]).view(np.uint64)
            again = firsts(keys) != np.arange(len(keys))
            measures[f"duplicate-{name}s"] = float(again.mean()) if len(table) else 0.0
            characters = int(table[:, LENGTH].sum())
            repeated = int(table[again, LENGTH].sum())
            measures[f"duplicate-{name}-characters"] = repeated / max(1, characters)
        of = [
            round(n * (self.unspaced or 1)) for n in range(DUPLICATE.stop)
        ]  # words, or characters
        covered = _repeated_grams(hashes, lengths, of[TOP.stop - 1], of[DUPLICATE.stop - 1])
        shares = (covered / max(1, int(lengths.sum()))).tolist()
        measures |= {f"top-{n}-gram": shares[of[n]] for n in TOP}
        return measures | {f"duplicate-{n}-gram": shares[of[n]] for n in DUPLICATE}

    @functools.cached_property
    def language(self) -> dict[str, float]:
        """The probability of each language, the most probable first."""
        last = max(0, len(self.text) - EXCERPT)
        starts = sorted({last * i // (EXCERPTS - 1) for i in range(EXCERPTS)})
        excerpt = "\n".join(self.text[start : start + EXCERPT] for start in starts)
        return dict(_identifier().rank(excerpt))


def unterminated(view: View) -> list[Span]:
    """Lines that do not end in terminal punctuation or a quotation mark, or end in an ellipsis."""
    return _runs(view.lines, (view.lines[:, WORDS] > 0) & (view.lines[:, MARKS] & TERMINAL == 0))


def short_lines(view: View) -> list[Span]:
    """Lines of fewer than C4_WORDS words, empty ones not among them."""
    return _runs(view.lines, (view.lines[:, WORDS] > 0) & (view.lines[:, WORDS] < C4_WORDS))


def sentences(view: View) -> int:
    """Sentence ends in the lines that neither of the two rules above cuts."""
    kept = (view.lines[:, MARKS] & TERMINAL != 0) & (view.lines[:, WORDS] >= C4_WORDS)
    return int(view.lines[kept, SENTENCES].sum())


def notices(view: View) -> list[Span]:
    """Short lines that hold a phrase of NOTICES, or tell the reader to enable JavaScript.

    C4 cuts every line with the word Javascript, or about policies, however long.
    """
    rows = set()
    for phrase in (*NOTICES, "javascript"):
        at = view.lower.find(phrase)
        while at >= 0:
            row = int(np.searchsorted(view.lines[:, START], at, side="right")) - 1
            start, end = view.lines[row, [START, END]].tolist()
            line = view.lower[start:end]
            said = phrase != "javascript" or any(word in line for word in JAVASCRIPT)
            if said and view.lines[row, WORDS] <= NOTICE_WORDS:
                rows.add(row)
            at = view.lower.find(phrase, end)
    chosen = np.zeros(len(view.lines), np.bool_)
    chosen[list(rows)] = True
    return _runs(view.lines, chosen)


def menus(view: View) -> list[Span]:
    """Lines of three or more items, each of one to three words and with a capital."""
    spans = []
    for sign in SEPARATORS:
        at = view.text.find(sign)
        while at >= 0:
            start = view.text.rfind("\n", 0, at) + 1
            end = view.text.find("\n", at) + 1 or len(view.text)
            items = [item.split() for item in view.text[start:end].split(sign)]
            named = all(0 < len(item) <= 3 and item[0][0].isupper() for item in items)
            if len(items) >= 3 and named:
                spans.append((start, end))
            at = view.text.find(sign, end)
    return spans


def repeated_lines(view: View) -> list[Span]:
    """Lines of at least AGAIN_WORDS words that stand AGAIN times or more; the first one stays."""
    long = np.flatnonzero(view.lines[:, WORDS] >= AGAIN_WORDS)
    first = firsts(np.ascontiguousarray(view.lines[long, KEY]).view(np.uint64))
    again = (np.bincount(first, minlength=len(long)) >= AGAIN)[first]
    chosen = np.zeros(len(view.lines), np.bool_)
    chosen[long[again & (first != np.arange(len(long)))]] = True
    return _runs(view.lines, chosen)


def _runs(lines: Integers, chosen: npt.NDArray[np.bool_]) -> list[Span]:
    """The characters of chosen lines, neighbours joined."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    firsts_of, lasts_of = edges[::2], edges[1::2] - 1
    starts, ends = lines[firsts_of, START].tolist(), lines[lasts_of, END].tolist()
    return list(zip(starts, ends, strict=True))


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def languages() -> list[str]:
    """The codes of the languages that are known."""
    return list(_identifier().labels)


@functools.cache
def _classes() -> npt.NDArray[np.uint8]:
    """What each character is, by its code point."""
    known = map(chr, range(COVERED))
    classes = np.array([SPACE * c.isspace() + ALPHABETIC * c.isalpha() for c in known], np.uint8)
    for characters, kind in ((BULLETS, BULLET), (TERMINALS, TERMINAL), (CLOSERS, CLOSING)):
        classes[[ord(c) for c in characters]] |= np.uint8(kind)
    classes[(classes & ALPHABETIC != 0) & (_parts() < WORD)] |= np.uint8(UNSPACED)
    return classes


@functools.cache
def _parts() -> npt.NDArray[np.uint8]:
    """What part of a word each character stands for, by its code point."""
    return parts_of_words(COVERED)


@functools.cache
def _stop_words() -> Hashes:
    """Each stop word as one number: its letters in base 32."""
    powers = [32**n for n in range(4)]
    letters = [[ord(letter) % 32 for letter in reversed(word)] for word in STOP_WORDS]
    return np.array([sum(map(operator.mul, word, powers)) for word in letters], np.uint64)


@jit
def _words(
    codes: Codes, classes: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8], stop_words: Hashes
) -> tuple[Hashes, Integers, Integers]:
    """Hashes and lengths of the words, and sums.

    Sums: characters of words, words with a letter, signs #, ellipses, the set of stop words as bits,
    characters that stand for parts of words, these parts.
    A stop word may have punctuation around it, and capitals.
    """
    most = len(codes) + 1
    hashes, lengths = np.empty(most, np.uint64), np.empty(most, np.int64)
    total = alphabetic = hash_signs = ellipses = found = 0
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
                        found |= 1 << word
            letters = dots = 0
            h = packed = np.uint64(0)
        start = i + 1
        single = False
    sums = np.array([total, alphabetic, hash_signs, ellipses, found, singles, held])
    return hashes[:count].copy(), lengths[:count].copy(), sums


START, END, LENGTH, KEY, WORDS, MARKS, SENTENCES = range(7)  # columns of lines
ELLIPSIS = 32  # beside BULLET and TERMINAL in MARKS


@jit
def _lines(codes: Codes, classes: npt.NDArray[np.uint8], parts: npt.NDArray[np.uint8]) -> Integers:
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
def _paragraphs(lines: Integers) -> Integers:
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
def _repeated_grams(hashes: Hashes, lengths: Integers, top: int, longest: int) -> Integers:
    """Characters of words covered by n-grams of words, (longest + 1,) by n.

    Up to n = top: by the n-gram that stands most often, the earliest of several, where it stands
    twice. Above: by n-grams that stood before. An n-gram is repeated only where its first n - 1 words
    are, so fewer and fewer places are looked at.
    """
    covered = np.zeros(longest + 1, np.int64)
    places = np.arange(len(hashes))
    grams = np.zeros(len(hashes), np.uint64)  # by place, of the n - 1 words from there
    for n in range(1, longest + 1):
        places = places[places + n <= len(hashes)]
        keys = np.empty(len(places), np.uint64)
        for i in range(len(places)):
            place = places[i]
            grams[place] = grams[place] * BASE + hashes[place + n - 1]
            keys[i] = mix(grams[place])
        first = firsts(keys)
        counts = np.zeros(len(places), np.int64)
        for i in range(len(places)):
            counts[first[i]] += 1
        if len(places) == 0 or counts.max() < 2:
            break
        most = counts.argmax()
        until = 0  # words before it are counted
        for i in range(len(places)):
            if (first[i] == most) if n <= top else (first[i] != i):
                for word in range(max(until, places[i]), places[i] + n):
                    covered[n] += lengths[word]
                until = places[i] + n
        places = places[counts[first] > 1]
    return covered
