"""What benchmarks/corpus.py runs beside Maquette: peers where they can be imported, Lee et al.'s method.

datatrove wants another xxhash than the rest of this environment:

    pip install --target PEERS datatrove spacy "xxhash<4"
    MAQUETTE_PEERS=PEERS python benchmarks/corpus.py

The program of Lee et al. 2022 (Rust, not on PyPI) was not run: 0.53 MB per CPU-second on 4 GB and 0.10
on 350 GB follow from its authors' figures, on their machine. What runs here is its method.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.jit import jit
from maquette.corpus.text.substring import whole_characters

THRESHOLD, LENGTH = 0.8, 100
WORDS, PERMUTATIONS, ROWS = 5, 126, 7  # of rensa, datasketch: 18 bands of 7 rows, 0.985 at 0.8
WORD = re.compile(r"\w+")
PEERS = [p for p in os.environ.get("MAQUETTE_PEERS", "").split(os.pathsep) if p]
Array = npt.NDArray[np.int64]
Texts = Sequence[bytes]


def shingles(text: bytes) -> list[str]:
    """Word 5-grams, as the peers have them."""
    words = WORD.findall(text.decode().lower())
    return [" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))]


def word_similarity(a: bytes, b: bytes) -> float:
    """The Jaccard similarity of the peers' shingles."""
    x, y = set(shingles(a)), set(shingles(b))
    return len(x & y) / len(x | y)


def looked_up(texts: Texts, index: Any, sign: Callable[[bytes], Any]) -> Array:
    """A text with candidates before it in the index is a duplicate of the first of them."""
    keep = np.arange(len(texts))
    for i, text in enumerate(texts):
        signature = sign(text)
        if like := index.query(signature):
            keep[i] = keep[min(like)]
        index.insert(i, signature)
    return keep


def datasketch(texts: Texts) -> Array:
    """MinHash and MinHashLSH."""
    from datasketch import MinHash, MinHashLSH

    def sign(text: bytes) -> Any:
        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([s.encode() for s in shingles(text)])
        return signature

    bands = (PERMUTATIONS // ROWS, ROWS)
    return looked_up(texts, MinHashLSH(num_perm=PERMUTATIONS, params=bands), sign)


def rensa(texts: Texts) -> Array:
    """RMinHash and RMinHashLSH."""
    from rensa import RMinHash, RMinHashLSH

    def sign(text: bytes) -> Any:
        signature = RMinHash(PERMUTATIONS, 42)
        signature.update(shingles(text))
        return signature

    return looked_up(texts, RMinHashLSH(THRESHOLD, PERMUTATIONS, PERMUTATIONS // ROWS), sign)


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


def cut_suffix_array(texts: Texts) -> Array:
    """The same by a suffix array and common prefixes (Lee et al. 2022), the first kept."""
    from pydivsufsort import divsufsort, kasai

    sizes = np.array([len(t) for t in texts])
    starts = np.concatenate([[0], np.cumsum(sizes + 1)[:-1]])
    joined = np.frombuffer(b"\xff".join(texts), np.uint8).copy()
    order = divsufsort(joined)
    repeated = _repeated(order, kasai(joined, order), starts + sizes, LENGTH)
    rows = []
    for i, (text, start) in enumerate(zip(texts, starts.tolist(), strict=True)):
        edges = np.diff(np.concatenate([[0], repeated[start : start + len(text)], [0]]))
        places = np.flatnonzero(edges).reshape(-1, 2)
        rows += [(i, *pair) for pair in whole_characters(text, places)]
    return np.array(rows).ravel()


@jit
def _repeated(
    order: npt.NDArray[np.int32], common: npt.NDArray[np.int32], ends: Array, length: int
) -> npt.NDArray[np.int8]:
    """Which bytes are in a window that stands before: groups of suffixes with a common prefix."""
    first = np.empty(len(order), np.int32)  # of the group of each suffix
    begin = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or common[i - 1] < length:
            first[order[begin:i]] = order[begin:i].min()
            begin = i
    repeated = np.zeros(len(order), np.int8)
    start = done = 0
    for end in ends:
        for i in range(start, end - length + 1):
            if i - first[i] >= length:
                repeated[max(i, done) : i + length] = 1
                done = i + length
        start = end + 1
    return repeated
