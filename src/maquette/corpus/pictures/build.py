"""Build a corpus of pictures: read, decode side by side, leave out duplicates, divide, write.

    reading     pictures with captions, one after the other                      (picture_files.py)
    decoding    each to a square of 8-bit RGB, in workers                        (picture_window.py)
    writing     in the order of the sources, to the split that the hash of a picture's file draws
    tokenizer   learned from the training captions

The result depends on the sources, the options and Pillow's version, not on the number of workers.
Memory holds the window, 24 bytes a picture, and tables of captions. The corpus is built aside and stands
whole or not at all. A picture keeps its split when the sources grow, at every size; where chance holds
none out, the one that came nearest is; one picture alone is trained on. Left out: near-duplicates, and
going on from a build that was killed.
"""

import hashlib
import json
import struct
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, lock, sha256, write_json
from maquette.base.machine import cores
from maquette.corpus.document import Skipped
from maquette.corpus.pictures.build_options import PictureBuildOptions
from maquette.corpus.pictures.captions import EMPTY
from maquette.corpus.pictures.files import pictures
from maquette.corpus.pictures.item import NO_CAPTION, Picture
from maquette.corpus.pictures.store import FORMAT, MANIFEST, TOKENIZER, PictureCorpus
from maquette.corpus.pictures.window import Square, Window
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import SPLITS
from maquette.corpus.tokenizer import save_tokenizer, train_tokenizer

SAID = 4  # reasons, where no picture is left
NAMED = 8  # of what is skipped for one reason, by name
SAMPLE_BYTES = 32 << 20  # of captions that the tokenizer learns from
RECENT = 1 << 16  # numbers in a set before they are sorted into the array
_NUMBER = struct.Struct("<q")
DUPLICATE = "the same picture as an earlier one"
TRAIN, HELDOUT = SPLITS


