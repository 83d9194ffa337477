"""The locator of a corpus: where a long verbatim run stands in it, in a twentieth of its size.

The same strided grams as the portrait's (portrait.py), but each distinct gram's hash maps to a
number: the sample at which it stands first in the corpus, and a fingerprint of the hash that sends
away most grams that are not there. The map is a fuse table (fuse_filter.py; Chazelle et al. 2004 call it a
Bloomier filter), so it costs about 1.08 (fingerprint + log2(samples)) bits a gram. What it names is
read from the corpus and compared, so nothing is reported that does not stand there.

Every run of width + stride - 1 = 99 bytes that stands in a training document is found: at least one
match returned lies on it. Of each gram only the first place is known. So copies elsewhere are not
listed, and a run whose grams all stand earlier in other documents is reported as its parts there; for
every place of a run use the index (audit/index.py).

What is in the file (see base/arrays.py for its frame):

    header      width, stride, bits (of a value), fingerprint (of those, the low ones); documents,
                text_bytes, samples, grams
    partitions, words    of fuse.Fuse; value = sample << fingerprint | low bits of the hash

Samples are numbered over the training documents in the order of the table, at offsets 0, stride,
2 stride ... of each, so the sizes in the table say where a sample is.
"""

import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maquette.base.arrays import check_corpus, open_arrays, write_arrays
from maquette.base.errors import UserError
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.fuse_filter import Fuse, own_bits
from maquette.corpus.text.ngram_hashes import Bytes, as_bytes, gram_hashes
from maquette.corpus.text.portrait import (
    STRIDE,
    WIDTH,
    Samples,
    check_grams,
    training_rows,
    training_texts,
)
from maquette.corpus.text.store import Corpus

MAGIC, FORMAT, LOCATOR = b"MQLOCATE", 1, "locator.bin"
VALUE = 45  # bits at most, so that the table stays below 0.08 bytes for a byte of text; but
FINGERPRINTS = (
    8,
    16,
)  # fewest and most of them: one in 65,536 strangers is looked up in the corpus
KEPT_BYTES = 64 << 20  # of documents read lately
COMPARED = 4096  # bytes at a time
COMMAND = "maquette audit trace --locator"
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Match:
    """data[start:end] stands in a document at `offset`; the bytes around it differ."""

    start: int
    end: int
    row: int
    """row in the table of documents"""
    offset: int
    """offset in bytes of the document's UTF-8"""


class LocatorBuilder:
    """Takes the training documents in the order of the table; `finish` writes the locator.

    scratch: a folder of its own, cleared first and removed at the end.
    """

    def __init__(self, scratch: Path, width: int = WIDTH, stride: int = STRIDE) -> None:
        self._samples = Samples(scratch, width, stride, numbered=True)

    def add(self, data: bytes) -> None:
        """Add the UTF-8 of a document."""
        self._samples.add(data)

    def finish(self, path: Path, corpus_hash: str) -> None:
        """Write the locator of the added documents; corpus_hash: hash of the corpus."""
        number = max(1, (self._samples.count - 1).bit_length())
        least, most = FINGERPRINTS
        low = min(most, max(least, VALUE - number))
        fuse = self._samples.fuse(
            number + low, lambda keys, numbers: numbers << np.uint64(low) | own_bits(keys, low)
        )
        own = {"bits": number + low, "fingerprint": low, "grams": self._samples.distinct}
        header = {"format": FORMAT, "corpus": corpus_hash} | self._samples.described() | own
        write_arrays(path, MAGIC, header, fuse.arrays())
        self._samples.close()


