"""Sources that are no files yet: a data set of the Hugging Face Hub, and standard input.

`hf://OWNER/NAME[/path][@split]` names the parquet, arrow, .jsonl and .json files of a data set, or those
under a path, or those of a split. They are downloaded at the data set's newest revision into the
Hub's own cache, so that a second build downloads nothing but the list.
"""

import atexit
import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from maquette.base.errors import UserError, WrongUse, need
from maquette.corpus.decompress import BLOCK, plain
from maquette.corpus.records import NO_RECORDS

READABLE = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
FIRST_LINE = 32 << 20  # bytes of the first line looked at


def hub(name: str) -> Iterator[tuple[str, str, str]]:
    """Download a data set; gives path, source and revision of each of its files."""
    dataset, path, split = _parsed(name)
    library = need("huggingface_hub", "hub")
    try:
        info = library.HfApi().dataset_info(dataset)
        held = sorted(file.rfilename for file in info.siblings)
        chosen = [file for file in held if _chosen(file, path, split)]
        if not chosen:
            raise UserError(f"{name}: {_nothing(held, path, split)}")
        for file in chosen:
            local = library.hf_hub_download(dataset, file, repo_type="dataset", revision=info.sha)
            yield local, f"hf://{dataset}/{file}", info.sha
    except UserError:
        raise
    except Exception as error:  # which network library raises depends on the Hub library's version
        raise UserError(f"{name}: {_why(error, dataset)}") from error


def _parsed(name: str) -> tuple[str, str, str]:
    """Data set, path in it, and split."""
    rest, _, split = name.removeprefix("hf://").removeprefix("datasets/").partition("@")
    owner, *others = rest.strip("/").split("/")
    if not owner or "/" in split or (not split and name.endswith("@")):
        raise WrongUse(f"{name} names no data set: write hf://OWNER/NAME[/path][@split]")
    return "/".join([owner, *others[:1]]), "/".join(others[1:]), split


def _chosen(file: str, path: str, split: str) -> bool:
    """A split is a word of the file's path, as the Hub finds it: `data/train-00000.parquet`."""
    name = plain(file).rpartition("/")[2]
    return (
        name.endswith(READABLE)
        and not (name.endswith(".json") and name[:-5] in NO_RECORDS)
        and (not path or file == path or file.startswith(f"{path}/"))
        and (not split or split in re.split(r"[^A-Za-z0-9]", file))
    )


def _nothing(held: list[str], path: str, split: str) -> str:
    shown = ", ".join(held[:6]) + (" ..." if len(held) > 6 else "")
    location = f" under {path}" * bool(path) + f" of the split {split}" * bool(split)
    return f"no parquet, arrow, .jsonl or .json files{location} (it has {shown}): name what it has"


def _why(error: Exception, dataset: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"its owner asks for consent: give it at https://huggingface.co/datasets/{dataset}"
    if "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        return "there is no such data set, or it is private: check the name, or log in with hf auth login"
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror} ({error.filename}): make room, or set HF_HOME to another folder"
    return f"no network ({type(error).__name__}): download it and name the folder"


def standard_input() -> tuple[str, str, str]:
    """Read it to its end into a file that is removed at exit; gives path, source and hash.

    It is records where its first line is a JSON object, or it begins with an array of objects, else
    text.
    """
    digest = hashlib.sha256()
    try:
        stream = sys.stdin.buffer
        block = stream.readline(FIRST_LINE)
        if block.strip(b"\xef\xbb\xbf \t\r\n") == b"[":  # an array's objects come after
            block += stream.readline(FIRST_LINE)
        suffix = ".jsonl" if _is_record(block) else ".txt"
        descriptor, path = tempfile.mkstemp(suffix=suffix, prefix="maquette-")
        atexit.register(_remove, path)
        with os.fdopen(descriptor, "wb") as file:
            while block:
                file.write(block)
                digest.update(block)
                block = stream.read(BLOCK)
    except OSError as error:
        raise UserError(
            f"standard input cannot be kept in {tempfile.gettempdir()} ({error.strerror}): "
            "set TMPDIR to a folder with room"
        ) from error
    return path, "-", digest.hexdigest()


def _is_record(line: bytes) -> bool:
    if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", line):
        return True
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
