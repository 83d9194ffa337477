"""Index of the training stream: exact counts, positions and longest matches of any run of tokens.

A suffix array (Manber and Myers 1993) lists the starts of all suffixes of the stream in the order of
what follows them, so that all places of a run of tokens stand side by side and are found by binary
search. It is made by divsufsort (Mori 2006, by way of pydivsufsort), which sorts bytes: each token
in use becomes its rank in one, two or three bytes, most significant first, and of the sorted places
those that begin a token are kept.

Each document ends with the corpus' EOS token, which a query never matches, so that no match
crosses from one document into the next. The stream is cut at ends of documents into shards of at
most `shard_tokens` (a longer document is a shard by itself), each a file of the corpus' folder:

    index/suffixes-00000.bin    header: start and stop in the training stream, separated
        suffixes    uint32 (tokens,)           in order; counted from the shard's start
        buckets     int64 (vocabulary + 1,)    where the suffixes that begin with a token begin
        tokens      where the corpus' files do not hold the shard as one run with an EOS token after each
                    document: uint32, those tokens; a corpus without an EOS token gets the
                    number `vocabulary` after each document here (separated)

Building takes 5, 10 or 15 bytes of memory for each token of a shard (at most 256, 65,536 or more
tokens in use), beside the memory-mapped tokens. A shard is written in one step, and a build that
was cut off goes on from those that are there.
"""

import bisect
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.audit import suffix_array as sa
from maquette.audit.token_bytes import TokenBytes, token_bytes_of
from maquette.base.arrays import check_corpus, open_arrays, write_arrays
from maquette.base.errors import UserError
from maquette.base.files import lock
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import Corpus

MAGIC, FORMAT, FOLDER = b"MQSUFFIX", 1, "index"
SHARD_TOKENS = 1 << 27
Integers = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """A shard: some whole documents of the training stream, with their suffix array.

    start: position of the first document in the stream. first: its number. documents: offset of each
    document in `tokens`.
    """

    start: int
    first: int
    tokens: Array
    suffixes: npt.NDArray[np.uint32]
    buckets: Integers
    documents: Integers
    separated: bool

    @property
    def arrays(self) -> tuple[Array, npt.NDArray[np.uint32], Integers]:
        return self.tokens, self.suffixes, self.buckets

    def positions(self, offsets: Array) -> Integers:
        """Offsets in `tokens` as positions in the stream."""
        positions = self.start + offsets.astype(np.int64)
        if self.separated:
            positions -= np.searchsorted(self.documents, offsets, "right") - 1
        return positions


