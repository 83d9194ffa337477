"""The portrait beside a Bloom filter (rbloom) and binary_fuse8 (pyfusefilter), on one corpus.

    python benchmarks/portrait.py                       the text on this machine, 95 MB
    python benchmarks/portrait.py --corpus DIR --rounds 5

Every arm misses no verbatim run of 99 bytes. Arms take turns; speeds are the median round, per
second of processor time (user and system) on one thread, and by the clock. Building is all of it:
from the documents' bytes in memory to the finished filter (ours: to the file on disk), cutting,
hashing, and for ours the removal of duplicates. Bloom filters are told how many distinct grams come,
which costs them nothing here. A look-up begins with a text and asks for the gram at every offset,
half of it held out from the corpus and half random; beside it the speed when the hashes (ours) or
the cut grams (rbloom) are there already.

Limits, measured in this run: n log2(1/e) bits for the arm's own n distinct grams at its own measured
error e; for building, cutting and hashing the same samples and nothing else; for looking up, hashing
the gram at every offset and nothing else.
"""

import argparse
import importlib
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.audit.member import chains
from maquette.base.errors import need
from maquette.base.machine import processor
from maquette.corpus.progress import silent
from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.ngram_hashes import Hashes, as_bytes, gram_hashes, strided_hashes
from maquette.corpus.text.portrait import STRIDE, WIDTH, PortraitBuilder, training_texts

PIECE = 500  # bytes of the texts in which accidental chains are counted
LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ,.", np.uint8)
Hits = npt.NDArray[np.bool_]


@dataclass
class Arm:
    """One filter: how it is built, what it takes, how it is asked."""

    name: str
    width: int
    stride: int
    build: Callable[[], tuple[Any, int]]  # the filter and its bytes
    ask: Callable[[Any, bytes], Hits]
    prepared: Callable[[Any, bytes], Callable[[], object]]
    filter: Any = None
    bytes: int = 0
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def timed(self, what: str, function: Callable[[], Any]) -> Any:
        """Run, and note processor and clock seconds."""
        used, wall = time.process_time(), time.perf_counter()
        result = function()
        spent = (time.process_time() - used, time.perf_counter() - wall)
        self.seconds.setdefault(what, []).append(spent)
        return result

    def median(self, what: str, clock: bool = False) -> float:
        times = sorted(pair[clock] for pair in self.seconds[what])
        return times[len(times) // 2]


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="default", help="a folder or a built-in corpus")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    corpus = open_corpus(arguments.corpus)
    texts = list(training_texts(corpus, "portrait", silent))
    total = sum(map(len, texts))
    split = corpus.documents["split"].to_pylist()
    heldout = b"".join(corpus.text(i) for i, s in enumerate(split) if s != "train")[: 1 << 20]
    draw = np.random.default_rng(0)
    random = LETTERS[draw.integers(0, len(LETTERS), 1 << 22)].tobytes()
    queries = heldout + random[: 1 << 20]
    with tempfile.TemporaryDirectory() as folder:
        arms = [
            _ours(texts, corpus.hash, Path(folder)),
            _bloom(texts, 50, 50, 0.01),
            _bloom(texts, 50, 50, 0.001),
            _bloom(texts, WIDTH, STRIDE, 0.01),
            *_fuse8(texts),
        ]
        hashing: dict[str, list[float]] = {"build": [], "ask": []}
        for turn in range(arguments.rounds + 1):
            for arm in arms:
                if not turn:  # compiles
                    arm.filter, arm.bytes = arm.build()
                    arm.ask(arm.filter, queries[:10_000])
                    continue
                arm.filter, arm.bytes = arm.timed("build", arm.build)
                arm.timed("ask", lambda arm=arm: arm.ask(arm.filter, queries))
                arm.timed("prepared", arm.prepared(arm.filter, queries))
            for what, work in (("build", texts), ("ask", [queries])):
                start = time.process_time()
                for text in work:
                    if what == "build":
                        strided_hashes(as_bytes(text), WIDTH, STRIDE)
                    else:
                        gram_hashes(as_bytes(text), WIDTH)
                hashing[what].append(time.process_time() - start)
        limits = {
            "build": total / 1e6 / min(hashing["build"]),
            "ask": (len(queries) - WIDTH + 1) / 1e6 / min(hashing["ask"]),
        }
        _print(arms, texts, random, total, len(queries), limits)


