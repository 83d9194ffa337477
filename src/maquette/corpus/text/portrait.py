"""The portrait of a corpus: a small file that tells whether a text was seen in training.

The idea is that of Data Portraits (Marone and Van Durme 2023): hash strided n-grams of the training
text into an approximate set, ship the set without the text, look up every offset of a query. Theirs
is a Bloom filter of grams of 50 characters, 50 apart. Here:

- Grams of `width` = 33 bytes, `stride` = 67 apart, counted from the start of each document. Any
  verbatim run of width + stride - 1 = 99 bytes (so any of 99 characters) contains a whole sampled
  gram, so a run that long is never missed. Their 50 + 50 - 1 guarantees the same at more grams; a
  shorter width needs fewer still, but grams that short recur by themselves in unrelated text.
- The distinct grams' hashes make a binary fuse filter (fuse_filter.py) of `bits` = 7 bits: a gram that was
  not seen passes with probability 2^-7 = 0.8 %. What that says about a span is in audit/member.py.
- Bytes are those of the text's normal form C, here and in a query (unicode_normalisation.py): é is found
  however it was written. Data Portraits collapses white space, too; we do not, because the promise is about
  verbatim text, and because in code and tables white space is content. A copy that was wrapped anew
  is found between its line breaks only, where those runs are 99 bytes long.

What is in the file (see base/arrays.py for its frame):

    header      width, stride, bits; documents, text_bytes, samples: what it was made of; grams: how
                many distinct ones it holds
    partitions  int64 (2^k, 4)      of fuse.Fuse
    words       uint64 (n,)         its slots, `bits` bits each

It depends on the set of grams alone: not on the order of the documents, not on workers. While it is
made, hashes wait on disk, sorted by their top bits: memory stays under about 200 MB (for a corpus of
terabytes, a 256th of its hashes).
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maquette.base.arrays import open_arrays, write_arrays
from maquette.base.errors import UserError, WrongUse
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.fuse_filter import (
    Fuse,
    Partition,
    Words,
    make_partition,
    own_bits,
    partition_bits,
    starts,
    table,
)
from maquette.corpus.text.ngram_hashes import Bytes, Hashes, as_bytes, gram_hashes, strided_hashes
from maquette.corpus.text.store import SPLITS, Corpus
from maquette.corpus.text.unicode_normalisation import nfc_bytes

MAGIC, FORMAT, PORTRAIT = b"MQPORTRA", 1, "portrait.bin"
WIDTH, STRIDE, BITS = 33, 67, 7
BUFFER = 1 << 22  # hashes in memory before they go to disk
BUCKETS = 256  # files there, by the first byte of the hash
Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Portrait:
    """An opened portrait."""

    path: Path
    corpus: str
    width: int
    stride: int
    documents: int
    text_bytes: int
    samples: int
    grams: int
    fuse: Fuse

    @property
    def error(self) -> float:
        """The probability that a gram which is not in the corpus' sample passes for one that is."""
        return 2.0**-self.fuse.bits

    @property
    def guarantee(self) -> int:
        """Length in bytes from which a verbatim run of training text is never missed."""
        return self.width + self.stride - 1

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.path.stat().st_size

    def hits(self, data: Bytes) -> npt.NDArray[np.bool_]:
        """Whether the gram at each offset of `data` passes: (max(0, len(data) - width + 1),)."""
        return self.fuse.contains(gram_hashes(data, self.width))


class PortraitBuilder:
    """Takes the training documents one by one, in any order; `finish` writes the portrait.

    scratch: a folder of its own, cleared first and removed at the end.
    """

    def __init__(self, scratch: Path, width: int = WIDTH, stride: int = STRIDE) -> None:
        self._samples = Samples(scratch, width, stride)

    def add(self, data: bytes) -> None:
        """Add the UTF-8 of a document."""
        self._samples.add(nfc_bytes(data))

    def finish(self, path: Path, corpus_hash: str, bits: int = BITS) -> Portrait:
        """Write the portrait of the added documents; corpus_hash: hash of the corpus."""
        check_bits(bits)
        fuse = self._samples.fuse(bits, lambda keys, _: own_bits(keys, bits))
        own = {"bits": bits, "grams": self._samples.distinct}
        header = {"format": FORMAT, "corpus": corpus_hash} | self._samples.described() | own
        write_arrays(path, MAGIC, header, fuse.arrays())
        self._samples.close()
        return open_portrait(path)


