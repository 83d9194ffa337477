"""ROUGE-L of a text against many: the longest common subsequence of their words, as an F-measure.

Lin 2004, equations 2 to 4, with beta = 1, on words as the package rouge-score has them without its stemmer:
small letters and digits, all else between words. Texts are compared all at once, a column of every table of
the dynamic programme at a time, so that a pool of thousands costs milliseconds.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WORD = re.compile(r"[a-z0-9]+")
NONE, OTHER = -1, -2  # behind the end of a text; a word that no text of the pool has


class RougePool:
    """Texts that others are compared with."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        self._rows = np.empty((0, 0), np.int32)  # (texts, longest)
        self._lengths = np.empty(0, np.int64)
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, text: str) -> None:
        """Add a text to the pool."""
        words = WORD.findall(text.lower())
        row = np.array([self._numbers.setdefault(w, len(self._numbers)) for w in words], np.int32)
        width = max(self._rows.shape[1], len(row))
        rows = np.full((len(self._rows) + 1, width), NONE, np.int32)
        rows[:-1, : self._rows.shape[1]] = self._rows
        rows[-1, : len(row)] = row
        self._rows, self._lengths = rows, np.append(self._lengths, len(row))

    def scores(self, text: str) -> npt.NDArray[np.float64]:
        """ROUGE-L of a text with each of the pool, (texts,), 0 to 1."""
        words = [self._numbers.get(w, OTHER) for w in WORD.findall(text.lower())]
        count, width = self._rows.shape
        before = np.zeros((count, width + 1), np.int32)  # lengths of the common subsequences
        for word in words:
            longest = np.zeros_like(before)
            matched = np.where(self._rows == word, before[:, :-1] + 1, before[:, 1:])
            np.maximum.accumulate(matched, 1, out=longest[:, 1:])
            before = longest
        common = before[:, -1]  # (texts,)
        total = self._lengths + len(words)
        scores: npt.NDArray[np.float64] = np.divide(
            2.0 * common, total, out=np.zeros(count), where=total > 0
        )
        return scores
