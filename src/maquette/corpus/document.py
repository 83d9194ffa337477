"""A document, as every reader yields it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Document:
    """Text with its provenance.

    component: the part of the mixture it belongs to. source: where it was read, so that a person
    finds it again. date: ISO 8601; licence: an SPDX identifier or the words found; title: the
    document's own, where it has one.
    """

    text: str
    component: str
    source: str
    date: str | None = None
    licence: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        for name in ("component", "source", "date", "licence", "title"):
            object.__setattr__(self, name, _printable(getattr(self, name)))

    def digest(self) -> bytes:
        """SHA-256 of the text: its identity for deduplication and for the held-out split."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Skipped:
    """A file or record without a document, and the reason."""

    source: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", _printable(self.source))


class Source(Protocol):
    """Documents that can be read from their start as often as needed, always in one order.

    A build also asks for `parts(size)`, sources of about `size` bytes to be read side by side; `size`,
    bytes of all files; `fingerprint()`, the identity of the files; `mixture`, the epochs of each
    component. A source without them is read in one piece, and every document written once.
    """

    def __iter__(self) -> Iterator[Document | Skipped]: ...


def _printable(text: str | None) -> str | None:
    """A printable file name: bytes that are not UTF-8 are replaced."""
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()
