"""Put a corpus together from its encoded parts: streams, the table of documents, what was left out.

A document that the mixture repeats is written again in a later round over all parts, behind all others
that have as many copies. As the training text goes by, the portrait
and the locator are filled.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from maquette.base.arrays import write_arrays
from maquette.base.errors import UserError
from maquette.corpus.progress import Progress
from maquette.corpus.terms import Licences
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.document_selection import KEPT, NAMES, REASONS, Choice
from maquette.corpus.text.encode import ROWS, TO_BOTH, divided, token_dtype
from maquette.corpus.text.scratch import ATTRIBUTES, DROPPED, FOUND, LEFT_OUT, SIGNATURES, Scratch
from maquette.corpus.text.store import (
    ATTRIBUTES_TABLE,
    DOCUMENTS_TABLE,
    DROPPED_TABLE,
    FORMAT,
    SPLITS,
)
from maquette.corpus.text.streams import Streams
from maquette.corpus.tokenizer import Tokenizer, digest

if TYPE_CHECKING:
    from maquette.corpus.text.mixture import Mixture

MOST_EPOCHS = 100
MAGIC = b"MQMINHSH"  # of signatures.bin
TRAIN = SPLITS[0]


def assemble(
    folder: Path,
    workspace: Path,
    scratch: Scratch,
    choice: Choice,
    where: npt.NDArray[np.uint8],
    encoded: list[Path],
    tokenizer: Tokenizer,
    options: BuildOptions,
    mixture: "Mixture | None",
    progress: Progress,
) -> dict[str, Any]:
    """Write all of a corpus but its manifest and tokenizer into `folder`; returns the manifest."""
    copies, table = _copies(mixture, scratch, encoded)
    dtype = token_dtype(tokenizer)
    streams = Streams(folder, tokenizer, dtype)
    seen = _Seen(folder, workspace, options.portrait, options.locator)
    for number in range(max([1, *(int(c.max(initial=1)) for c in copies)])):
        for part, rows in enumerate(copies):
            first, last = scratch.firsts[part : part + 2].tolist()
            if number == 0 or (rows > number).any():
                streams.add(
                    encoded[part], scratch.rows(part), choice.hits[first:last], rows > number
                )
            if number == 0:
                seen.add(encoded[part], rows, scratch, choice, where, first, options.heldout)
                progress(
                    "assembling", float(scratch.sizes[:last].sum()), float(scratch.sizes.sum())
                )
    shards, digests = streams.close()
    identity = hashlib.sha256(digest(tokenizer).encode())
    for name in SPLITS:
        identity.update(f"{name} {digests[name]}".encode())
    seen.finish(identity.hexdigest())
    if options.near is not None:
        _signatures(folder / SIGNATURES, scratch, copies, encoded, identity.hexdigest())
    removed = _left_out(folder, scratch, choice, copies, encoded)
    with pq.ParquetWriter(folder / ATTRIBUTES_TABLE, FOUND) as attributes:
        for part_folder in scratch.parts:
            attributes.write_table(pq.read_table(part_folder / ATTRIBUTES))
    progress("assembling", float(scratch.sizes.sum()), float(scratch.sizes.sum()))
    keys = [f"{name}_{unit}" for name in SPLITS for unit in ("documents", "tokens", "bytes")]
    components = {name: {k: count[k] for k in keys} for name, count in streams.components.items()}
    return {
        "format": FORMAT,
        "hash": identity.hexdigest(),
        "vocabulary": tokenizer.vocabulary,
        "eos_token_id": tokenizer.eos_token_id,
        "dtype": dtype,
        "split": "tail" if (where == TO_BOTH).any() else "hash",
        "heldout": options.heldout,
        "documents": len(choice.kept) - removed["mixture"],
        "bytes": sum(c["train_bytes"] + c["heldout_bytes"] for c in components.values()),
        "tokens": sum(part["tokens"] for parts in shards.values() for part in parts),
        "duplicates_removed": removed["exact"] + removed["near"],
        "removed": dict(removed),
        "cut_bytes": sum(b - a for ranges in choice.cuts.values() for a, b in ranges),
        "contaminated": int((choice.hits > 0).sum()),
        "components": components,
        "mixture": table,
        "shards": shards,
    } | _licences(folder / DOCUMENTS_TABLE, options.terms)


def _licences(documents: Path, said: Sequence[str]) -> dict[str, Any]:
    """The manifest's part on licences."""
    licences = Licences(said)
    for batch in pq.ParquetFile(documents).iter_batches(columns=["licence", "source"]):
        for licence, source in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            licences.add(licence, source)
    return licences.manifest()


