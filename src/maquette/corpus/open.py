"""Corpora of any kind: their common interface, and opening a folder by its kind."""

from pathlib import Path
from typing import Any, Protocol

from maquette.base.errors import UserError
from maquette.base.named import named
from maquette.corpus.pictures.store import open_pictures
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import MANIFEST, stored_kind
from maquette.corpus.tokenizer import Tokenizer
from maquette.worlds.registry import world_from

KINDS: dict[str, Any] = {
    "text": "maquette.corpus.text.store.Corpus",
    "examples": "maquette.corpus.examples.store.ExamplesCorpus",
    "cloze": "maquette.corpus.examples.cloze.ClozeCorpus",
    "pictures": "maquette.corpus.pictures.store.PictureCorpus",
    "world": "maquette.corpus.pictures.store.PictureCorpus",
}
"""class of a corpus, or its path, by the `kind` of the manifest (none: text)"""


class AnyCorpus(Protocol):
    """A folder with a manifest and a tokenizer."""

    path: Path
    manifest: dict[str, Any]

    @property
    def hash(self) -> str:
        """Hash of the content."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of tokens of the tokenizer."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the text or of the captions."""
        ...

    def check(self, progress: Progress = silent) -> int:
        """Hash all files; returns their bytes. Raises UserError for one that is damaged."""
        ...


def open_folder(path: Path) -> AnyCorpus:
    """The corpus of a folder, by its manifest's kind. Raises UserError for a folder that is no corpus."""
    kind = stored_kind(path)
    target = KINDS.get(kind)
    if target is None:
        raise UserError(f"{path} is a corpus of unknown kind {kind}: use the version that built it")
    corpus: AnyCorpus = named(target)(path)
    return corpus


def open_kept(path: Path, table: dict[str, Any]) -> AnyCorpus:
    """The corpus of a run, in `path` with the manifest `table`; a world's is made again where absent."""
    if (
        not (path / MANIFEST).exists() and table.get("kind") == "world"
    ):  # of another machine, or cleared
        return open_pictures(table["world"]["name"], world_from(table["world"]))
    return open_folder(path)
