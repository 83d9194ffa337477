"""Deduplication: near-duplicates beside datasketch, rensa and datatrove, substrings beside a suffix array.

    python benchmarks/corpus.py                  100 MB of this machine's documentation
    python benchmarks/corpus.py --mb 10 --peer-mb 5 --rounds 1

Every arm runs in a process of its own, forked when its turn comes, which measures its CPU seconds and
the memory it comes to need; the arms take turns, and the table has the median. Near-duplicates: one
text with planted copies for all arms; datatrove with its own 14 bands of 8 rows, rensa and datasketch
with enough bands for the same recall. The precision is of all that is removed: a text is rightly
removed if one in its group has a Jaccard similarity of 0.8, by our grams or by the peers'. Substrings:
both arms must cut the same bytes. The limit is the pass that only hashes the grams, in the same run.

The peers are used where they can be imported. datatrove wants another xxhash than the rest:
`pip install --target PEERS datatrove spacy "xxhash<4" orjson`, then `MAQUETTE_PEERS=PEERS`.
The program of Lee et al. 2022 (Rust, not on PyPI) was not run: 0.53 MB per CPU-second on 4 GB and 0.10
on 350 GB follow from its authors' figures, on their machine. What runs here is its method.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from resource import RUSAGE_SELF, getrusage
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import numpy.typing as npt

from maquette.base.files import home, write_atomic
from maquette.base.jit import jit
from maquette.base.machine import processor, read_speed, resident
from maquette.corpus.document import Document
from maquette.corpus.grams import BASE, as_bytes, roll
from maquette.corpus.local import Local
from maquette.corpus.near import WIDTH, near_duplicates, signatures
from maquette.corpus.planted import Planted, Rate, plant, similarity
from maquette.corpus.substring import cut, repeated_ranges

THRESHOLD, RECALL, LENGTH = 0.8, 0.924, 100
WORDS, PERMUTATIONS, ROWS = 5, 126, 7  # of rensa, datasketch: 18 bands of 7 rows, 0.985 at 0.8
WORD = re.compile(r"\w+")
Array = npt.NDArray[np.int64]
Texts = Sequence[bytes]


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
    ends = np.cumsum(json.loads(sizes.read_text())).tolist()
    data = text.read_bytes()
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


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


def shingles(text: bytes) -> list[str]:
    """Word 5-grams, as the peers have them."""
    words = WORD.findall(text.decode().lower())
    return [" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))]


def datasketch(texts: Texts) -> Array:
    """MinHash and MinHashLSH: a text with a candidate before it is that one's duplicate."""
    from datasketch import MinHash, MinHashLSH

    bands = (PERMUTATIONS // ROWS, ROWS)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands)
    keep = np.arange(len(texts))
    for i, text in enumerate(texts):
        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([s.encode() for s in shingles(text)])
        if like := index.query(signature):
            keep[i] = keep[min(like)]
        index.insert(i, signature)
    return keep


def rensa(texts: Texts) -> Array:
    """RMinHash and RMinHashLSH, used in the same way."""
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(THRESHOLD, PERMUTATIONS, PERMUTATIONS // ROWS)
    keep = np.arange(len(texts))
    for i, text in enumerate(texts):
        signature = RMinHash(PERMUTATIONS, 42)
        signature.update(shingles(text))
        if like := index.query(signature):
            keep[i] = keep[min(like)]
        index.insert(i, signature)
    return keep


def datatrove(texts: Texts) -> Array:
    """The stages signatures, buckets and cluster, with their defaults, in one process."""
    sys.path[:0] = PEERS
    from datatrove.data import Document as Item
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from loguru import logger

    logger.remove()
    config = MinhashConfig()
    keep = np.arange(len(texts))
    with tempfile.TemporaryDirectory() as top:
        a, b, c = (f"{top}/{name}" for name in ("signatures", "buckets", "clusters"))
        items = (Item(text=t.decode(), id=str(i)) for i, t in enumerate(texts))
        MinhashDedupSignature(a, config).run(items)
        for rank in range(config.num_buckets):
            MinhashDedupBuckets(a, b, config=config).run(None, rank, config.num_buckets)
        MinhashDedupCluster(b, c, config, save_cluster_id=True).run(None, 0, 1)
        rows = np.fromfile(f"{c}/000000.clusters", np.uint32).reshape(-1, 2)
    first: dict[int, int] = {}
    for document, cluster in rows[np.argsort(rows[:, 0])].tolist():
        keep[document] = first.setdefault(cluster, document)
    return keep


def cut_ours(texts: Texts) -> Array:
    """The ranges that repeat: document, start, end."""
    ranges = repeated_ranges(texts, LENGTH)
    return np.array([(i, *pair) for i, some in enumerate(ranges) for pair in some]).ravel()


def cut_suffix_array(texts: Texts) -> Array:
    """The same by a suffix array and common prefixes (Lee et al. 2022), the first kept."""
    from pydivsufsort import divsufsort

    sizes = np.array([len(t) for t in texts])
    starts = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]])
    joined = np.frombuffer(b"\xff".join(texts), np.uint8).copy()
    repeated = _repeated(joined, divsufsort(joined), starts + sizes, LENGTH)
    rows = []
    for i, (text, start) in enumerate(zip(texts, starts.tolist(), strict=True)):
        edges = np.diff(np.concatenate([[0], repeated[start : start + len(text)], [0]]))
        for a, b in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
            while a < b and text[a] & 0xC0 == 0x80:
                a += 1
            while a < b < len(text) and text[b] & 0xC0 == 0x80:
                b -= 1
            if a < b:
                rows.append((i, a, b))
    return np.array(rows).ravel()


