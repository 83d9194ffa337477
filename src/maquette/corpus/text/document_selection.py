"""Selection of the documents of a build, and of the ranges cut from them. Each stage keeps its result.

    exact         a text seen before
    near          much the same as one before: MinHash finds, the true Jaccard decides (`near_duplicates.py`)
    overlap       stretches that are in an evaluation set, GPT-3's rule (`overlap.py`)
    substrings    stretches that stand word for word in an earlier document (`substring.py`)

The first in the order of the sources stays. What grows with the corpus: a digest and a few numbers
of each document, with near-duplicates its signature besides; substrings are found in passes of
bounded memory, across the whole corpus.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from maquette.base.arrays import open_arrays, write_arrays
from maquette.base.errors import UserError
from maquette.base.files import read_json, write_atomic, write_json
from maquette.corpus.progress import Progress
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.scratch import Ranges, Scratch, without
from maquette.corpus.worker_pool import Pool

MAGIC = b"MQNEARLY"
KEPT, EXACT, NEAR, OVERLAP, EMPTIED = range(5)
REASONS = ("", "the same text as", "nearly the same text as", "in the evaluation set", "repeated")
NAMES = ("kept", "exact", "near", "overlap", "substrings")


@dataclass
class Choice:
    """The selection: state and cuts of each document."""

    state: npt.NDArray[np.uint8]
    """KEPT, or the reason for dropping, (documents,)"""
    like: npt.NDArray[np.int64]
    """the document that each duplicates, or itself, (documents,)"""
    cuts: dict[int, Ranges]
    """byte ranges to cut from a kept document, by document"""
    hits: npt.NDArray[np.int32]
    """number of matches with evaluation sets, (documents,)"""
    digests: dict[int, bytes]
    """SHA-256 of the rest of each cut document"""

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.state == KEPT)

    def text(self, scratch: Scratch, document: int) -> bytes:
        """The text of a document after its cuts."""
        return without(scratch.text(document), self.cuts.get(document, []))

    def drop(self, document: int, reason: int) -> None:
        self.state[document] = reason
        self.cuts.pop(document, None)


def choose(
    scratch: Scratch, workspace: Path, options: BuildOptions, pool: Pool, progress: Progress
) -> Choice:
    """Run the stages that were asked for; what an earlier try finished is read, not done again.

    Raises UserError where no document stays.
    """
    count, total = len(scratch), float(scratch.sizes.sum())
    choice = Choice(np.zeros(count, np.uint8), np.arange(count), {}, np.zeros(count, np.int32), {})
    _exact(scratch, choice)
    if options.near is not None:
        progress("near-duplicates", 0, total)
        _near(scratch, choice, options.near, workspace / "near.bin")
        progress("near-duplicates", total, total)
    if options.evaluation:
        _overlap(
            scratch,
            choice,
            (options.evaluation, options.evaluation_field),
            workspace / "overlap",
            pool,
            progress,
        )
    if options.substrings is not None:
        progress("substrings", 0, total)
        _substrings(scratch, choice, options.substrings, workspace / "substrings.json")
        progress("substrings", total, total)
    _again(scratch, choice)
    if not len(choice.kept):
        raise UserError("no document is left: ask for less cleaning, or name other evaluation sets")
    return choice


def _again(scratch: Scratch, choice: Choice) -> None:
    """Drop documents that became duplicates by cutting; the first stays."""
    first = {scratch.digests[int(i)]: int(i) for i in choice.kept if int(i) not in choice.cuts}
    for document in sorted(choice.cuts):
        digest = hashlib.sha256(choice.text(scratch, document)).digest()
        choice.digests[document] = digest
        like = first.setdefault(digest, document)
        if like != document:
            choice.drop(document, EXACT)
            choice.like[document] = like


def _exact(scratch: Scratch, choice: Choice) -> None:
    first: dict[bytes, int] = {}
    for document, digest in enumerate(scratch.digests):
        like = first.setdefault(digest, document)
        if like != document:
            choice.state[document], choice.like[document] = EXACT, like


def _near(scratch: Scratch, choice: Choice, threshold: float, path: Path) -> None:
    kept = choice.kept
    if path.exists():
        like = open_arrays(path, MAGIC)[1]["like"]
    else:
        from maquette.corpus.text.near_duplicates import near_duplicates

        near = near_duplicates(
            scratch.signatures()[kept], lambda i: scratch.text(int(kept[i])), threshold
        )
        like = near.keep
        write_arrays(path, MAGIC, {"format": 1, "corpus": ""}, {"like": like})
    removed = like != np.arange(len(like))
    choice.state[kept[removed]] = NEAR
    choice.like[kept[removed]] = kept[like[removed]]


@dataclass(frozen=True)
class OverlapTask:
    """One part to scan for stretches of evaluation sets."""

    result: Path
    part: Path
    kept: npt.NDArray[np.bool_]
    evaluation: tuple[tuple[str, ...], str | None]
    """files of the evaluation set, and the field of their records"""


def scan_part(task: OverlapTask) -> None:
    """Write for each document with a hit: how many, and the byte ranges to cut (null: drop it)."""
    if task.result.exists():
        return
    overlap = _evaluation_sets(*task.evaluation)
    scratch = Scratch([task.part])
    overlaps: dict[str, Any] = {}
    for document in np.flatnonzero(task.kept).tolist():
        text = scratch.text(document)
        if hits := overlap.scan(text):
            overlaps[str(document)] = [len(hits), overlap.cuts(text, hits)]
    write_json(task.result, overlaps)


def _evaluation_sets(paths: Sequence[str], field: str | None) -> Any:
    from maquette.corpus.tasks import read_tasks
    from maquette.corpus.text.overlap import Overlap

    return Overlap([text for texts in read_tasks(paths, field).values() for text in texts])


def _overlap(
    scratch: Scratch,
    choice: Choice,
    evaluation: tuple[tuple[str, ...], str | None],
    folder: Path,
    pool: Pool,
    progress: Progress,
) -> None:
    folder.mkdir(exist_ok=True)
    bounds = list(zip(scratch.firsts[:-1].tolist(), scratch.firsts[1:].tolist(), strict=True))
    tasks = [
        OverlapTask(folder / f"{n:05d}.json", part, choice.state[a:b] == KEPT, evaluation)
        for n, (part, (a, b)) in enumerate(zip(scratch.parts, bounds, strict=True))
    ]
    done, total = 0.0, float(scratch.sizes.sum())
    for n, _ in enumerate(pool.each(scan_part, tasks, total)):
        first, last = bounds[n]
        for local, (hits, cuts) in read_json(tasks[n].result).items():
            document = first + int(local)
            choice.hits[document] = hits
            if cuts is None:
                choice.drop(document, OVERLAP)
            else:
                _cut(scratch, choice, document, [(a, b) for a, b in cuts], OVERLAP)
        done += float(scratch.sizes[first:last].sum())
        progress("overlap", done, total)


class _Texts(Sequence[bytes]):
    """The kept documents' texts, one at a time."""

    def __init__(self, scratch: Scratch, choice: Choice) -> None:
        self._scratch, self._choice, self._kept = scratch, choice, choice.kept

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._choice.text(self._scratch, int(self._kept[index]))


