"""Check the files of a corpus: their SHA-256 against the manifest's."""

from collections.abc import Mapping
from pathlib import Path

from maquette.base.errors import UserError
from maquette.base.files import sha256
from maquette.corpus.progress import Progress, silent


def check_files(folder: Path, digests: Mapping[str, str], progress: Progress = silent) -> int:
    """Hash files of a folder, by name; returns their bytes.

    Raises UserError for the first one that is missing or holds something else.
    """
    for name in digests:
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing: restore it, or build the corpus again")
    sizes = {name: (folder / name).stat().st_size for name in digests}
    done, total = 0, float(sum(sizes.values()))
    for name, digest in digests.items():
        if sha256(folder / name) != digest:
            raise UserError(
                f"{folder / name} is damaged (it is not what was written): restore it, or build the "
                "corpus again"
            )
        done += sizes[name]
        progress("checking", done, total)
    return done
