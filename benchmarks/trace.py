"""The index and the trace beside infini-gram (PyPI) on the same tokens.

    python benchmarks/trace.py                  the default corpus of this machine, about 100 MB
    python benchmarks/trace.py --mb 8           a corpus of 8 MB, made for this
    python benchmarks/trace.py --corpus DIR

Building: each in a process of its own, from the corpus' tokens to the finished files, without what
importing and compiling take. Tracing: texts of 450 tokens, half held out, half drawn like a small
model's (runs of training text, joined where two tokens agree); the arms take turns on each text.
`attribute` is all maximal spans with exact counts and where they are: in the first 10 documents for
Maquette; infini-gram leaves out spans that occur more than 10 times. `trace` is what a user gets of
Maquette: from a string, the rarest spans grown to the character, with sources and contexts. CPU is
of all threads, by the process' clock; medians are over texts and rounds.

Limits, measured in this run on as many bytes as suffixes and tokens take. Building: each suffix is
written to its place once, in random order. Finding: one random read; tracing: one a token, each
waiting for the one before. Size: the suffixes are a permutation, log2 n! bits.
"""

import argparse
import itertools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maquette.audit.index import FOLDER, Index, maximal_matches, open_index
from maquette.audit.suffix_array import sort_suffixes
from maquette.audit.trace import trace
from maquette.base.jit import jit
from maquette.base.machine import processor
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.local import Local
from maquette.corpus.text.named import open_corpus
from maquette.corpus.text.store import Corpus

TOKENS, TEXTS, ROUNDS = 450, 60, 3
GRAMS = 400
DOCUMENTS = 10
VOCABULARY = 4096
END_OF_DOCUMENT = 65535  # what infini-gram puts before each document


def main() -> None:
    """Build, compare, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="default", help="a folder or a built-in corpus")
    parser.add_argument("--mb", type=float, help="build a corpus of so many megabytes instead")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        _build_here(arguments.build)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.mb:
            source = Local(limit=int(arguments.mb * 1e6 / 4))  # of each of four components
            corpus = build(
                folder / "made", source, BuildOptions(vocabulary=VOCABULARY, or_fewer=True)
            )
        else:
            corpus = open_corpus(arguments.corpus)
        _compare(corpus, folder)


def _compare(corpus: Corpus, folder: Path) -> None:
    split = corpus.documents["split"].to_numpy(zero_copy_only=False)
    size = int(corpus.documents["bytes"].to_numpy()[split == "train"].sum())
    ours = folder / "ours"
    ours.mkdir()
    for file in corpus.path.iterdir():
        if file.name != FOLDER:
            (ours / file.name).symlink_to(file)
    rows = {"Maquette": _measured([sys.executable, __file__, "--build", str(ours)])}
    index = open_index(Corpus(ours), build=False)
    theirs = folder / "theirs"
    theirs.mkdir()
    engine = None
    try:
        rows |= _build_theirs(index, theirs)
        engine = _engine(corpus, theirs)
    except (ImportError, RuntimeError) as error:
        print(f"infini-gram is left out: {error}")
    used = len(corpus.train) * (4 + np.dtype(corpus.manifest["dtype"]).itemsize)
    read, write = _random_access(used)
    print(f"{processor()}; {size / 1e6:.1f} MB of training text, {len(corpus.train):,} tokens; a random "
          f"read takes {1e9 * read:.0f} ns, a random write {1e9 * write:.1f} ns\n")  # fmt: skip
    limit = len(corpus.train) * write
    least = math.lgamma(len(corpus.train) + 1) / math.log(2) / 8
    print(f"{'building':<24} {'MB/cpu-s':>9} {'of limit':>9} {'MB/s':>7} {'peak MB':>8} "
          f"{'index bytes/byte':>17} {'of limit':>9}")  # fmt: skip
    for name, row in rows.items():
        path, pattern = (ours / FOLDER, "*.bin") if name == "Maquette" else (theirs, "table.*")
        row["bytes"] = sum(file.stat().st_size for file in path.glob(pattern))
        print(f"{name:<24} {size / 1e6 / row['cpu']:>9.1f} {100 * limit / row['cpu']:>7.0f} % "
              f"{size / 1e6 / row['wall']:>7.1f} {row['peak'] / 1e6:>8.0f} "
              f"{row['bytes'] / size:>17.3f} {least / row['bytes']:>8.2f} x")  # fmt: skip
    agree = _compare_answers(index, engine)
    timed = _time(index, engine, read)
    print(json.dumps({"bytes": size, "tokens": len(corpus.train), "random_read": read,
                      "random_write": write, "build": rows, "agree": agree,
                      "milliseconds": timed}))  # fmt: skip
    if not all(agree.values()):
        raise SystemExit("the answers differ")


# Building


def _build_here(folder: Path) -> None:
    """In a process of its own: build, and print the seconds it took."""
    sort_suffixes(np.array([1, 0, 1], np.uint16), 2)  # compiles
    corpus = Corpus(folder)
    start = time.process_time(), time.perf_counter()
    open_index(corpus)
    print(json.dumps([time.process_time() - start[0], time.perf_counter() - start[1]]))


def _measured(command: list[str], own_time: bool = True) -> dict[str, float]:
    """Seconds and peak memory of a process and those it starts."""
    wall = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        said, wrong = process.stdout.read().decode(), process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError((wrong or said).strip().splitlines()[-1])
    cpu, wall = used.ru_utime + used.ru_stime, time.perf_counter() - wall
    if own_time:
        cpu, wall = json.loads(said.splitlines()[-1])
    return {"cpu": cpu, "wall": wall, "peak": used.ru_maxrss * 1024.0}


def _build_theirs(index: Index, folder: Path) -> dict[str, dict[str, float]]:
    """infini-gram's indexing of the same tokens, with one process and with two."""
    import infini_gram.indexing  # noqa: F401

    corpus, ends = index.corpus, int(index.corpus.eos_token_id is not None)
    offsets, at = [], 0
    with (folder / "tokenized.0").open("wb") as file:
        for start, stop in itertools.pairwise(index.starts.tolist()):
            document = corpus.train.read(start, stop - start - ends)
            file.write(np.append(END_OF_DOCUMENT, document).astype("<u2").tobytes())
            offsets.append(at)
            at += 2 * (len(document) + 1)
    (folder / "offset.0").write_bytes(np.array(offsets, "<u8").tobytes())
    nothing = _measured([sys.executable, "-c", "import infini_gram.indexing"], own_time=False)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # its own demand is 1,048,576
    rows = {}
    for processes in (2, 1):
        (folder / "table.0").unlink(missing_ok=True)
        command = f"-m infini_gram.indexing --data_dir {folder} --save_dir {folder} --mem 8"
        command += f" --token_dtype u16 --cpus {processes} --ulimit {most}"
        row = _measured([sys.executable, *command.split()], own_time=False)
        for clock in ("cpu", "wall"):
            row[clock] -= nothing[clock]
        rows[f"infini-gram, {processes} process{'es' * (processes > 1)}"] = row
    return rows