class Index:
    """The suffix array of a corpus' training tokens, opened. See `open_index`."""

    def __init__(
        self, corpus: Corpus, rows: Integers, starts: Integers, shards: Sequence[Shard]
    ) -> None:
        self.corpus, self.rows, self.starts, self.shards = corpus, rows, starts, shards

    @functools.cached_property
    def unigrams(self) -> Integers:
        """Number of occurrences of each token, (vocabulary,)."""
        total = np.zeros(self.corpus.vocabulary, np.int64)
        for shard in self.shards:
            total += np.diff(shard.buckets)
        return total

    @functools.cached_property
    def token_bytes(self) -> TokenBytes:
        """The bytes of each token."""
        return token_bytes_of(self.corpus.tokenizer)

    def count(self, tokens: Sequence[int] | Array) -> int:
        """Number of occurrences of a run of tokens inside training documents."""
        return sum(high - low for _, low, high in self._ranges(tokens))

    def find(self, tokens: Sequence[int] | Array) -> Integers:
        """Positions of a run of tokens in the training stream, sorted."""
        positions = [s.positions(s.suffixes[low:high]) for s, low, high in self._ranges(tokens)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *positions]))

    def earliest(self, tokens: Sequence[int] | Array, most: int) -> list[tuple[int, int]]:
        """The first `most` documents that hold the tokens, each with its first place.

        Returns (row in the table of documents, position in the training stream) in order.
        """
        matches: list[tuple[int, int]] = []
        for shard, low, high in self._ranges(tokens):
            wanted = most - len(matches)
            if high == low or not wanted:
                continue
            numbers, offsets = sa.earliest(shard.suffixes, low, high, shard.documents, wanted)
            rows = self.rows[shard.first + numbers]
            matches += zip(rows.tolist(), shard.positions(offsets).tolist(), strict=True)
        return matches

    def matches(self, tokens: Sequence[int] | Array) -> tuple[Integers, Integers]:
        """The length of the longest match that begins at each token, and how often it occurs.

        Both (tokens,). A match is maximal where it ends after every match that begins before it;
        occurrences are counted of maximal matches and are 0 for the others.
        """
        query, stops = self._query(tokens)
        lengths = np.zeros(len(query), np.int64)
        counts = np.zeros(len(query), np.int64)
        by_shard = [sa.matches(*shard.arrays, query, stops) for shard in self.shards]
        for here, _ in by_shard:
            np.maximum(lengths, here, out=lengths)
        maximal = maximal_matches(lengths)
        for shard, (here, offsets) in zip(self.shards, by_shard, strict=True):
            chosen = np.flatnonzero(maximal & (here == lengths))
            counts[chosen] += sa.counts(*shard.arrays, query, lengths, offsets, chosen)
        return lengths, counts

    def document(self, position: int) -> tuple[int, Array]:
        """The position at which the document around `position` begins, and its tokens, not copied."""
        number = int(np.searchsorted(self.starts, position, "right")) - 1
        shard = self.shards[bisect.bisect(self.shards, number, key=lambda s: s.first) - 1]
        length = int(self.starts[number + 1] - self.starts[number])
        local = int(shard.documents[number - shard.first])
        tokens = shard.tokens[local : local + length - (self.corpus.eos_token_id is not None)]
        return int(self.starts[number]), tokens

    def _ranges(self, tokens: Sequence[int] | Array) -> list[tuple[Shard, int, int]]:
        """The range of suffixes that begin with the tokens, of each shard."""
        query = np.array(tokens, dtype=np.int64)
        if not len(query):
            raise ValueError("no tokens to look for")
        eos_token_id = -1 if self.corpus.eos_token_id is None else self.corpus.eos_token_id
        return [(shard, *sa.find(*shard.arrays, query, eos_token_id)) for shard in self.shards]

    def _query(self, tokens: Sequence[int] | Array) -> tuple[Integers, Integers]:
        """The tokens, and for each where the next stands that matches nothing: (tokens,)."""
        query = np.array(tokens, dtype=np.int64)
        nothing = (
            (query < 0) | (query >= self.corpus.vocabulary) | (query == self.corpus.eos_token_id)
        )
        stops = np.where(nothing, np.arange(len(query)), len(query))
        return query, np.minimum.accumulate(stops[::-1])[::-1].copy()


def maximal_matches(lengths: Integers) -> npt.NDArray[np.bool_]:
    """Mask (tokens,) of the longest matches that lie within no other."""
    stops = np.arange(len(lengths)) + lengths  # never decreases
    return (lengths > 0) & (stops > np.concatenate([[0], stops[:-1]]))


def open_index(
    corpus: Corpus,
    *,
    build: bool = True,
    shard_tokens: int = SHARD_TOKENS,
    progress: Progress = silent,
) -> Index:
    """The corpus' index; where there is none yet, or a part of one, it is built.

    shard_tokens: bounds the memory of building; an index that is there is taken as it was cut.
    Raises UserError where there is none and `build` is False, and for one of another corpus.
    """
    rows, starts = _documents(corpus)
    folder = corpus.path / FOLDER
    shards = _opened(corpus, folder, rows, starts)
    if shards is None and not build:
        raise UserError(f"{corpus.path} has no index yet: maquette audit trace builds it")
    if shards is None:
        try:
            with lock(folder / ".lock"):  # another process may have built it meanwhile
                if _opened(corpus, folder, rows, starts) is None:
                    _build(corpus, folder, starts, shard_tokens, progress)
        except OSError as error:
            raise UserError(
                f"cannot write the index to {folder} ({error.strerror}): make room or give the right"
            ) from error
        shards = _opened(corpus, folder, rows, starts)
        assert shards is not None
    return Index(corpus, rows, starts, shards)