def build_portrait(
    corpus: Corpus,
    out: Path,
    width: int = WIDTH,
    stride: int = STRIDE,
    bits: int = BITS,
    progress: Progress = silent,
) -> Portrait:
    """Write the portrait of a corpus' training documents."""
    check_bits(bits)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))  # two may be at it
    try:
        builder = PortraitBuilder(scratch, width, stride)
        for text in training_texts(corpus, "portrait", progress):
            builder.add(text)
        return builder.finish(out, corpus.hash, bits)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def open_portrait(path: str | Path) -> Portrait:
    """A portrait that was written before. Raises UserError where the file is not one, or damaged."""
    path = Path(path).expanduser()
    header, arrays = open_arrays(path, MAGIC, FORMAT)
    names = ("width", "stride", "documents", "text_bytes", "samples", "grams")
    try:
        numbers = [header[name] for name in (*names, "bits")]
        if not all(type(n) is int and n >= 0 for n in numbers) or not 1 <= header["bits"] <= 32:
            raise ValueError(header)
        check_grams(header["width"], header["stride"])
        fuse = Fuse.of(header["bits"], arrays)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: build it again with maquette audit portrait"
        ) from error
    described = {name: header[name] for name in names}
    return Portrait(path=path, corpus=header["corpus"], fuse=fuse, **described)


def training_texts(corpus: Corpus, stage: str, progress: Progress) -> Iterator[bytes]:
    """The UTF-8 of every training document, in the order of the table."""
    sizes = corpus.documents["bytes"].to_numpy()
    rows = training_rows(corpus)
    total, done = float(sizes[rows].sum()), 0.0
    for row in rows.tolist():
        text = corpus.text(row)
        if len(text) != sizes[row]:
            raise UserError(
                f"{corpus.path}: its tokenizer does not give a text back as it was: make the {stage} "
                f"while the corpus is built, with maquette corpus build --{stage}"
            )
        yield text
        done += float(sizes[row])
        progress(stage, done, total)


def training_rows(corpus: Corpus) -> npt.NDArray[np.int64]:
    """The rows of the training documents in the table, in its order."""
    import pyarrow.compute as pc

    return np.flatnonzero(pc.equal(corpus.documents["split"], SPLITS[0]).to_numpy())


def check_bits(bits: int) -> None:
    """Raise WrongUse for bits that no filter can have."""
    if not 1 <= bits <= 32:
        raise WrongUse(f"bits is {bits}: use 1 to 32, such as {BITS}")


def check_grams(width: int, stride: int) -> None:
    """Raise WrongUse for an impossible width or stride."""
    if not 1 <= width <= 1 << 16 or not 1 <= stride <= 1 << 20:
        raise WrongUse(f"width {width}, stride {stride}: use {WIDTH} and {STRIDE}, or near them")


