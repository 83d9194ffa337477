"""Build a corpus: two passes over the sources, memory that does not grow with them.

    pass 1   read, hash, drop exact duplicates, keep a uniform sample, train the tokenizer on it
    pass 2   read again, encode in parallel, write token shards and the table of documents

The result depends on the documents and the options alone: not on the number of workers, not on
the time. What grows with the corpus is 32 bytes a document, to know it again. A build that is
cut off leaves nothing behind.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, sha256, write_json
from maquette.base.machine import cores
from maquette.corpus.document import Document, Skipped, Source
from maquette.corpus.store import FORMAT, MANIFEST, SPLITS, TOKENIZER, Corpus
from maquette.corpus.tokenizer import Tokenizer, digest, save_tokenizer, train_tokenizer

SAMPLE_BYTES = 32 << 20  # of text the tokenizer learns from
BATCH_BYTES = 8 << 20  # of text encoded at a time
SHARD_TOKENS = 1 << 27
SKIPS_NAMED = 1000
HELDOUT = SPLITS[1]
TABLE = pa.schema(
    [
        ("component", pa.string()),
        ("source", pa.string()),
        ("date", pa.string()),
        ("licence", pa.string()),
        ("sha256", pa.binary(32)),
        ("split", pa.string()),
        ("offset", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)

Progress = Callable[[str, float, float | None], None]  # stage, done, total


def silent(stage: str, done: float, total: float | None) -> None:
    """The progress nobody watches."""


@dataclass
class Survey:
    """What the first pass learned."""

    documents: int = 0
    bytes: int = 0
    duplicates: int = 0
    heldout: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    sample: list[str] = field(default_factory=list)


def build(
    out: Path,
    source: Source,
    *,
    vocabulary: int = 8192,
    or_fewer: bool = False,
    heldout: float = 0.02,
    split: str = "hash",
    tokenizer: Tokenizer | None = None,
    workers: int | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> Corpus:
    """Read `source` and write the corpus `out`.

    vocabulary: symbols of the byte-pair tokenizer to train (257: plain bytes), unless a
    `tokenizer` is given; or_fewer: so many at most, where the text supports fewer. heldout: the
    fraction held out for evaluation. split: "hash" holds out whole documents, chosen by the hash of
    their text; "tail" holds out the end of each document. A corpus whose documents are too few for
    "hash" takes "tail". workers: threads that encode.
    Raises UserError where there is no text or too little of it for the vocabulary.
    """
    if out.exists() and not (replace and (out / MANIFEST).exists()):
        how = "pass --replace to build it again" if (out / MANIFEST).exists() else "it is no corpus"
        raise WrongUse(f"{out} exists: choose another folder ({how})")
    if not 0 < heldout < 1:
        raise WrongUse(f"heldout is {heldout}: use a fraction between 0 and 1, such as 0.02")
    survey = _survey(source, split, heldout, tokenizer is None, progress)
    if survey.documents == 0:
        raise UserError(_nothing(survey))
    if split == "hash" and not 0 < survey.heldout < survey.documents:
        split = "tail"
        survey = _survey(source, split, heldout, tokenizer is None, progress)
    if tokenizer is None:
        progress("tokenizer", 0, None)
        tokenizer = train_tokenizer(survey.sample, vocabulary, or_fewer)
        survey.sample.clear()
    with directory_aside(out) as folder:
        save_tokenizer(tokenizer, folder / TOKENIZER)
        manifest = _encode(folder, source, tokenizer, split, heldout, survey, workers, progress)
        write_json(folder / MANIFEST, manifest)
    return Corpus(out)


def _survey(source: Source, split: str, heldout: float, sample: bool, progress: Progress) -> Survey:
    """The first pass. The sample is the training texts with the smallest hashes: uniform, fixed."""
    survey = Survey()
    smallest: list[tuple[int, str]] = []  # a heap, the largest hash on top
    sampled = 0
    for key, where, item in _divided(source, split, heldout, survey):
        size = len(item.text.encode())
        survey.bytes += size
        if where == HELDOUT:
            survey.heldout += 1
        elif sample:
            heapq.heappush(smallest, (-int(key * 2**64), item.text))
            sampled += size
            while sampled > SAMPLE_BYTES and len(smallest) > 1:
                sampled -= len(heapq.heappop(smallest)[1].encode())
        progress("reading", survey.bytes, None)
    survey.sample = [text for _, text in sorted(smallest, reverse=True)]
    return survey


def _unique(source: Source, survey: Survey) -> Iterator[tuple[float, Document]]:
    """Documents seen for the first time, each with its hash as a number in [0, 1)."""
    seen: set[bytes] = set()
    for item in source:
        if isinstance(item, Skipped):
            survey.reasons[item.reason] += 1
            if len(survey.skipped) < SKIPS_NAMED or survey.reasons[item.reason] == 1:
                survey.skipped.append(item)
            continue
        identity = item.digest()
        if identity in seen:
            survey.duplicates += 1
            continue
        seen.add(identity)
        survey.documents += 1
        yield int.from_bytes(identity[:8], "big") / 2**64, item


def _divided(
    source: Source, split: str, heldout: float, survey: Survey
) -> Iterator[tuple[float, str, Document]]:
    """Every document, or part of one, with its hash and the split it belongs to."""
    for key, document in _unique(source, survey):
        if split == "hash":
            yield key, SPLITS[key < heldout], document
            continue
        cut = int(len(document.text) * (1 - heldout))
        for name, text in zip(SPLITS, (document.text[:cut], document.text[cut:]), strict=True):
            if text:
                part = document.source if name != HELDOUT else f"{document.source}#tail"
                yield key, name, replaced(document, text=text, source=part)


def _encode(
    folder: Path,
    source: Source,
    tokenizer: Tokenizer,
    split: str,
    heldout: float,
    survey: Survey,
    workers: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """The second pass; returns the manifest."""
    dtype = np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32
    shards = {name: _Shards(folder, name, np.dtype(dtype)) for name in SPLITS}
    components: dict[str, Counter[str]] = {}
    done = 0
    with pq.ParquetWriter(folder / "documents.parquet", TABLE) as table:
        divided = _divided(source, split, heldout, Survey())
        for batch in _batches((where, document) for _, where, document in divided):
            encoded = tokenizer.encode_batch([d.text for _, d in batch], workers or cores())
            rows = []
            for (where, document), tokens in zip(batch, encoded, strict=True):
                size = len(document.text.encode())
                offset = shards[where].append(tokens, tokenizer.end)
                rows.append(
                    {
                        "component": document.component,
                        "source": document.source,
                        "date": document.date,
                        "licence": document.licence,
                        "sha256": document.digest(),
                        "split": where,
                        "offset": offset,
                        "tokens": len(tokens),
                        "bytes": size,
                    }
                )
                count = components.setdefault(document.component, Counter())
                count[f"{where}_documents"] += 1
                count[f"{where}_tokens"] += len(tokens)
                count[f"{where}_bytes"] += size
                done += size
            table.write_table(pa.Table.from_pylist(rows, schema=TABLE))
            progress("encoding", done, survey.bytes)
    written = {name: shard.close() for name, shard in shards.items()}
    identity = hashlib.sha256(digest(tokenizer).encode())
    for name in SPLITS:
        for part in written[name]:
            identity.update(f"{name} {part['sha256']}".encode())
    keys = [f"{name}_{unit}" for name in SPLITS for unit in ("documents", "tokens", "bytes")]
    return {
        "format": FORMAT,
        "hash": identity.hexdigest(),
        "vocabulary": tokenizer.vocabulary,
        "end": tokenizer.end,
        "dtype": np.dtype(dtype).name,
        "split": split,
        "heldout": heldout,
        "documents": survey.documents,
        "bytes": survey.bytes,
        "tokens": sum(part["tokens"] for parts in written.values() for part in parts),
        "duplicates_removed": survey.duplicates,
        "components": {name: {k: count[k] for k in keys} for name, count in components.items()},
        "shards": written,
        "skipped": sum(survey.reasons.values()),
        "skipped_reasons": dict(survey.reasons.most_common()),
        "skipped_named": [{"source": s.source, "reason": s.reason} for s in survey.skipped],
    }


def _batches(items: Iterator[tuple[str, Document]]) -> Iterator[list[tuple[str, Document]]]:
    batch: list[tuple[str, Document]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[1].text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Shards:
    """Appends tokens to files of at most SHARD_TOKENS."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any]) -> None:
        self._folder, self._split, self._dtype = folder, split, dtype
        self._parts: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self.total = 0

    def append(self, tokens: np.ndarray[Any, Any], end: int | None) -> int:
        """Write a document and its end; returns the offset of its first token in the split."""
        offset = self.total
        ending = [] if end is None else [end]
        data = np.concatenate([tokens, np.array(ending, tokens.dtype)]).astype(self._dtype)
        while len(data):
            if self._file is None or self._parts[-1]["tokens"] >= SHARD_TOKENS:
                self._open()
            part = self._parts[-1]
            piece = data[: SHARD_TOKENS - part["tokens"]]
            assert self._file is not None
            self._file.write(piece.tobytes())
            part["tokens"] += len(piece)
            self.total += len(piece)
            data = data[len(piece) :]
        return offset

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


def _nothing(survey: Survey) -> str:
    if not survey.reasons:
        return "no files found: name a folder that holds text, code or .jsonl files"
    reasons = ", ".join(f"{count} {reason}" for reason, count in survey.reasons.most_common(4))
    example = survey.skipped[0].source
    return f"no text found ({reasons}; {example} for one): name a folder that holds UTF-8 text"
