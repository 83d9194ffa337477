"""Corpora of text by name: a folder, or the text that is already on this machine.

    default   the standard library, documentation and manual pages here, about 30 million tokens
    bytes     32 MB of it as plain bytes: where spelling is part of the task
    tiny      half a megabyte of it as plain bytes: for trying things in seconds

They are built at first use and kept in Maquette's home. Only exact duplicates are left out of them:
the forecasts of `scaling/ladder.json` were measured so.
"""

from collections.abc import Callable
from pathlib import Path

from maquette.base.errors import UserError
from maquette.base.files import home, lock
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.store import FORMAT, MANIFEST, Corpus
from maquette.corpus.tokenizer import BYTES

BUILT = {
    "default": (Local(), 4096),
    "bytes": (Local(limit=8 << 20), BYTES + 1),
    "tiny": (Local(limit=1 << 17), BYTES + 1),
}


def kept(name: str, make: Callable[[Path], object]) -> Corpus:
    """The corpus of that name in Maquette's home, made by one process when it is not there."""
    path = home() / f"corpora-{FORMAT}" / name
    if not (path / MANIFEST).exists():
        with lock(path.with_name(f".{name}.lock")):
            if not (path / MANIFEST).exists():
                make(path)
    return Corpus(path)


def open_corpus(name: str, progress: Progress = silent) -> Corpus:
    """The corpus of that name or folder; the built-in ones are built when they are not there."""
    if name in BUILT and not (Path(name) / MANIFEST).exists():
        source, vocabulary = BUILT[name]
        return kept(
            name,
            lambda path: build(
                path, source, BuildOptions(vocabulary=vocabulary, portrait=True), progress=progress
            ),
        )
    if not Path(name).expanduser().exists():
        raise UserError(
            f"there is no corpus {name}: name a folder built by maquette corpus build, "
            f"or one of {', '.join(BUILT)}"
        )
    return Corpus(name)