class Samples:
    """Strided grams of documents: their hashes in ascending order, each once, on disk.

    numbered: each with the number of the first sample that has it, counted over all documents.
    """

    def __init__(self, scratch: Path, width: int, stride: int, numbered: bool = False) -> None:
        check_grams(width, stride)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self._scratch, self._numbered = scratch, numbered
        self.width, self.stride = width, stride
        self.documents = self.text_bytes = self.count = self.distinct = 0
        self._pieces: list[Hashes] = []
        self._held = self._spills = 0
        self._files = 1

    def add(self, data: bytes) -> None:
        """Sample one document."""
        hashes = strided_hashes(as_bytes(data), self.width, self.stride)
        self.documents += 1
        self.text_bytes += len(data)
        self.count += len(hashes)
        self._held += len(hashes)
        self._pieces.append(hashes)
        if self._held >= BUFFER:
            self._files = BUCKETS
            self._spill()

    def described(self) -> dict[str, int]:
        """The header's fields of the samples."""
        return {
            "width": self.width,
            "stride": self.stride,
            "documents": self.documents,
            "text_bytes": self.text_bytes,
            "samples": self.count,
        }

    def fuse(self, bits: int, values: Callable[[Hashes, Numbers], Words]) -> Fuse:
        """The table of all samples; `values` gives those of some hashes and numbers.

        The words are mapped from the scratch folder: they are gone after `close`.
        """
        self._spill()
        self.distinct = sum(self._settle(file) for file in range(self._files))
        top = partition_bits(self.distinct)
        together = max(1, self._files >> top)  # files in a partition
        within = max(1, (1 << top) // self._files)  # partitions in a file
        borders = starts(top)
        parts: list[Partition] = []
        words = self._scratch / "words"
        with words.open("wb") as out:
            for file in range(0, self._files, together):
                loaded = [self._load(f) for f in range(file, file + together)]
                keys, numbers = (np.concatenate(column) for column in zip(*loaded, strict=True))
                inner = borders[len(parts) + 1 : len(parts) + within]
                cuts = [0, *np.searchsorted(keys, inner).tolist(), len(keys)]
                for a, b in itertools.pairwise(cuts):
                    some = values(keys[a:b], numbers[a:b])
                    part = make_partition(keys[a:b], some, top, bits)
                    out.write(part.words.data)
                    parts.append(replace(part, words=part.words[:0]))
            out.write(bytes(8))
        return Fuse(bits, table(parts), np.memmap(words, np.uint64, "r").view(np.ndarray))

    def close(self) -> None:
        """Remove the scratch folder."""
        shutil.rmtree(self._scratch)

    def _spill(self) -> None:
        """Append what is in memory to the files."""
        keys = np.concatenate([np.empty(0, np.uint64), *self._pieces])
        numbers = np.arange(self.count - self._held, self.count, dtype=np.uint64)
        self._pieces, self._held, self._spills = [], 0, self._spills + 1
        keys, numbers = self._distinct(keys, numbers)
        cuts = np.searchsorted(keys, starts(self._files.bit_length() - 1)).tolist()
        for file, (a, b) in enumerate(itertools.pairwise([*cuts, len(keys)])):
            self._write(file, keys[a:b], numbers[a:b], "ab")

    def _settle(self, file: int) -> int:
        """Sort a file and leave each hash once; returns how many."""
        keys, numbers = self._load(file)
        if self._spills > 1:  # what was spilled together is so already
            keys, numbers = self._distinct(keys, numbers)
            self._write(file, keys, numbers, "wb")
        return len(keys)

    def _distinct(self, keys: Hashes, numbers: Numbers) -> tuple[Hashes, Numbers]:
        if self._numbered:
            order = np.argsort(keys)
            keys, numbers = keys[order], numbers[order]
        else:
            keys = np.sort(keys)
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        if self._numbered and len(keys):
            numbers = np.minimum.reduceat(numbers, first)
        return keys[first], numbers[: len(first)]

    def _load(self, file: int) -> tuple[Hashes, Numbers]:
        keys = np.fromfile(self._scratch / f"{file:03d}.hashes", np.uint64)
        if not self._numbered:
            return keys, keys
        return keys, np.fromfile(self._scratch / f"{file:03d}.numbers", np.uint64)

    def _write(self, file: int, keys: Hashes, numbers: Numbers, mode: str) -> None:
        for name, column in (("hashes", keys), ("numbers", numbers))[: 1 + self._numbered]:
            with (self._scratch / f"{file:03d}.{name}").open(mode) as out:
                out.write(column.data)
