"""A corpus on disk, opened for reading: memory-mapped tokens and the table of documents.

manifest.json       what it is: components, counts, shards with checksums, the corpus hash
tokenizer.json      in the Hugging Face format
tokens-train-*.bin, tokens-heldout-*.bin    documents one after the other, each with its end
documents.parquet   a row per document as it was written: component, source, title, date, licence,
                    sha256, split, offset and tokens in the split's stream, bytes, overlap
dropped.parquet     a row per document that was left out, and why
attributes.parquet  what cleaning found: spans, their rules and scores
portrait.bin, locator.bin, index/   what audits look things up in, where they were made
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.base.files import read_json
from maquette.corpus.checksums import check_files
from maquette.corpus.progress import Progress, silent
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer

FORMAT = 3
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
SPLITS = ("train", "heldout")
DOCUMENTS_TABLE, DROPPED_TABLE = "documents.parquet", "dropped.parquet"
ATTRIBUTES_TABLE = "attributes.parquet"


def stored_kind(path: str | Path) -> str:
    """The kind of a corpus by its manifest: "text" where it says nothing, or is none."""
    try:
        content = json.loads((Path(path).expanduser() / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "text"
    return str(content.get("kind", "text")) if isinstance(content, dict) else "text"


class TokenStream:
    """One split's tokens as one long sequence over its shards."""

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0] + [len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Offset of each file in the stream, and the length of the stream."""
        return self._starts

    def view(self, start: int, length: int) -> npt.NDArray[Any] | None:
        """Tokens start .. start + length as a view of one file; None where they span several files."""
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        if shard >= len(self._parts):
            return None
        local = start - int(self._starts[shard])
        part = np.asarray(self._parts[shard]).view(np.ndarray)[local : local + length]
        return part if len(part) == length else None

    def read(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """Tokens start .. start + length, as int64."""
        if not 0 <= start <= start + length <= len(self):
            raise IndexError(f"tokens {start}..{start + length} of {len(self)}")
        pieces = []
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while length > 0:
            local = start - int(self._starts[shard])
            piece = self._parts[shard][local : local + length]
            pieces.append(piece)
            start, length, shard = start + len(piece), length - len(piece), shard + 1
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)


class Corpus:
    """An opened corpus. Raises UserError when the folder is not one, or is damaged."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        manifest = self.path / MANIFEST
        if not manifest.exists():
            raise UserError(
                f"{path} is not a corpus (no {MANIFEST}): "
                f"build one with maquette corpus build OUT {path}"
            )
        self.manifest: dict[str, Any] = read_json(manifest)
        if (kind := stored_kind(self.path)) != "text":
            kind = "pictures" if kind == "world" else kind
            raise UserError(f"{path} is a corpus of {kind}: name one of text")
        if self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{path} is a corpus of format {self.manifest.get('format')}, this Maquette reads "
                f"format {FORMAT}: build it again with maquette corpus build"
            )

    @property
    def hash(self) -> str:
        """Identity of the tokens and the tokenizer."""
        return str(self.manifest["hash"])

    @property
    def vocabulary(self) -> int:
        return int(self.manifest["vocabulary"])

    @property
    def eos_token_id(self) -> int | None:
        """The token id that ends a document."""
        token = self.manifest["eos_token_id"]
        return None if token is None else int(token)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.path / TOKENIZER)

    @functools.cached_property
    def train(self) -> TokenStream:
        return self._stream("train")

    @functools.cached_property
    def heldout(self) -> TokenStream:
        return self._stream("heldout")

    @functools.cached_property
    def documents(self) -> Any:
        """The table of documents (`pyarrow.Table`)."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path / DOCUMENTS_TABLE)

    @functools.cached_property
    def _places(self) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        table = self.documents
        return table["split"].to_pylist(), table["offset"].to_numpy(), table["tokens"].to_numpy()

    def text(self, row: int) -> bytes:
        """The UTF-8 of the document in that row of `documents`, decoded from its tokens."""
        split, offset, tokens = self._places
        stream = self.train if split[row] == SPLITS[0] else self.heldout
        return self.tokenizer.decode_bytes(stream.read(int(offset[row]), int(tokens[row])))

    def check(self, progress: Progress = silent) -> int:
        """Hash all shards; returns their bytes. Raises UserError for one that is damaged."""
        shards = [part for split in SPLITS for part in self.manifest["shards"][split]]
        return check_files(self.path, {part["file"]: part["sha256"] for part in shards}, progress)

    @property
    def components(self) -> list[str]:
        return list(self.manifest["components"])

    def _stream(self, split: str) -> TokenStream:
        dtype = np.dtype(self.manifest["dtype"])
        parts = []
        for part in self.manifest["shards"][split]:
            path = self.path / part["file"]
            expected = part["tokens"] * dtype.itemsize
            if not path.exists() or path.stat().st_size != expected:
                raise UserError(f"{path} is missing or damaged: build the corpus again")
            if expected:
                parts.append(np.memmap(path, dtype=dtype, mode="r"))
        return TokenStream(parts)