def _substrings(scratch: Scratch, choice: Choice, length: int, path: Path) -> None:
    kept = choice.kept
    if path.exists():
        repeats = read_json(path)
    else:
        from maquette.corpus.text.substring import repeated_ranges

        ranges = repeated_ranges(_Texts(scratch, choice), length)
        repeats = {str(i): r for i, r in enumerate(ranges) if r}
        write_atomic(path, json.dumps(repeats))
    for i, repeated in repeats.items():
        document = int(kept[int(i)])
        before = choice.cuts.get(document, [])
        both = before + [_original(before, a, b) for a, b in repeated]
        _cut(scratch, choice, document, _joined(both), EMPTIED)


def _cut(scratch: Scratch, choice: Choice, document: int, cuts: Ranges, reason: int) -> None:
    """Cut ranges out of a document, and drop it where nothing is left."""
    if without(scratch.text(document), cuts).decode().strip():
        choice.cuts[document] = cuts
    else:
        choice.drop(document, reason)


def _original(cuts: Ranges, start: int, end: int) -> tuple[int, int]:
    """The range of the original text that became start .. end after `cuts`."""
    for a, b in cuts:
        if a <= start:
            start += b - a
        if a < end:
            end += b - a
    return start, end


def _joined(ranges: Ranges) -> Ranges:
    """The union of ranges, in order and apart."""
    joined: Ranges = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