def _copies(
    mixture: "Mixture | None", scratch: Scratch, encoded: list[Path]
) -> tuple[list[npt.NDArray[np.int64]], list[dict[str, Any]]]:
    """Number of copies of each encoded row, part by part, and the table of the mixture.

    Held-out rows are written once. A document's number of copies is drawn by its hash.
    """
    tables = [pq.read_table(part / ROWS) for part in encoded]
    if mixture is None:
        return [np.ones(len(t), np.int64) for t in tables], []
    from maquette.corpus.text.mixture import ComponentSize, age_weights, plan, repeats

    sizes: dict[str, Counter[str]] = {}
    parts = []
    for part, table in enumerate(tables):
        document = table["document"].to_numpy() + int(scratch.firsts[part])
        component = [scratch.components[i] for i in document]
        training = np.array([s == TRAIN for s in table["split"].to_pylist()], np.bool_)
        parts.append((table, document, component, training))
        rows_of = zip(component, training, table["bytes"].to_pylist(), table["tokens"].to_pylist(),
                      strict=True)  # fmt: skip
        for name, train, size, tokens in rows_of:
            if train:
                count = sizes.setdefault(name, Counter())
                count.update(raw_bytes=size, tokens=tokens, documents=1)
    measured = {
        name: ComponentSize(c["raw_bytes"], c["documents"], c["tokens"])
        for name, c in sizes.items()
    }
    rows = plan(mixture, measured, mixture.tokens)
    epochs = {row.component: row.epochs for row in rows}
    for row in rows:
        if row.epochs > MOST_EPOCHS:
            raise UserError(
                f"component {row.component} would be written {row.epochs:,.0f} times: "
                f"give it less weight, or more text ({MOST_EPOCHS} times at most)"
            )
    trained = [i for _, document, _, training in parts for i in document[training]]
    weights = np.zeros(len(scratch))
    weights[trained] = age_weights(
        mixture,
        [scratch.components[i] for i in trained],
        [scratch.dates[i] for i in trained],
        scratch.sizes[trained],
    )
    copies = []
    for table, document, component, training in parts:
        key = [mixture.key(digest) for digest in table["sha256"].to_pylist()]
        copies.append(
            np.array(
                [
                    repeats(k, epochs[name] * weights[i]) if train else 1
                    for k, i, name, train in zip(key, document, component, training, strict=True)
                ],
                np.int64,
            )
        )
    return copies, [row.to_dict() for row in rows]


class _Builder(Protocol):
    def add(self, data: bytes) -> None: ...
    def finish(self, path: Path, corpus_hash: str) -> object: ...


