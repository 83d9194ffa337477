"""The sources of a mixture as one source, each document with its component's name."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from maquette.corpus.document import Document, Skipped, Source
from maquette.corpus.read import Files, files
from maquette.corpus.text.mixture import Component, Mixture


@dataclass(frozen=True)
class Labelled:
    """A source whose documents are one component's."""

    source: Source
    name: str
    licence: str | None

    def __iter__(self) -> Iterator[Document | Skipped]:
        for item in self.source:
            if isinstance(item, Skipped):
                yield item
            else:
                licence = item.licence or self.licence
                yield replace(item, component=self.name, licence=licence)


class Components:
    """Every document of a mixture's sources, component by component.

    Raises UserError where a source is not there.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self._files = [
            (c, files(map(_on_disk, c.sources), text=c.text or "text", date=c.date or "date"))
            for c in mixture.components
        ]

    def __iter__(self) -> Iterator[Document | Skipped]:
        for component, source in self._files:
            yield from _labelled(component, source)

    def parts(self, size: int) -> list[Source]:
        """The documents in parts of about `size` bytes of files, to be read in parallel."""
        return [
            _labelled(component, part)
            for component, source in self._files
            for part in source.parts(size)
        ]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(source.size for _, source in self._files)

    def fingerprint(self) -> str:
        """Identity of the files of all components."""
        whole = [(c.name, c.licence, c.text, c.date, f.fingerprint()) for c, f in self._files]
        return hashlib.sha256(repr(whole).encode()).hexdigest()


def _on_disk(source: str) -> str:
    """A path that a file in UTF-8 names, as this locale writes the same bytes."""
    return os.fsdecode(source.encode("utf-8", "surrogateescape"))


def _labelled(component: Component, source: Files | Source) -> Labelled:
    return Labelled(source, component.name, component.licence)
