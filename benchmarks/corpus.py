"""Deduplication: near-duplicates beside datasketch, rensa and datatrove, substrings beside a suffix array.

    python benchmarks/corpus.py                  100 MB of this machine's documentation
    python benchmarks/corpus.py --mb 10 --peer-mb 5 --rounds 1

Every arm runs in a process of its own, forked when its turn comes, which measures its CPU seconds and
the memory it comes to need; the arms take turns, and the table has the median. Near-duplicates: one
text with planted copies for all arms; datatrove with its own 14 bands of 8 rows, rensa and datasketch
with enough bands for the same recall. The precision is of all that is removed: a text is rightly
removed if one in its group has a Jaccard similarity of 0.8, by our grams or by the peers'. Substrings:
both arms must cut the same bytes. The limit is the pass that only hashes the grams, in the same run.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from resource import RUSAGE_SELF, getrusage
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
from corpus_peers import (
    LENGTH,
    PEERS,
    THRESHOLD,
    Array,
    Texts,
    cut_suffix_array,
    datasketch,
    datatrove,
    rensa,
    word_similarity,
)

from maquette.base.files import home, write_atomic
from maquette.base.machine import processor, read_speed, resident
from maquette.corpus.document import Document
from maquette.corpus.text.local import Local
from maquette.corpus.text.near_duplicates import WIDTH, near_duplicates, signatures
from maquette.corpus.text.ngram_hashes import BASE, as_bytes, roll
from maquette.corpus.text.planted_duplicates import Planted, Rate, plant, similarity
from maquette.corpus.text.scratch import without
from maquette.corpus.text.substring import repeated_ranges

RECALL = 0.924


def documents(megabytes: float) -> list[bytes]:
    """This machine's documentation and Python sources, kept for the next run."""
    folder = home() / "benchmarks"
    text, sizes = folder / f"text-{megabytes:g}.bin", folder / f"text-{megabytes:g}.json"
    if not sizes.exists():
        limit, before, found = int(megabytes * 1e6 / 4), -1, list[bytes]()
        while before < (size := sum(map(len, found))) < megabytes * 1e6 or before < 0:
            before = size
            found = [d.text.encode() for d in Local(limit=limit) if isinstance(d, Document)]
            limit *= 2
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(text, b"".join(found))
        write_atomic(sizes, json.dumps([len(d) for d in found]))
    ends = np.cumsum(json.loads(sizes.read_text(encoding="utf-8"))).tolist()
    data = text.read_bytes()
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def return_freed_memory() -> None:
    """So that what an arm allocates is seen: what was free in the heap would not be."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@dataclass
class Turn:
    """What one run of an arm took, and what it found."""

    cpu: float
    wall: float
    memory: int
    """bytes, beyond what the process held at its start"""
    result: Array


def turn(work: Callable[[Texts], Array], texts: Texts) -> Turn:
    """Run an arm in a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            work([*texts[:20], *texts[:20]])  # import, compile
            return_freed_memory()
            held, cpu, wall = resident(), time.process_time(), time.perf_counter()
            result = work(texts)
            most = getrusage(RUSAGE_SELF).ru_maxrss * 1024
            spent = time.process_time() - cpu, time.perf_counter() - wall, max(0, most - held)
            with os.fdopen(write, "wb") as file:
                file.write(
                    np.array(spent, np.float64).tobytes() + result.astype(np.int64).tobytes()
                )
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        said = file.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("an arm failed: see above")
    cpu, wall, memory = np.frombuffer(said[:24]).tolist()
    return Turn(cpu, wall, int(memory), np.frombuffer(said[24:], np.int64))


def hash_grams(texts: Texts) -> Array:
    """The limit: every gram hashed, nothing kept."""
    out = np.empty(max(map(len, texts)), np.uint64)
    for text in texts:
        roll(as_bytes(text), WIDTH, BASE, out[: max(0, len(text) - WIDTH + 1)])
    return np.empty(0, np.int64)


def sign(texts: Texts) -> Array:
    """The signatures alone."""
    return signatures(texts)[:, 0].astype(np.int64)