@jit
def _repeated(
    joined: npt.NDArray[np.uint8], order: npt.NDArray[np.int32], ends: Array, length: int
) -> npt.NDArray[np.int8]:
    """Which bytes are in a window that stands before: Kasai et al. 2001, then groups of suffixes."""
    n = len(joined)
    rank = np.empty(n, np.int32)
    for i in range(n):
        rank[order[i]] = i
    common = np.empty(n, np.int32)  # with the suffix before, in the order
    k = 0
    for i in range(n):
        if rank[i] == 0:
            k = 0
        else:
            j = order[rank[i] - 1]
            while i + k < n and j + k < n and joined[i + k] == joined[j + k]:
                k += 1
        common[rank[i]] = k
        k = max(0, k - 1)
    first = rank  # of the group of each suffix; the ranks are not needed any more
    begin = 0
    for i in range(1, n + 1):
        if i == n or common[i] < length:
            least = order[begin:i].min()
            for j in range(begin, i):
                first[order[j]] = least
            begin = i
    repeated = np.zeros(n, np.int8)
    done = 0
    start = 0
    for end in ends:
        for i in range(start, end - length + 1):
            if i - first[i] >= length:
                for j in range(max(i, done), i + length):
                    repeated[j] = 1
                done = i + length
        start = end + 1
    return repeated


PEERS = [p for p in os.environ.get("MAQUETTE_PEERS", "").split(os.pathsep) if p]
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


def word_similarity(a: bytes, b: bytes) -> float:
    """The Jaccard similarity of the peers' shingles."""
    x, y = set(shingles(a)), set(shingles(b))
    return len(x & y) / len(x | y)


def head(title: str, columns: str) -> None:
    print(f"\n{title}\n{'arm':<20} {columns}\n" + "-" * (21 + len(columns)))


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

    said: dict[str, Any] = {"bandwidth": bandwidth}
    stages = rounds(STAGES, texts, arguments.rounds)
    limit = stages["gram hashes alone"].speed(size)
    head(f"stages, {size / 1e6:.1f} MB", "MB/CPU-s of the limit     MB/s  memory MB")
    for name, row in stages.items():
        said[name] = row.speed(size)
        print(f"{name:<20} {row.speed(size):>8.1f} {row.speed(size) / limit:>12.1%} "
              f"{row.wall(size):>8.1f} {row.memory:>10.0f}")  # fmt: skip
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
        said[f"near: {name}"] = {"speed": speed, "recall": found.value,
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
    head(f"substrings of {LENGTH} bytes, {size_kept / 1e6:.1f} MB without near-duplicates",
         "MB/CPU-s of the limit     MB/s  memory MB")  # fmt: skip
    for name, row in cuts.items():
        said[f"substrings: {name}"] = row.speed(size_kept)
        print(f"{name:<20} {row.speed(size_kept):>8.1f} {row.speed(size_kept) / limit:>12.1%} "
              f"{row.wall(size_kept):>8.1f} {row.memory:>10.0f}")  # fmt: skip
    removed, again = _second_pass(kept, mine)
    print(f"cut {removed / size_kept:.1%} of the bytes, the same in both: {'yes' if same else 'NO'}; "
          f"a second pass finds {again / max(1, removed):.4%} of that")  # fmt: skip
    print(json.dumps(said))
    if not same or said["near: Maquette"]["recall"] < RECALL:
        raise SystemExit(f"the recall is below {RECALL}, or the cuts are not the same")


def _second_pass(texts: list[bytes], cuts: Array) -> tuple[int, int]:
    """Bytes cut, and bytes that a second pass would cut of the rest."""
    ranges: list[list[tuple[int, int]]] = [[] for _ in texts]
    for i, start, end in cuts.reshape(-1, 3).tolist():
        ranges[i].append((start, end))
    left = [cut(text, some) for text, some in zip(texts, ranges, strict=True)]
    again = repeated_ranges(left, LENGTH)
    return sum(b - a for s in ranges for a, b in s), sum(b - a for s in again for a, b in s)


if __name__ == "__main__":
    main()
