"""Encode the documents that stay: each part of a build by itself, side by side."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from maquette.base.files import directory_aside, read_json, write_json
from maquette.corpus.text.scratch import PART, Ranges, Scratch, without
from maquette.corpus.text.store import SPLITS
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer

BATCH_BYTES = 4 << 20  # of text encoded at a time
TRAIN, HELDOUT = SPLITS
DROP, TO_TRAIN, TO_HELDOUT, TO_BOTH = range(4)  # where a document goes; to both: cut in two
ROWS = "rows.parquet"
ENCODED = pa.schema(
    [
        ("document", pa.int64()),
        ("split", pa.string()),
        ("sha256", pa.binary(32)),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class EncodeTask:
    """A part to encode into `folder`: where each of its documents goes, and what is cut from it."""

    folder: Path
    part: Path
    tokenizer: Path
    dtype: str
    where: npt.NDArray[np.uint8]
    cuts: dict[int, Ranges]
    heldout: float
    threads: int


def token_dtype(tokenizer: Tokenizer) -> str:
    """The smallest unsigned integer type that holds every token, by its name in numpy."""
    return "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"


def encode_part(task: EncodeTask) -> int:
    """Encode a part, unless that was done; returns the bytes of text it held."""
    if (task.folder / PART).exists():
        return int(read_json(task.folder / PART)["bytes"])
    tokenizer, scratch = load_tokenizer(task.tokenizer), Scratch([task.part])
    done = 0
    with directory_aside(task.folder) as folder:
        streams = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
        with pq.ParquetWriter(folder / ROWS, ENCODED) as table:
            batch: list[tuple[int, str, bytes]] = []
            size = 0
            for document in np.flatnonzero(task.where).tolist():
                text = without(scratch.text(document), task.cuts.get(document, []))
                for split, piece in divided(text, int(task.where[document]), task.heldout):
                    batch.append((document, split, piece))
                    size += len(piece)
                if size >= BATCH_BYTES:
                    _encode(batch, tokenizer, task, streams, table)
                    done, batch, size = done + size, [], 0
            if batch:
                _encode(batch, tokenizer, task, streams, table)
        for stream in streams.values():
            stream.close()
        write_json(folder / PART, {"bytes": done + size})
    return done + size


def divided(text: bytes, where: int, heldout: float) -> list[tuple[str, bytes]]:
    """A document, or its training and held-out parts, with their splits."""
    if where != TO_BOTH:
        return [(TRAIN if where == TO_TRAIN else HELDOUT, text)]
    characters = text.decode()
    cut = len(characters[: int(len(characters) * (1 - heldout))].encode())
    return [(s, t) for s, t in ((TRAIN, text[:cut]), (HELDOUT, text[cut:])) if t]


def _encode(
    batch: list[tuple[int, str, bytes]],
    tokenizer: Tokenizer,
    task: EncodeTask,
    streams: Mapping[str, BinaryIO],
    table: pq.ParquetWriter,
) -> None:
    encoded = tokenizer.encode_batch([t.decode() for _, _, t in batch], task.threads)
    ending = np.array(
        [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], task.dtype
    )
    rows = []
    for (document, split, text), tokens in zip(batch, encoded, strict=True):
        streams[split].write(np.concatenate([tokens.astype(task.dtype), ending]).tobytes())
        rows.append(
            {
                "document": document,
                "split": split,
                "sha256": hashlib.sha256(text).digest(),
                "tokens": len(tokens),
                "bytes": len(text),
            }
        )
    table.write_table(pa.Table.from_pylist(rows, schema=ENCODED))
