"""Language measures of a text: its language, words and lines, and how far it is prose.

A `View` reads the words and lines of a text once, in compiled loops, for all rules that ask for
them. Measures and names are those of Gopher (Rae et al. 2021, appendix A1.1) and of C4 (Raffel et
al. 2020, section 2.2); the bars, and what is done with a text that misses one, are in `clean.py`.

Words stand between white space and lines between line feeds: no tokenizer, so that a megabyte takes
hundredths of a second (words.py). Where words are not parted by spaces, each character, with the marks
and signs that follow it, stands for a part of a word (scripts.py), and n-grams have as many characters
as n words.
The language is py3langid's: a naive Bayes classifier over byte n-grams, 140 languages. It reads
excerpts of at most 1,050 characters (3 to 4 MB of them in a CPU-second). Short or mixed texts, names
and tables get low probabilities, and close relatives (Malay and Indonesian) are told apart badly.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.corpus.text.scripts import WORD
from maquette.corpus.text.words import (
    BULLET,
    ELLIPSIS,
    END,
    KEY,
    LENGTH,
    MARKS,
    SENTENCES,
    START,
    TERMINAL,
    WORDS,
    Codes,
    Hashes,
    Integers,
    classes,
    firsts,
    lines_in,
    paragraphs_in,
    parts_of,
    repeated_grams,
    stop_words,
    words_in,
)  # fmt: skip

SURE = 0.9  # probability of a language from which on a text is not taken for English
EXCERPTS, EXCERPT = 3, 350  # start, middle and end; characters of each
C4_WORDS = 5  # of a line, at least
AGAIN, AGAIN_WORDS = 3, 5
NOTICE_WORDS = 40  # a longer line is an article's
NOTICES = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies", "accept cookies", "skip to content", "skip to main content", "skip navigation",
    "back to top", "subscribe to our newsletter", "share on facebook", "share on twitter",
)  # fmt: skip
"""phrases of notices; the first six are C4's"""
JAVASCRIPT = ("enable", "disabled", "turn on", "turned off", "browser", "requires")
SEPARATORS = (" | ", " » ", " › ", " · ", " • ")
TOP, DUPLICATE = range(2, 5), range(5, 11)  # lengths of the n-grams of Gopher's table A1

Span = tuple[int, int]


class View:
    """A text with the measures that rules need, each computed at most once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def lower(self) -> str:
        """The text in lower case, character for character."""
        lower = self.text.lower()
        if len(lower) != len(self.text):  # İ becomes two characters
            lower = "".join(c.lower() if c.isascii() else c for c in self.text)
        return lower

    @functools.cached_property
    def codes(self) -> Codes:
        """Code points of the characters."""
        return np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), np.uint32)

    @functools.cached_property
    def words(self) -> tuple[Hashes, Integers, list[int]]:
        """Hash and length of each word, and sums over them (see `_words`)."""
        hashes, lengths, sums = words_in(self.codes, classes(), parts_of(), stop_words())
        return hashes, lengths, sums.tolist()

    @functools.cached_property
    def lines(self) -> Integers:
        """A row for each line: see `_lines`."""
        return lines_in(self.codes, classes(), parts_of())

    @functools.cached_property
    def unspaced(self) -> float:
        """Characters per word where most words are not separated by spaces; else 0."""
        singles, parts = self.words[2][5:]
        return WORD * singles / parts if parts > WORD * (len(self.words[0]) - singles) else 0.0

    @functools.cached_property
    def foreign(self) -> tuple[str, float] | None:
        """The language and its probability, where it is surely not English."""
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
        paragraphs = paragraphs_in(self.lines)
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
        covered = repeated_grams(hashes, lengths, of[TOP.stop - 1], of[DUPLICATE.stop - 1])
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
            is_notice = phrase != "javascript" or any(word in line for word in JAVASCRIPT)
            if is_notice and view.lines[row, WORDS] <= NOTICE_WORDS:
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