def build_pictures(
    out: Path,
    sources: Sequence[str | Path],
    options: PictureBuildOptions,
    *,
    workers: int | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> PictureCorpus:
    """Read the pictures of `sources` (see `picture_files`) and write the corpus `out`.

    workers: number of processes (None: one for each core). replace: whether an existing corpus is built
    again. Raises UserError where no picture is left.
    """
    out = out.absolute()
    if out.exists() and not (replace and (out / MANIFEST).exists()):
        how = "pass --replace to build it again" if (out / MANIFEST).exists() else "it is no corpus"
        raise WrongUse(f"{out} exists: choose another folder ({how})")
    if workers is not None and workers < 1:
        raise WrongUse(f"workers is {workers}: use 1 or more")
    start = time.perf_counter()
    entries = pictures(sources, options.columns)
    window = Window(options.image_size, options.crop, workers or cores())
    locked = out.with_name(f".{out.name}.lock")
    with lock(locked, busy=f"another process is building {out}: wait for it"):
        try:
            with directory_aside(out) as folder:
                made = _write(folder, entries, window, options.heldout, progress)
                made |= _tokenize(folder, options.vocabulary, workers or cores(), progress)
                made["hash"] = _hash(folder, made, options.image_size)
                made |= {
                    "kind": "pictures",
                    "format": FORMAT,
                    "image_size": options.image_size,
                    "crop": options.crop,
                    "pillow": PIL.__version__,
                    "heldout": options.heldout,
                    "sources": [str(source) for source in sources],
                    "seconds": round(time.perf_counter() - start, 3),
                    "peak_memory": window.peak,
                }
                write_json(folder / MANIFEST, made)
        finally:
            locked.unlink(missing_ok=True)
    return PictureCorpus(out)


def _hash(folder: Path, made: dict[str, Any], image_size: int) -> str:
    """Hash of the contents."""
    parts = {name: part["sha256"] for name, part in made["files"].items()}
    parts |= {
        "image_size": image_size,
        "classes": made["classes"],
        TOKENIZER: sha256(folder / TOKENIZER),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(
    folder: Path,
    entries: Iterator[Picture | Skipped],
    window: Window,
    heldout: float,
    progress: Progress,
) -> dict[str, Any]:
    """Write all but the tokenizer; returns the manifest's part."""
    writer = _Writer(folder, heldout)
    try:
        with closing(window.each(entries)) as items:  # its workers end with it
            for item in items:
                if isinstance(item, Skipped):
                    writer.skip(item.source, item.reason)
                else:
                    writer.add(*item)
                    progress("pictures", writer.read, None)
        return writer.finish()
    finally:
        writer.close()


class _Record(NamedTuple):
    """A picture as it is written. draw: a number in [0, 1) by the hash of its file."""

    draw: float
    pixels: bytes
    caption: bytes
    label: int


class _Writer:
    """Writes the files of a corpus, picture by picture."""

    def __init__(self, folder: Path, heldout: float) -> None:
        self._folder, self._heldout = folder, heldout
        self._sides = {split: _Side(folder, split) for split in SPLITS}
        self._taken = 0
        self._first: _Record | None = (
            None  # the first, until there is a second: alone it is trained on
        )
        self._spare: _Record | None = None  # the nearest to be held out, while none is
        self._seen = _Seen()
        self._classes: dict[str, int] = {}
        self._reasons: Counter[str] = Counter()
        self._converted: Counter[str] = Counter()
        self._named: list[dict[str, str]] = []
        self.read = 0

    def skip(self, source: str, reason: str) -> None:
        """Count a source that gives no picture, by its reason."""
        self._reasons[reason] += 1
        if self._reasons[reason] <= NAMED:
            self._named.append({"source": source, "reason": reason})

    def add(self, picture: Picture, made: Square | str) -> None:
        """Write a picture, unless it cannot be decoded or is a duplicate."""
        if isinstance(made, str):
            self.skip(picture.source, made)
            return
        self.read += made.read
        if made.file in self._seen or made.shown in self._seen:
            self.skip(picture.source, DUPLICATE)
            return
        self._seen.add(made.file)
        self._seen.add(made.shown)
        self._converted.update([*made.converted, *picture.converted])
        label = -1
        if picture.label is not None:
            label = self._classes.setdefault(picture.label, len(self._classes))
        record = _Record(made.file / 2**64, made.pixels, picture.caption.encode(), label)
        self._taken += 1
        if self._taken == 1:
            self._first = record
            return
        if self._first is not None:
            self._place(self._first)
            self._first = None
        self._place(record)

    def _place(self, record: _Record) -> None:
        """Write a picture to the split that its hash draws."""
        if record.draw < self._heldout:
            self._sides[HELDOUT].add(record)
            record, self._spare = self._spare, None  # type: ignore[assignment] # may be None
        elif not self._sides[HELDOUT].n and (not self._spare or record.draw < self._spare.draw):
            record, self._spare = self._spare, record  # type: ignore[assignment]
        if record is not None:
            self._sides[TRAIN].add(record)

    def finish(self) -> dict[str, Any]:
        """Write what remains; returns the manifest's part. Raises UserError for too few pictures."""
        if self._spare is not None:
            self._sides[HELDOUT].add(self._spare)
        if self._first is not None:
            self._sides[TRAIN].add(self._first)
        if not self._taken:
            raise UserError(self._nothing())
        if not self._sides[TRAIN].n:
            raise UserError(f"all {self._taken} pictures are held out: use a smaller --heldout")
        unlabelled = sum(int((side.classes() < 0).sum()) for side in self._sides.values())
        names = sorted(self._classes, key=_by_number) if not unlabelled else []
        class_ids = [self._classes[name] for name in names]  # their numbers as they were met
        counts = np.zeros(len(names), np.int64)
        for side in self._sides.values():
            if names:
                counts += np.bincount(side.classes(), minlength=len(names))[class_ids]
            side.finish(np.argsort(class_ids) if names else None)
        return {
            "splits": {split: side.n for split, side in self._sides.items()},
            "label_names": ["class"] if names else [],
            "label_sizes": [len(names)] if names else [],
            "classes": names,
            "class_counts": counts.tolist(),
            "unlabelled": unlabelled if self._classes else 0,
            "bytes_read": self.read,
            "skipped": sum(self._reasons.values()),
            "skipped_reasons": dict(self._reasons.most_common()),
            "skipped_named": self._named,
            "duplicates": self._reasons[DUPLICATE],
            "converted": dict(self._converted.most_common()),
            "files": {n: part for side in self._sides.values() for n, part in side.files().items()},
        }

    def close(self) -> None:
        for side in self._sides.values():
            side.close()

    def _nothing(self) -> str:
        """Why no picture is left, with the mend of the most common reason."""
        mend = "name a folder of pictures with captions, a .tar shard or a .parquet table"
        if not self._reasons:
            return f"no pictures found: {mend}"
        common = self._reasons.most_common()
        reasons = ", ".join(f"{n:,} {reason.partition(': ')[0]}" for reason, n in common[:SAID])
        bare = {NO_CAPTION, EMPTY}
        mends = [reason.partition(": ")[2] for reason, _ in common if reason not in bare]
        columns = next((mend_line for mend_line in mends if "--columns" in mend_line), "")
        if common[0][0] in bare:
            usual = (
                "write NAME.txt beside NAME.jpg (in a shard too), a captions.csv, or sort them into"
            )
            mend = columns or f"{usual} folders by class"
        else:
            mend = next(filter(None, mends), mend)
        return f"no picture is left ({reasons}; {self._named[0]['source']} for one): {mend}"


class _Side:
    """Writes the files of one split."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._pictures = _Hashed(folder / f"pictures-{split}.bin")
        self._captions = _Hashed(folder / f"captions-{split}.bin")
        self._offsets = _Hashed(folder / f"captions-{split}.idx")
        self._offsets.write(_NUMBER.pack(0))
        self._open = [self._pictures, self._captions, self._offsets]
        self._classes = array("q")
        self.n = 0

    def add(self, record: _Record) -> None:
        self._pictures.write(record.pixels)
        self._captions.write(record.caption)
        self._offsets.write(_NUMBER.pack(self._captions.bytes))
        self._classes.append(record.label)
        self.n += 1

    def classes(self) -> npt.NDArray[np.int64]:
        """Class numbers (n,) in order of first appearance, -1 for none."""
        return np.array(self._classes, np.int64)

    def finish(self, numbers: npt.NDArray[np.int64] | None) -> None:
        """Write the labels with the final class numbers; None: there are no classes."""
        if numbers is not None:
            labels = _Hashed(self._folder / f"labels-{self._split}.bin")
            self._open.append(labels)
            labels.write(numbers[self.classes()].astype("<i8").tobytes())
        self.close()

    def files(self) -> dict[str, dict[str, Any]]:
        return {f.name: {"bytes": f.bytes, "sha256": f.digest.hexdigest()} for f in self._open}

    def close(self) -> None:
        for file in self._open:
            file.file.close()


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self.name, self.bytes, self.digest = path.name, 0, hashlib.sha256()
        self.file: BinaryIO = path.open("wb", buffering=1 << 20)

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)


class _Seen:
    """A set of 64-bit numbers in 8 bytes each: a sorted array, and the numbers added since sorting."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __contains__(self, number: int) -> bool:
        if number in self._recent:
            return True
        at = int(self._sorted.searchsorted(np.uint64(number)))
        return at < len(self._sorted) and int(self._sorted[at]) == number

    def add(self, number: int) -> None:
        self._recent.add(number)
        if len(self._recent) > max(RECENT, len(self._sorted) // 8):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()


def _by_number(name: str) -> tuple[bool, int, str]:
    """Sort key of class names: names that are numbers first, in numeric order."""
    plain = name.isascii() and name.isdecimal() and len(name) < 20
    return not plain, int(name) if plain else 0, name


def _tokenize(folder: Path, vocabulary: int, workers: int, progress: Progress) -> dict[str, Any]:
    """Train the tokenizer; returns the manifest's part."""
    progress("tokenizer", 0, None)
    texts = _sample(folder)
    tokenizer = train_tokenizer(texts, vocabulary, or_fewer=True)
    save_tokenizer(tokenizer, folder / TOKENIZER)
    lengths = np.array([len(tokens) for tokens in tokenizer.encode_batch(texts, workers)])
    progress("tokenizer", sum(map(len, texts)), None)
    return {
        "vocabulary": tokenizer.vocabulary,
        "eos_token_id": tokenizer.eos_token_id,
        "caption_tokens": {
            "median": int(np.median(lengths)),
            "99 %": int(np.quantile(lengths, 0.99)),
            "most": int(lengths.max()),
        },
    }


def _sample(folder: Path) -> list[str]:
    """Training captions at equal distances, at most SAMPLE_BYTES of them."""
    offsets = np.fromfile(folder / f"captions-{TRAIN}.idx", "<i8")
    text = np.memmap(folder / f"captions-{TRAIN}.bin", np.uint8, mode="r")
    step = -(-len(text) // SAMPLE_BYTES)
    return [
        text[offsets[i] : offsets[i + 1]].tobytes().decode()
        for i in range(0, len(offsets) - 1, step)
    ]