class Locator:
    """An opened locator with the corpus it was made of. See `open_locator`."""

    def __init__(
        self, corpus: Corpus, fuse: Fuse, width: int, stride: int, fingerprint: int, samples: int
    ) -> None:
        self.corpus, self.fuse, self.width, self.stride = corpus, fuse, width, stride
        self.fingerprint = fingerprint
        self.rows = training_rows(corpus)
        sizes = corpus.documents["bytes"].to_numpy()[self.rows]
        counts = np.maximum(0, (sizes - width) // stride + 1)  # samples of each document
        self._firsts = np.cumsum(np.append(0, counts))
        self.samples = min(samples, int(self._firsts[-1]))
        self._texts: OrderedDict[int, Bytes] = OrderedDict()
        self._kept = 0

    @property
    def guarantee(self) -> int:
        """Length in bytes from which a verbatim run of training text is never missed."""
        return self.width + self.stride - 1

    def locate(self, data: bytes) -> list[Match]:
        """The longest matches around every sampled gram that stands in `data`, in order."""
        query = as_bytes(data)
        matches: list[Match] = []
        reached: dict[tuple[int, int], int] = {}  # (row, shift) -> where a match on it ended
        for o, row, offset in self._candidates(query):
            if reached.get((row, offset - o), 0) >= o + self.width:
                continue
            text = self._text(row)
            after = _agreeing(query[o:], text[offset:])
            if after < self.width:
                continue
            before = _agreeing(query[:o][::-1], text[:offset][::-1])
            reached[row, offset - o] = o + after
            matches.append(Match(o - before, o + after, row, offset - before))
        return sorted(matches)

    def _candidates(self, query: Bytes) -> list[tuple[int, int, int]]:
        """Offset in the query, row, and offset in the document of each gram in the table."""
        hashes = gram_hashes(query, self.width)
        values = self.fuse.read(hashes)
        samples = values >> np.uint64(self.fingerprint)
        same = own_bits(values, self.fingerprint) == own_bits(hashes, self.fingerprint)
        offsets = np.flatnonzero(same & (samples < self.samples))
        numbers = samples[offsets].astype(np.int64)
        documents = np.searchsorted(self._firsts, numbers, "right") - 1
        in_document = (numbers - self._firsts[documents]) * self.stride
        rows = self.rows[documents]
        return list(zip(offsets.tolist(), rows.tolist(), in_document.tolist(), strict=True))

    def _text(self, row: int) -> Bytes:
        """A document's bytes, kept while there is room."""
        if row in self._texts:
            self._texts.move_to_end(row)
            return self._texts[row]
        text = self._texts[row] = as_bytes(self.corpus.text(row))
        self._kept += len(text)
        while self._kept > KEPT_BYTES and len(self._texts) > 1:
            self._kept -= len(self._texts.popitem(last=False)[1])
        return text


def build_locator(corpus: Corpus, out: Path | None = None, progress: Progress = silent) -> Locator:
    """Write the locator of a corpus' training documents, into its folder unless `out` is given."""
    path = out or corpus.path / LOCATOR
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))  # two may be at it
    try:
        builder = LocatorBuilder(scratch)
        for text in training_texts(corpus, "locator", progress):
            builder.add(text)
        builder.finish(path, corpus.hash)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return open_locator(corpus, path)


def open_locator(corpus: Corpus, path: Path | None = None) -> Locator:
    """The corpus' locator, that of its folder unless `path` is given.

    Raises UserError where there is none, or where it is damaged or another corpus'.
    """
    path = path or corpus.path / LOCATOR
    header, arrays = open_arrays(path, MAGIC, FORMAT)
    check_corpus(path, header, corpus.hash, COMMAND)
    names = ("width", "stride", "fingerprint", "samples")
    try:
        numbers = [header[name] for name in (*names, "bits")]
        sound = all(type(n) is int and n >= 0 for n in numbers)
        if not sound or not 0 < header["fingerprint"] < header["bits"] < 64:
            raise ValueError(header)
        check_grams(header["width"], header["stride"])
        fuse = Fuse.of(header["bits"], arrays)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged: build it again with {COMMAND}") from error
    return Locator(corpus, fuse, **{name: header[name] for name in names})


def _agreeing(a: Bytes, b: Bytes) -> int:
    """Length of the common prefix of two texts in bytes."""
    length = min(len(a), len(b))
    for at in range(0, length, COMPARED):
        stop = min(length, at + COMPARED)
        differ = a[at:stop] != b[at:stop]
        if differ.any():
            return at + int(differ.argmax())
    return length