def ours(texts: Texts) -> Array:
    """Signatures, candidates, verification."""
    return near_duplicates(signatures(texts), texts.__getitem__, THRESHOLD).keep


def cut_ours(texts: Texts) -> Array:
    """The ranges that repeat: document, start, end."""
    ranges = repeated_ranges(texts, LENGTH)
    return np.array([(i, *pair) for i, some in enumerate(ranges) for pair in some]).ravel()


NEAR: dict[str, Callable[[Texts], Array]] = {
    "Maquette": ours,
    "rensa": rensa,
    "datasketch": datasketch,
    "datatrove": datatrove,
}
STAGES: dict[str, Callable[[Texts], Array]] = {  # of a build, on the whole text
    "gram hashes alone": hash_grams,
    "signatures": sign,
    "near-duplicates": ours,
}
SUBSTRINGS = {"Maquette": cut_ours, "suffix array": cut_suffix_array}


@dataclass
class Row:
    """The turns of one arm."""

    turns: list[Turn] = field(default_factory=list)

    def speed(self, size: int) -> float:
        """MB per CPU-second."""
        return size / 1e6 / statistics.median(t.cpu for t in self.turns)

    def wall(self, size: int) -> float:
        return size / 1e6 / statistics.median(t.wall for t in self.turns)

    @property
    def memory(self) -> float:
        return max(t.memory for t in self.turns) / 1e6


def rounds(arms: dict[str, Callable[[Texts], Array]], texts: Texts, count: int) -> dict[str, Row]:
    """The arms in turn, each result the same in every round."""
    rows = {name: Row() for name in arms}
    for _ in range(count):
        for name, work in arms.items():
            rows[name].turns.append(turn(work, texts))
            assert np.array_equal(rows[name].turns[0].result, rows[name].turns[-1].result), name
            print(f"  {name}: {rows[name].turns[-1].cpu:.2f} CPU-s", flush=True)
    return rows


def recall(planted: Planted, keep: Array) -> Rate:
    """Of the planted near-duplicates."""
    pairs = [(c.original, c.copy) for c in planted.copies if c.kind == "near"]
    return Rate(sum(bool(keep[i] == keep[j]) for i, j in pairs), len(pairs))


def precision(texts: Texts, keep: Array, count: int = 300) -> Rate:
    """Of what is removed: whether a text of its group is as similar as is asked, in either sense."""
    removed = np.flatnonzero(keep != np.arange(len(keep))).tolist()
    removed = random.Random(0).sample(removed, min(count, len(removed)))
    right = 0
    for i in removed:
        group = [j for j in np.flatnonzero(keep == keep[i]).tolist() if j != i]
        right += any(
            similarity(texts[i], texts[j]) >= THRESHOLD or word_similarity(texts[i], texts[j]) >= THRESHOLD
            for j in group
        )  # fmt: skip
    return Rate(right, len(removed))


def head(title: str, columns: str) -> None:
    print(f"\n{title}\n{'arm':<20} {columns}\n" + "-" * (21 + len(columns)))


def table(title: str, rows: dict[str, Row], size: int, limit: float) -> dict[str, float]:
    """Print the speed of each arm; returns it in MB per CPU-second."""
    head(title, "MB/CPU-s of the limit     MB/s  memory MB")
    for name, row in rows.items():
        speed = row.speed(size)
        print(f"{name:<20} {speed:>8.1f} {speed / limit:>12.1%} {row.wall(size):>8.1f} "
              f"{row.memory:>10.0f}")  # fmt: skip
    return {name: row.speed(size) for name, row in rows.items()}


