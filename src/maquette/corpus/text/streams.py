"""The token streams of a corpus' splits in files of bounded size, and the table of its documents."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from maquette.base.files import sha256
from maquette.corpus.text.encode import ROWS
from maquette.corpus.text.scratch import DESCRIBED
from maquette.corpus.text.store import DOCUMENTS_TABLE, SPLITS
from maquette.corpus.tokenizer import Tokenizer

SHARD_TOKENS = 1 << 27
AT_ONCE = 1 << 22  # tokens copied at a time
HELDOUT = SPLITS[1]
TABLE = pa.schema(
    [
        *DESCRIBED,
        ("sha256", pa.binary(32)),
        ("split", pa.string()),
        ("offset", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
        ("overlap", pa.int32()),
    ]
)


def _mapped(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


class Streams:
    """The token shards and the table of documents of a corpus, written in one order."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, dtype: str) -> None:
        self._eos_tokens = 0 if tokenizer.eos_token_id is None else 1
        self._dtype = np.dtype(dtype)
        self._shards = {split: _Shards(folder, split, self._dtype) for split in SPLITS}
        self._table = pq.ParquetWriter(folder / DOCUMENTS_TABLE, TABLE)
        self.components: dict[str, Counter[str]] = {}

    def add(
        self,
        encoded: Path,
        described: pa.Table,
        overlap: npt.NDArray[np.int32],
        chosen: npt.NDArray[np.bool_],
    ) -> None:
        """Append the rows of an encoded part where `chosen`.

        described: the part's table as it was read, a row per document; overlap: (documents,).
        """
        rows = pq.read_table(encoded / ROWS)
        split = np.array(rows["split"].to_pylist(), dtype=object)
        tokens = rows["tokens"].to_numpy()
        offset = np.zeros(len(rows), np.int64)
        for name in SPLITS:
            here = split == name
            lengths = np.where(here, tokens + self._eos_tokens, 0)
            stream = _mapped(encoded / f"{name}.bin", self._dtype)
            starts = np.cumsum(lengths) - lengths
            taken = np.where(here & chosen, lengths, 0)
            offset = np.where(here, self._shards[name].total + np.cumsum(taken) - taken, offset)
            if (here & chosen).sum() == here.sum():
                self._shards[name].append(stream)
            else:
                for i in np.flatnonzero(here & chosen):
                    self._shards[name].append(stream[starts[i] : starts[i] + lengths[i]])
        document = rows["document"].to_numpy()
        source = described["source"].take(document).to_pylist()
        both = np.bincount(document, minlength=len(described))[document] > 1
        tail = both & (split == HELDOUT)
        table = pa.table(
            {
                "component": described["component"].take(document),
                "source": [f"{s}#tail" if t else s for s, t in zip(source, tail, strict=True)],
                "title": described["title"].take(document),
                "date": described["date"].take(document),
                "licence": described["licence"].take(document),
                "sha256": rows["sha256"],
                "split": rows["split"],
                "offset": offset,
                "tokens": tokens,
                "bytes": rows["bytes"],
                "overlap": overlap[document],
            },
            schema=TABLE,
        ).filter(pa.array(chosen))
        self._table.write_table(table)
        self._count(table)

    def _count(self, table: pa.Table) -> None:
        counted = table.group_by(["component", "split"], use_threads=False).aggregate(
            [("tokens", "sum"), ("bytes", "sum"), ("tokens", "count")]
        )
        for row in counted.to_pylist():
            count = self.components.setdefault(row["component"], Counter())
            count[f"{row['split']}_documents"] += row["tokens_count"]
            count[f"{row['split']}_tokens"] += row["tokens_sum"]
            count[f"{row['split']}_bytes"] += row["bytes_sum"]

    def close(self) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
        """Close all; returns the shards of each split and the SHA-256 of each split's stream."""
        self._table.close()
        shards = {name: shard.close() for name, shard in self._shards.items()}
        return shards, {name: shard.digest.hexdigest() for name, shard in self._shards.items()}


class _Shards:
    """Appends tokens to files of at most SHARD_TOKENS."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any]) -> None:
        self._folder, self._split, self._dtype = folder, split, dtype
        self._parts: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self.digest = hashlib.sha256()
        self.total = 0

    def append(self, tokens: npt.NDArray[Any]) -> None:
        for at in range(0, len(tokens), AT_ONCE):
            self._append(tokens[at : at + AT_ONCE])

    def _append(self, tokens: npt.NDArray[Any]) -> None:
        self.digest.update(tokens.tobytes())
        while len(tokens):
            if self._file is None or self._parts[-1]["tokens"] >= SHARD_TOKENS:
                self._open()
            part = self._parts[-1]
            piece = tokens[: SHARD_TOKENS - part["tokens"]]
            assert self._file is not None
            self._file.write(piece.tobytes())
            part["tokens"] += len(piece)
            self.total += len(piece)
            tokens = tokens[len(piece) :]

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        name = f"tokens-{self._split}-{len(self._parts):05d}.bin"
        self._parts.append({"file": name, "tokens": 0})
        self._file = (self._folder / name).open("wb")

    def close(self) -> list[dict[str, Any]]:
        """Close the last file; returns name, tokens and checksum of each."""
        if self._file is None:
            self._open()
        assert self._file is not None
        self._file.close()
        return [part | {"sha256": sha256(self._folder / part["file"])} for part in self._parts]
