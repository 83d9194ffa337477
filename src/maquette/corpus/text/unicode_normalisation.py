"""Unicode's normal form C of a text, and where its characters and bytes stood before.

One text can be written in several ways: é as one character or as e and an accent. What is looked up
is compared in the form C on both sides (Unicode Standard Annex 15); what was written stays as it is.
Form C works on pieces, each a character with the marks (or the Hangul vowels and finals) that follow
it, so a place in it is a place of the text to within such a piece.
"""

import functools
import re
import sys
import unicodedata

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]
JAMO = "\u1160-\u11ff\ud7b0-\ud7ff"  # Hangul vowels and finals, which join the letter before them


def nfc(text: str) -> str:
    """The text in the normal form C."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def nfc_bytes(data: bytes) -> bytes:
    """UTF-8 in the normal form C; bytes that are not UTF-8 stay unchanged."""
    text = _other(data)
    return data if text is None else unicodedata.normalize("NFC", text).encode()


def nfc_places(text: str) -> tuple[str, Places | None]:
    """The text in the form C, and for each border of its characters the border in the text.

    None where the two are the same. (characters + 1,)
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text, None
    pieces, starts, at = [], [], 0
    for piece in _pieces().findall(text):
        normal = unicodedata.normalize("NFC", piece)
        pieces.append(normal)
        starts += [at] * len(normal)
        at += len(piece)
    return "".join(pieces), np.array([*starts, at], np.int64)


def nfc_bytes_places(data: bytes) -> tuple[bytes, Places | None]:
    """The same of UTF-8, by bytes. (bytes + 1,)"""
    text = _other(data)
    if text is None:
        return data, None
    normal, places = nfc_places(text)
    assert places is not None
    before = np.cumsum([0, *(len(c.encode()) for c in text)])
    sizes = [len(c.encode()) for c in normal]
    return normal.encode(), np.append(np.repeat(before[places[:-1]], sizes), len(data))


def _other(data: bytes) -> str | None:
    """The text in the normal form C, where it differs."""
    if data.isascii():
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if unicodedata.is_normalized("NFC", text) else text


@functools.cache
def _pieces() -> re.Pattern[str]:
    """A character with the marks that follow it."""
    marks = (chr(c) for c in range(0x300, sys.maxunicode) if unicodedata.category(chr(c))[0] == "M")
    joins = f"[{JAMO}{''.join(marks)}]"
    return re.compile(f"(?s:.){joins}*")