def main() -> None:
    """Take turns, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, default=100, help="of text (default: 100)")
    parser.add_argument("--peer-mb", type=float, default=10, help="beside the peers (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each arm (default: 3)")
    parser.add_argument("--copies", type=int, default=400, help="planted at 0.8 (default: 400)")
    arguments = parser.parse_args()
    texts = documents(arguments.mb)
    size = sum(map(len, texts))
    some = texts[:: max(1, round(size / 1e6 / arguments.peer_mb))]
    planted = plant(
        some, exact=0, spaced=0, near=arguments.copies, decoys=arguments.copies // 4, stretches=0
    )
    mixed = planted.texts
    arms = dict(NEAR)
    sys.path[:0] = PEERS
    for name in ("rensa", "datasketch", "datatrove"):
        if importlib.util.find_spec(name) is None:
            print(f"{name} cannot be imported: left out")
            del arms[name]
    del sys.path[: len(PEERS)]
    bandwidth = read_speed("cpu")
    print(f"{processor()}\n{len(texts):,} documents, {size / 1e6:.1f} MB; beside the peers "
          f"{len(mixed):,} and {sum(map(len, mixed)) / 1e6:.1f} MB")  # fmt: skip

    said: dict[str, Any] = {"bandwidth": bandwidth, "near": {}}
    stages = rounds(STAGES, texts, arguments.rounds)
    limit = stages["gram hashes alone"].speed(size)
    said |= table(f"stages, {size / 1e6:.1f} MB", stages, size, limit)
    print(
        f"the limit reads {limit / bandwidth * 1e6:.2%} of the {bandwidth / 1e9:.1f} GB/s of memory"
    )

    size_mixed = sum(map(len, mixed))
    rows = rounds(arms, mixed, arguments.rounds)
    near = [c for c in planted.copies if c.kind == "near"]
    alike = np.mean([word_similarity(mixed[c.original], mixed[c.copy]) for c in near])
    head(
        f"near-duplicates: {len(near)} planted at J = {np.mean([c.similarity for c in near]):.3f} "
        f"(of word 5-grams: {alike:.3f})",
        "MB/CPU-s  slower by  memory MB  recall [95 %]           removed  precision",
    )
    fastest = rows["Maquette"].speed(size_mixed)
    for name, row in rows.items():
        keep, speed = row.turns[0].result, row.speed(size_mixed)
        found, right = recall(planted, keep), precision(mixed, keep)
        said["near"][name] = {"speed": speed, "recall": found.value,
                                 "precision": right.value, "memory": row.memory}  # fmt: skip
        low, high = found.interval
        print(f"{name:<20} {speed:>8.2f} {fastest / speed:>8.1f} x "
              f"{row.memory:>10.0f}  {found.value:.3f} [{low:.3f}, {high:.3f}] "
              f"{np.mean(keep != np.arange(len(keep))):>12.1%} {right.value:>10.3f}")  # fmt: skip

    kept = [texts[i] for i in np.unique(stages["near-duplicates"].turns[0].result).tolist()]
    size_kept = sum(map(len, kept))
    cuts = rounds(SUBSTRINGS, kept, arguments.rounds)
    mine = cuts["Maquette"].turns[0].result
    same = np.array_equal(mine, cuts["suffix array"].turns[0].result)
    title = f"substrings of {LENGTH} bytes, {size_kept / 1e6:.1f} MB without near-duplicates"
    said["substrings"] = table(title, cuts, size_kept, limit)
    removed, again = _second_pass(kept, mine)
    print(f"cut {removed / size_kept:.1%} of the bytes, the same in both: {'yes' if same else 'NO'}; "
          f"a second pass finds {again / max(1, removed):.4%} of that")  # fmt: skip
    print(json.dumps(said))
    if not same or said["near"]["Maquette"]["recall"] < RECALL:
        raise SystemExit(f"the recall is below {RECALL}, or the cuts are not the same")


def _second_pass(texts: list[bytes], cuts: Array) -> tuple[int, int]:
    """Bytes cut, and bytes that a second pass would cut of the rest."""
    ranges: list[list[tuple[int, int]]] = [[] for _ in texts]
    for i, start, end in cuts.reshape(-1, 3).tolist():
        ranges[i].append((start, end))
    left = [without(text, some) for text, some in zip(texts, ranges, strict=True)]
    again = repeated_ranges(left, LENGTH)
    return sum(b - a for s in ranges for a, b in s), sum(b - a for s in again for a, b in s)


if __name__ == "__main__":
    main()