def _print(
    arms: list[Arm],
    texts: list[bytes],
    random: bytes,
    total: int,
    asked: int,
    limits: dict[str, float],
) -> None:
    print(f"{processor()}, one thread; {len(texts):,} documents, {total:,} bytes of text")
    print(f"hashing alone: {limits['build']:,.0f} MB/s of text when building, "
          f"{limits['ask']:.0f} M grams/s when looking up\n")  # fmt: skip
    head = (f"{'arm':<22} {'bytes/byte':>10} {'of limit':>9} {'error':>8} {'found':>6} | "
            f"{'build MB/cpu-s':>14} {'of limit':>8} {'MB/s':>6} | {'look-ups M/cpu-s':>16} {'of limit':>8}"
            f" {'M/s':>6} {'prepared':>9} | {'1 hit':>7} {'2 hits':>7}")  # fmt: skip
    print(head + "\n" + "-" * len(head))
    table = {}
    exact = {(a.width, a.stride): _exact(texts, a.width, a.stride) for a in arms}
    samples = texts[:: max(1, len(texts) // 500)]
    for arm in arms:
        known = exact[arm.width, arm.stride]
        hits = arm.ask(arm.filter, random)
        grams = gram_hashes(as_bytes(random), arm.width)
        place = np.minimum(np.searchsorted(known, grams), len(known) - 1)
        error = float(hits[known[place] != grams].mean())
        found = all(arm.ask(arm.filter, text)[:: arm.stride].all() for text in samples)
        row = {
            "bytes_for_a_byte": arm.bytes / total,
            "limit": len(known) * math.log2(1 / error) / 8 / total,
            "gram_error": error,
            "all_found": found,
            "build_mb_per_cpu_second": total / 1e6 / arm.median("build"),
            "build_mb_per_second": total / 1e6 / arm.median("build", clock=True),
            "asked_millions_per_cpu_second": (asked - arm.width + 1) / 1e6 / arm.median("ask"),
            "asked_millions_per_second": (asked - arm.width + 1)
            / 1e6
            / arm.median("ask", clock=True),
            "prepared_millions_per_cpu_second": (asked - arm.width + 1)
            / 1e6
            / arm.median("prepared"),
            "accidents": {str(c): _accidents(hits, arm, c) for c in (1, 2)},
        }
        table[arm.name] = row
        print(f"{arm.name:<22} {row['bytes_for_a_byte']:>10.4f} "
              f"{row['bytes_for_a_byte'] / row['limit']:>7.2f} x {100 * error:>6.3f} % "
              f"{'all' if found else 'NO':>6} | {row['build_mb_per_cpu_second']:>14.0f} "
              f"{100 * row['build_mb_per_cpu_second'] / limits['build']:>6.1f} % "
              f"{row['build_mb_per_second']:>6.0f} | {row['asked_millions_per_cpu_second']:>16.1f} "
              f"{100 * row['asked_millions_per_cpu_second'] / limits['ask']:>6.1f} % "
              f"{row['asked_millions_per_second']:>6.1f} "
              f"{row['prepared_millions_per_cpu_second']:>9.1f} | "
              f"{100 * row['accidents']['1']:>5.1f} % {100 * row['accidents']['2']:>5.2f} %")  # fmt: skip
    print(
        f"\n1 hit, 2 hits: of random texts of {PIECE} bytes, how many show such a chain by accident"
    )
    print(json.dumps({"bytes": total, "hashing": limits, "arms": table}))
    if not all(row["all_found"] for row in table.values()):
        raise SystemExit("a gram that was put in is not found")


def _accidents(hits: Hits, arm: Arm, least: int) -> float:
    """The fraction of pieces of the random text with a chain of `least` hits."""
    offsets = PIECE - arm.width + 1
    pieces = [hits[at : at + offsets] for at in range(0, len(hits) - offsets + 1, PIECE)]
    return sum(bool((chains(p, arm.stride)[1] >= least).any()) for p in pieces) / len(pieces)


def _exact(texts: list[bytes], width: int, stride: int) -> Hashes:
    return np.unique(np.concatenate([strided_hashes(as_bytes(t), width, stride) for t in texts]))


def _ours(texts: list[bytes], corpus: str, folder: Path) -> Arm:
    def build() -> tuple[Any, int]:
        builder = PortraitBuilder(folder / "scratch")
        for text in texts:
            builder.add(text)
        portrait = builder.finish(folder / "portrait.bin", corpus)
        return portrait, portrait.size

    def prepared(portrait: Any, text: bytes) -> Callable[[], object]:
        hashes = gram_hashes(as_bytes(text), WIDTH)
        return lambda: portrait.fuse.contains(hashes)

    return Arm("Maquette, 33/67 7 bits", WIDTH, STRIDE, build,
               lambda portrait, text: portrait.hits(as_bytes(text)), prepared)  # fmt: skip


def _bloom(texts: list[bytes], width: int, stride: int, error: float) -> Arm:
    rbloom = need("rbloom", "dev")
    distinct = len(_exact(texts, width, stride))

    def cut(text: bytes, step: int) -> list[bytes]:
        return [text[i : i + width] for i in range(0, len(text) - width + 1, step)]

    def build() -> tuple[Any, int]:
        bloom = rbloom.Bloom(distinct, error)
        for text in texts:
            bloom.update(cut(text, stride))
        return bloom, bloom.size_in_bits // 8

    def ask(bloom: Any, text: bytes) -> Hits:
        return np.fromiter(map(bloom.__contains__, cut(text, 1)), np.bool_)

    def prepared(bloom: Any, text: bytes) -> Callable[[], object]:
        grams = cut(text, 1)
        return lambda: list(map(bloom.__contains__, grams))

    name = f"rbloom, {width}/{stride} {100 * error:g} %"
    return Arm(name, width, stride, build, ask, prepared)


def _fuse8(texts: list[bytes]) -> list[Arm]:
    """binary_fuse8 of pyfusefilter's C library through its private binding, where it is installed.

    Its public face hashes Python objects one by one and fails with xxhash 4.
    """
    try:
        binding: Any = importlib.import_module("pyfusefilter._xorfilter")
    except ImportError as error:
        print(f"binary_fuse8 is left out: {error}")
        return []
    ffi, lib = binding.ffi, binding.lib

    def build() -> tuple[Any, int]:
        keys = _exact(texts, WIDTH, STRIDE)
        fuse = ffi.gc(ffi.new("binary_fuse8_t *"), lib.binary_fuse8_free)
        assert lib.binary_fuse8_allocate(len(keys), fuse)
        assert lib.binary_fuse8_populate(ffi.from_buffer("uint64_t[]", keys), len(keys), fuse)
        return fuse, lib.binary_fuse8_size_in_bytes(fuse)

    def contains(fuse: Any, hashes: list[int]) -> list[bool]:
        return [lib.binary_fuse8_contain(h, fuse) for h in hashes]

    def ask(fuse: Any, text: bytes) -> Hits:
        return np.array(contains(fuse, gram_hashes(as_bytes(text), WIDTH).tolist()), np.bool_)

    def prepared(fuse: Any, text: bytes) -> Callable[[], object]:
        hashes = gram_hashes(as_bytes(text), WIDTH).tolist()
        return lambda: contains(fuse, hashes)

    return [Arm("binary_fuse8, 33/67", WIDTH, STRIDE, build, ask, prepared)]


if __name__ == "__main__":
    main()
