"""A corpus of captioned pictures: stored by `maquette corpus pictures`, or drawn on the spot.

Both are a folder with manifest.json and tokenizer.json, so that a run can say by path and hash what it
was trained on. A stored one holds, for train and heldout,

    pictures-SPLIT.bin      uint8 (n, height, width, 3)
    captions-SPLIT.bin      UTF-8, one after the other; captions-SPLIT.idx: n + 1 int64 offsets
    labels-SPLIT.bin        int64 (n, factors), where there are labels

A drawn one holds the settings of its world alone: picture i of a seed is a function of (seed, i).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.base.files import directory_aside, home, lock, read_json, write_json
from maquette.corpus.checksums import check_files
from maquette.corpus.progress import Progress, silent
from maquette.corpus.tokenizer import (
    BYTES,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from maquette.worlds.registry import Boxes, World, described, world_from, world_names

FORMAT = 2
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
ENDLESS = 1 << 40
"""number of training pictures of a world"""
Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]


class PictureSplit:
    """Pictures by index, with captions, labels and annotations."""

    def __len__(self) -> int:
        raise NotImplementedError

    def pictures(self, indices: Numbers) -> Pixels:
        """uint8 (n, height, width, 3)."""
        raise NotImplementedError

    def captions(self, indices: Numbers) -> list[str]:
        """n captions; "" where there is none."""
        raise NotImplementedError

    def labels(self, indices: Numbers) -> Numbers | None:
        """(n, factors), or None where nothing is labelled."""
        raise NotImplementedError

    def boxes(self, indices: Numbers) -> Boxes:
        """The boxes of the objects. `boxes`, `masks` and `frames` raise WrongUse where they are not known."""
        raise self._lacks("boxes")

    def masks(self, indices: Numbers) -> Pixels:
        """uint8 (n, height, width): 0 the background, 1, 2, ... the objects in the order of `boxes`."""
        raise self._lacks("masks")

    def frames(self, indices: Numbers, count: int) -> Pixels:
        """Videos: uint8 (n, count, height, width, 3), the first frame being the picture."""
        raise self._lacks("frames")

    def _lacks(self, annotation: str) -> WrongUse:
        return WrongUse(f"these pictures have no {annotation}: use a world that has, as shapes")


class PictureCorpus:
    """A folder of captioned pictures, or of the settings of a world."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()  # a run finds it from any folder
        if not (self.path / MANIFEST).exists():
            raise UserError(
                f"{self.path} holds no pictures (no {MANIFEST}): "
                f"make a corpus of them with maquette corpus pictures"
            )
        self.manifest: dict[str, Any] = read_json(self.path / MANIFEST)
        kind = self.manifest.get("kind") if isinstance(self.manifest, dict) else None
        if kind not in ("pictures", "world"):
            raise WrongUse(
                f"{self.path} is a corpus of {kind or 'text'}: name one built by maquette corpus pictures"
            )
        if self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{self.path} has format {self.manifest.get('format')}, this Maquette reads "
                f"{FORMAT}: build it again"
            )
        self._world = world_from(self.manifest["world"]) if kind == "world" else None

    @property
    def hash(self) -> str:
        """Hash of the content."""
        return str(self.manifest["hash"])

    @property
    def vocabulary(self) -> int:
        """Number of tokens of the captions."""
        return self.tokenizer.vocabulary

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the captions."""
        return load_tokenizer(self.path / TOKENIZER)

    @property
    def label_names(self) -> list[str]:
        """Names of the label factors."""
        return list(self.manifest["label_names"])

    @property
    def label_sizes(self) -> list[int]:
        """Number of values of each label factor."""
        return [int(n) for n in self.manifest["label_sizes"]]

    @property
    def world(self) -> World | None:
        """The world that draws the pictures; None: they are stored."""
        return self._world

    def check(self, progress: Progress = silent) -> int:
        """Hash all files; returns their bytes. Raises UserError for one that is damaged."""
        files = self.manifest.get("files", {})  # a world has none
        return check_files(self.path, {n: f["sha256"] for n, f in files.items()}, progress)

    def split(self, name: str, image_size: int, seed: int = 0) -> PictureSplit:
        """The training or the held-out pictures.

        image_size: height and width in pixels. seed: the seed by which a world draws them.
        """
        if self._world is not None:
            return _Drawn(self._world, seed, name, image_size)
        own = int(self.manifest["image_size"])
        if image_size != own:
            raise WrongUse(
                f"the pictures of {self.path} have image_size {own}, not {image_size}: use --data.image-size "
                f"{own} --model.image-size {own}, or build the corpus with --image-size {image_size}"
            )
        return _Stored(self.path, self.manifest, name)


class _Drawn(PictureSplit):
    def __init__(self, world: World, seed: int, split: str, image_size: int) -> None:
        self._world, self._seed, self._split, self._image_size = world, seed, split, image_size

    def __len__(self) -> int:
        return ENDLESS

    def pictures(self, indices: Numbers) -> Pixels:
        return self._world.pictures(self._seed, indices, self._split, self._image_size)

    def captions(self, indices: Numbers) -> list[str]:
        return self._world.captions(self._seed, indices, self._split)

    def labels(self, indices: Numbers) -> Numbers | None:
        return self._world.labels(self._seed, indices, self._split)

    def boxes(self, indices: Numbers) -> Boxes:
        return self._world.boxes(self._seed, indices, self._split)

    def masks(self, indices: Numbers) -> Pixels:
        return self._world.masks(self._seed, indices, self._split, self._image_size)

    def frames(self, indices: Numbers, count: int) -> Pixels:
        return self._world.frames(self._seed, indices, self._split, self._image_size, count)


class _Stored(PictureSplit):
    def __init__(self, path: Path, manifest: dict[str, Any], split: str) -> None:
        self._n, size = int(manifest["splits"][split]), int(manifest["image_size"])
        self._labels: npt.NDArray[Any] | None = None
        self._pixels: npt.NDArray[Any] = np.zeros((0, size, size, 3), np.uint8)
        self._text: npt.NDArray[Any] = np.zeros(0, np.uint8)
        factors = len(manifest["label_names"])
        self._offsets = _flat(path / f"captions-{split}.idx", np.dtype("<i8"), (self._n + 1,))
        if self._n:
            shape = (self._n, size, size, 3)
            self._pixels = _flat(path / f"pictures-{split}.bin", np.dtype(np.uint8), shape)
            if self._offsets[-1]:
                length = (int(self._offsets[-1]),)
                self._text = _flat(path / f"captions-{split}.bin", np.dtype(np.uint8), length)
            if factors:
                known = (self._n, factors)
                self._labels = _flat(path / f"labels-{split}.bin", np.dtype("<i8"), known)

    def __len__(self) -> int:
        return self._n

    def pictures(self, indices: Numbers) -> Pixels:
        return np.ascontiguousarray(self._pixels[indices])

    def captions(self, indices: Numbers) -> list[str]:
        bounds = ((int(self._offsets[i]), int(self._offsets[i + 1])) for i in indices)
        return [self._text[start:end].tobytes().decode() for start, end in bounds]

    def labels(self, indices: Numbers) -> Numbers | None:
        return None if self._labels is None else np.asarray(self._labels[indices], np.int64)


def _flat(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    wanted = int(np.prod(shape)) * dtype.itemsize
    if not path.exists() or path.stat().st_size != wanted:
        raise UserError(
            f"{path} is missing or has not the {wanted:,} bytes of the manifest: rebuild"
        )
    return np.memmap(path, dtype, mode="r", shape=shape)


def open_pictures(name: str, world: World | None = None) -> PictureCorpus:
    """The corpus of a folder, or of a world: its folder in Maquette's home is made when absent."""
    if world is None:
        if not Path(name).expanduser().exists():
            raise UserError(
                f"there is no corpus {name}: name a folder built by maquette corpus pictures, or a "
                f"world{did_you_mean(Path(name).name, world_names())}"
            )
        return PictureCorpus(name)
    known = described(world)
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    path = home() / f"worlds-{FORMAT}" / f"{name}-{digest[:16]}"
    if not (path / MANIFEST).exists():
        with lock(path.with_name(f".{path.name}.lock")):
            if not (path / MANIFEST).exists():
                _describe(path, known, digest, world)
    return PictureCorpus(path)


def _describe(path: Path, known: dict[str, Any], digest: str, world: World) -> None:
    """Write the manifest and tokenizer of a world; every word is a token, alone and after a space."""
    words = world.words()
    room = BYTES + 1 + 2 * sum(map(len, words))
    tokenizer = train_tokenizer([*words, *(f" {word}" for word in words)] * 4, room, or_fewer=True)
    with directory_aside(path) as folder:
        save_tokenizer(tokenizer, folder / TOKENIZER)
        write_json(
            folder / MANIFEST,
            {
                "kind": "world",
                "format": FORMAT,
                "hash": digest,
                "world": known,
                "label_names": world.label_names(),
                "label_sizes": world.label_sizes(),
                "splits": {},
            },
        )