def _engine(corpus: Corpus, folder: Path) -> Any:
    from infini_gram.engine import InfiniGramEngine

    end = corpus.eos_token_id if corpus.eos_token_id is not None else corpus.vocabulary
    return InfiniGramEngine(
        index_dir=str(folder), eos_token_id=end, precompute_unigram_logprobs=True
    )


# Answers


def _compare_answers(index: Index, engine: Any) -> dict[str, bool]:
    """Whether both count alike, and trace alike."""
    if engine is None:
        return {}
    draw = np.random.default_rng(1)
    grams = []
    for stream in (index.corpus.train, index.corpus.heldout) * (GRAMS // 2):
        length = int(draw.integers(1, 20))
        gram = stream.read(int(draw.integers(len(stream) - length)), length).tolist()
        if index.corpus.eos_token_id not in gram:
            grams.append(gram)
    same = sum(index.count(gram) == engine.count(input_ids=gram)["count"] for gram in grams)
    texts = _texts(index)
    traced = 0
    for text in texts:
        ours = {s[:3]: s[3] for s in _attribute(index, text) if s[2] <= DOCUMENTS}
        theirs = {s[:3]: s[3] for s in _attribute_theirs(engine, text)}
        # A document and its end are as long as theirs with the sign before it.
        places = all({2 * (at + 1) for _, at in ours[s]} <= theirs.get(s, set()) for s in ours)
        traced += ours.keys() == theirs.keys() and places
    print(f"\ncounts agree on {same} of {len(grams)} n-grams (n = 1 to 19); maximal spans of up to "
          f"{DOCUMENTS} occurrences, their counts and places on {traced} of {len(texts)} texts")  # fmt: skip
    return {"counts": same == len(grams), "spans": traced == len(texts)}


def _attribute(index: Index, text: list[int]) -> list[tuple[int, int, int, Any]]:
    lengths, counts = index.matches(text)
    spans = []
    for start in np.flatnonzero(maximal_matches(lengths)).tolist():
        stop = start + int(lengths[start])
        documents = index.earliest(text[start:stop], DOCUMENTS)
        spans.append((start, stop, int(counts[start]), documents))
    return spans


def _attribute_theirs(engine: Any, text: list[int]) -> list[tuple[int, int, int, Any]]:
    found = engine.attribute(
        input_ids=text, delim_ids=[], min_len=1, max_cnt=DOCUMENTS, enforce_bow=False
    )
    return [(s["l"], s["r"], s["count"], {d["ptr"] for d in s["docs"]}) for s in found["spans"]]


# Latency


def _time(index: Index, engine: Any, read: float) -> dict[str, dict[str, float]]:
    tokenizer = index.corpus.tokenizer
    texts = _texts(index)
    grams = [text[at : at + n] for text in texts for at, n in ((0, 3), (50, 8), (200, 20))]
    arms: dict[str, tuple[list[Any], float, list[Callable[[Any], object]]]] = {
        "find, 3 to 20 tokens": (grams, read, [index.count]),
        "attribute, 450 tokens": (texts, TOKENS * read, [lambda text: _attribute(index, text)]),
        "trace, 450 tokens": (
            [tokenizer.decode(text) for text in texts],
            TOKENS * read,
            [lambda text: trace(index, text)],
        ),
    }
    if engine is not None:
        arms["find, 3 to 20 tokens"][2].append(lambda gram: engine.find(input_ids=gram))
        arms["attribute, 450 tokens"][2].append(lambda text: _attribute_theirs(engine, text))
    print(f"\n{'milliseconds':<24} {'arm':<12} {'median CPU':>10} {'p99 CPU':>9} {'median wall':>12} "
          f"{'of limit':>9} {'slower by':>10}")  # fmt: skip
    table: dict[str, dict[str, float]] = {}
    for what, (inputs, limit, functions) in arms.items():
        spent: list[list[tuple[float, float]]] = [[] for _ in functions]
        for turn, one in itertools.product(range(ROUNDS + 1), inputs):
            for function, times in zip(functions, spent, strict=True):
                start = time.process_time(), time.perf_counter()
                function(one)
                used = time.process_time() - start[0], time.perf_counter() - start[1]
                if turn:
                    times.append((1e3 * used[0], 1e3 * used[1]))
        first = statistics.median(cpu for cpu, _ in spent[0])
        for name, times in zip(("Maquette", "infini-gram"), spent, strict=False):
            cpu = sorted(cpu for cpu, _ in times)
            row = {
                "median_cpu": statistics.median(cpu),
                "p99_cpu": cpu[int(0.99 * len(cpu))],
                "median_wall": statistics.median(wall for _, wall in times),
            }
            table[f"{what}: {name}"] = row
            print(f"{what:<24} {name:<12} {row['median_cpu']:>10.3f} {row['p99_cpu']:>9.3f} "
                  f"{row['median_wall']:>12.3f} {1e5 * limit / row['median_cpu']:>7.1f} % "
                  f"{row['median_cpu'] / first:>8.1f} x")  # fmt: skip
    print(f"({len(texts)} texts, {ROUNDS} rounds)\n")
    return table


def _texts(index: Index) -> list[list[int]]:
    """Held-out text, and text like a small model's, without ends of documents."""
    draw = np.random.default_rng(0)
    heldout, end = index.corpus.heldout, index.corpus.eos_token_id
    texts = []
    while len(texts) < TEXTS // 2:
        text = heldout.read(int(draw.integers(len(heldout) - 2 * TOKENS)), 2 * TOKENS)
        texts.append(text[text != end][:TOKENS].tolist())
    while len(texts) < TEXTS:
        text = []
        at = int(draw.integers(len(index.corpus.train)))
        while len(text) < TOKENS:
            length = min(1 + int(draw.geometric(1 / 6)), len(index.corpus.train) - at)
            text += [t for t in index.corpus.train.read(at, length).tolist() if t != end]
            places = index.find(text[-2:]) if len(text) > 1 else []
            at = int(draw.choice(places)) + 2 if len(places) else int(draw.integers(1000))
        texts.append(text[:TOKENS])
    return texts


def _random_access(size: int) -> tuple[float, float]:
    """Seconds of a read whose place the read before it says, and of a write, in that many bytes."""
    count = size // 4
    following = np.empty(count, np.uint32)
    cycle = np.random.default_rng(0).permutation(count).astype(np.uint32)
    following[cycle[:-1]], following[cycle[-1]] = cycle[1:], cycle[0]
    _follow(following, 10)
    _scatter(following[:10] % 10, following[:10])
    read = write = math.inf
    for _ in range(3):
        start = time.process_time()
        _follow(following, 2_000_000)
        read = min(read, (time.process_time() - start) / 2_000_000)
        start = time.process_time()
        _scatter(cycle, following)
        write = min(write, (time.process_time() - start) / count)
        following[cycle[:-1]], following[cycle[-1]] = cycle[1:], cycle[0]
    return read, write


@jit
def _follow(following: Any, steps: int) -> int:
    at = 0
    for _ in range(steps):
        at = following[at]
    return at


@jit
def _scatter(places: Any, out: Any) -> None:
    for i in range(len(places)):
        out[places[i]] = i


if __name__ == "__main__":
    main()