class _Seen:
    """Builds portrait and locator from the training text."""

    def __init__(self, folder: Path, workspace: Path, portrait: bool, locator: bool) -> None:
        self._folder = folder
        self._builders: list[tuple[str, _Builder]] = []
        if portrait:
            from maquette.corpus.text.portrait import PORTRAIT, PortraitBuilder

            self._builders.append((PORTRAIT, PortraitBuilder(workspace / "portrait")))
        if locator:
            from maquette.corpus.text.locator import LOCATOR, LocatorBuilder

            self._builders.append((LOCATOR, LocatorBuilder(workspace / "locator")))

    def add(
        self,
        encoded: Path,
        copies: npt.NDArray[np.int64],
        scratch: Scratch,
        choice: Choice,
        where: npt.NDArray[np.uint8],
        first: int,
        heldout: float,
    ) -> None:
        """The training documents of a part, in the order of its rows."""
        if not self._builders:
            return
        rows = pq.read_table(encoded / ROWS, columns=["document", "split"])
        written = zip(rows["document"].to_pylist(), rows["split"].to_pylist(), copies, strict=True)
        for local, split, times in written:
            if split != TRAIN or not times:
                continue
            document = first + local
            pieces = divided(choice.text(scratch, document), int(where[document]), heldout)
            for _, builder in self._builders:
                builder.add(pieces[0][1])

    def finish(self, corpus: str) -> None:
        for name, builder in self._builders:
            builder.finish(self._folder / name, corpus)


def _signatures(
    path: Path,
    scratch: Scratch,
    copies: list[npt.NDArray[np.int64]],
    encoded: list[Path],
    corpus: str,
) -> None:
    """Keep the MinHash signature of each document, by the row of `documents.parquet` it is first in."""
    documents = [
        pq.read_table(part / ROWS)["document"].to_numpy()[times > 0] + first
        for part, times, first in zip(encoded, copies, scratch.firsts, strict=False)
    ]
    order, rows = np.unique(np.concatenate(documents), return_index=True)
    arrays = {"rows": rows.astype(np.int64), "signatures": scratch.signatures()[order]}
    write_arrays(path, MAGIC, {"format": 1, "corpus": corpus}, arrays)


def _left_out(
    folder: Path,
    scratch: Scratch,
    choice: Choice,
    copies: list[npt.NDArray[np.int64]],
    encoded: list[Path],
) -> Counter[str]:
    """Write the table of what was left out, and why; returns the counts."""
    counts = Counter[str](dict.fromkeys(("cleaning", *NAMES[1:], "mixture"), 0))
    sources = _sources(scratch, choice)
    with pq.ParquetWriter(folder / DROPPED_TABLE, LEFT_OUT) as table:
        for part, part_folder in enumerate(scratch.parts):
            cleaned = pq.read_table(part_folder / DROPPED)
            counts["cleaning"] += len(cleaned)
            table.write_table(cleaned)
            first, last = scratch.firsts[part : part + 2].tolist()
            why: dict[int, tuple[str, str]] = {}
            for i in np.flatnonzero(choice.state[first:last] != KEPT).tolist():
                reason, like = int(choice.state[first + i]), int(choice.like[first + i])
                same = "" if like == first + i else f" {sources[like]}"
                why[i] = NAMES[reason], REASONS[reason] + same
            rows = pq.read_table(encoded[part] / ROWS, columns=["document"])["document"].to_numpy()
            written = np.bincount(rows, weights=copies[part], minlength=last - first)
            for i in np.setdiff1d(rows, np.flatnonzero(written)).tolist():
                why[i] = "mixture", "not drawn: its component has less than one epoch"
            if not why:
                continue
            gone = sorted(why)
            counts.update(why[i][0] for i in gone)
            read = scratch.rows(part).take(gone)
            columns = {name: read[name] for name in ("component", "source", "bytes")}
            reasons = {"reason": [why[i][0] for i in gone], "detail": [why[i][1] for i in gone]}
            table.write_table(pa.table(columns | reasons, schema=LEFT_OUT))
    return counts


def _sources(scratch: Scratch, choice: Choice) -> dict[int, str]:
    """The sources of the documents that others duplicate."""
    wanted = np.unique(choice.like[choice.like != np.arange(len(scratch))])
    names: dict[int, str] = {}
    for part in range(len(scratch.parts)):
        first, last = scratch.firsts[part : part + 2].tolist()
        here = wanted[(wanted >= first) & (wanted < last)]
        if len(here):
            sources = scratch.rows(part)["source"].take(here - first).to_pylist()
            names |= zip(here.tolist(), sources, strict=True)
    return names