def _documents(corpus: Corpus) -> tuple[Integers, Integers]:
    """Rows of the training documents, and where each begins in the stream; at last the stream's end."""
    import pyarrow.compute as pc

    table = corpus.documents
    rows = np.flatnonzero(pc.equal(table["split"], "train").to_numpy())
    starts = table["offset"].to_numpy()[rows]
    order = np.argsort(starts, kind="stable")
    rows, starts = rows[order], np.append(starts[order], len(corpus.train))
    lengths = table["tokens"].to_numpy()[rows] + (corpus.eos_token_id is not None)
    if not np.array_equal(starts[:-1] + lengths, starts[1:]):
        raise UserError(f"{corpus.path}: documents and tokens do not fit: build the corpus again")
    some = lengths > 0
    return rows[some], np.append(starts[:-1][some], starts[-1])


def _path(folder: Path, number: int) -> Path:
    return folder / f"suffixes-{number:05d}.bin"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    try:
        return open_arrays(path, MAGIC, FORMAT)
    except UserError as error:
        raise UserError(f"{error} (remove {path.parent}, maquette audit trace makes it)") from error


def _opened(corpus: Corpus, folder: Path, rows: Integers, starts: Integers) -> list[Shard] | None:
    """The shards; None where some are missing."""
    shards: list[Shard] = []
    reached = 0
    while reached < len(corpus.train):
        path = _path(folder, len(shards))
        if not path.exists():
            return None
        header, arrays = _read(path)
        check_corpus(path, header, corpus.hash, f"maquette audit trace (remove {folder} first)")
        start, stop = header["start"], header["stop"]
        if start != reached:
            return None
        first, last = np.searchsorted(starts[:-1], [start, stop]).tolist()
        documents = starts[first:last] - start
        if header["separated"]:
            documents += np.arange(last - first)
        tokens = arrays["tokens"] if "tokens" in arrays else corpus.train.view(start, stop - start)
        assert tokens is not None
        shards.append(
            Shard(start, first, tokens, arrays["suffixes"], arrays["buckets"], documents,
                  header["separated"])
        )  # fmt: skip
        reached = stop
    return shards


def _build(
    corpus: Corpus, folder: Path, starts: Integers, shard_tokens: int, progress: Progress
) -> None:
    """Write the missing shards."""
    for left in folder.glob(".*.tmp"):  # by a build that was killed
        left.unlink()
    total = len(corpus.train)
    cuts = _cuts(starts, corpus.train.starts, shard_tokens)
    for number, (first, last) in enumerate(itertools.pairwise(cuts)):
        start, stop = int(starts[first]), int(starts[last])
        progress("index", start, total)
        path = _path(folder, number)
        if path.exists():
            header, _ = _read(path)
            if (header["start"], header["stop"]) == (start, stop):
                continue
        separated = corpus.eos_token_id is None
        mapped = None if separated else corpus.train.view(start, stop - start)
        own = {}
        if mapped is None:
            tokens = corpus.train.read(start, stop - start).astype(np.uint32)
            if separated:
                ends = starts[first + 1 : last + 1] - start
                tokens = np.insert(tokens, ends, np.uint32(corpus.vocabulary))
            own["tokens"] = mapped = tokens
        suffixes, counts = sa.sort_suffixes(mapped, corpus.vocabulary + separated)
        buckets = np.cumsum(np.append(0, counts[: corpus.vocabulary]))
        header = {"format": FORMAT, "corpus": corpus.hash, "start": start, "stop": stop}
        write_arrays(
            path,
            MAGIC,
            header | {"separated": separated},
            {"suffixes": suffixes, "buckets": buckets} | own,
        )
        del suffixes, own, mapped
    progress("index", total, total)


def _cuts(starts: Integers, files: Integers, shard_tokens: int) -> list[int]:
    """Number of the first document of each shard, chosen so that a shard lies in one file where it can."""
    cuts = [0]
    while (first := cuts[-1]) < len(starts) - 1:
        file = int(np.searchsorted(files, starts[first], "right"))
        bound = min(int(starts[first]) + shard_tokens, int(files[file]))
        last = int(np.searchsorted(starts, bound, "right")) - 1
        cuts.append(max(first + 1, last))
    return cuts
