"""A corpus of examples on disk, opened for reading: tokens and their loss mask.

manifest.json       what it is: template, counts, files with checksums, the corpus hash
tokenizer.json      in the Hugging Face format; special_tokens.json beside a foreign one
tokens-SPLIT.bin    examples one after the other; SPLIT is train or heldout
counted-SPLIT.bin   the loss mask: a byte a token, 1 where the loss counts it
offsets-SPLIT.bin   where each example begins, int64, and at last the end
examples.parquet    a row per example, in the order of each split's: split, prompt, answer, rejected,
                    choices, answer_index, history, source, licence, sha256, tokens, counted
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError
from maquette.base.files import read_json
from maquette.corpus.checksums import check_files
from maquette.corpus.examples.example import Example
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.store import MANIFEST, SPLITS, TOKENIZER
from maquette.corpus.tokenizer import Tokenizer, load_tokenizer

KIND, FORMAT = "examples", 2
EXAMPLES_TABLE = "examples.parquet"


class ExampleSplit:
    """The examples of one split, by number."""

    def __init__(
        self,
        tokens: npt.NDArray[Any],
        counted: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
    ) -> None:
        self.tokens, self.counted, self.offsets = tokens, counted, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each example, (examples,)."""
        lengths: npt.NDArray[np.int64] = np.diff(self.offsets)
        return lengths

    def read(self, number: int, most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The first `most` tokens of an example, and their loss mask."""
        start = int(self.offsets[number])
        end = min(int(self.offsets[number + 1]), start + most)
        return self.tokens[start:end].astype(np.int64), self.counted[start:end].astype(np.bool_)


class ExamplesCorpus:
    """An opened corpus of examples. Raises UserError when the folder is not one, or is damaged."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        manifest = self.path / MANIFEST
        if not manifest.exists():
            raise UserError(
                f"{path} is not a corpus (no {MANIFEST}): "
                f"build one with maquette corpus examples {path} SOURCE"
            )
        self.manifest: dict[str, Any] = read_json(manifest)
        if self.manifest.get("kind") != KIND:
            raise UserError(
                f"{path} is a corpus of {self.manifest.get('kind', 'text')}: name one of examples, "
                "built with maquette corpus examples"
            )
        if self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{path} is a corpus of format {self.manifest.get('format')}, this Maquette reads "
                f"format {FORMAT}: build it again with maquette corpus examples"
            )

    @property
    def hash(self) -> str:
        """Identity of the tokens, the loss mask, the offsets and the tokenizer."""
        return str(self.manifest["hash"])

    @property
    def vocabulary(self) -> int:
        return int(self.manifest["vocabulary"])

    @property
    def eos_token_id(self) -> int:
        """The token id that ends an answer."""
        return int(self.manifest["eos_token_id"])

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.path / TOKENIZER)

    @functools.cached_property
    def train(self) -> ExampleSplit:
        return self._split(SPLITS[0])

    @functools.cached_property
    def heldout(self) -> ExampleSplit:
        return self._split(SPLITS[1])

    def examples(self, split: str) -> list[Example]:
        """The examples of a split, in its order."""
        import pyarrow.parquet as pq

        rows = pq.read_table(self.path / EXAMPLES_TABLE, filters=[("split", "=", split)])
        return [
            Example(
                row["prompt"],
                row["answer"],
                row["rejected"],
                tuple(row["choices"]),
                row["answer_index"],
                tuple((turn["prompt"], turn["answer"]) for turn in row["history"]),
                row["source"],
                licence=row.get("licence") or "",
            )
            for row in rows.to_pylist()
        ]

    def check(self, progress: Progress = silent) -> int:
        """Hash all files; returns their bytes. Raises UserError for one that is damaged."""
        return check_files(self.path, self.manifest["files"], progress)

    def _split(self, split: str) -> ExampleSplit:
        count = self.manifest["splits"][split]
        size, dtype = int(count["tokens"]), np.dtype(self.manifest["dtype"])
        tokens = self._read(f"tokens-{split}.bin", dtype, size)
        counted = self._read(f"counted-{split}.bin", np.dtype(np.uint8), size)
        offsets = self._read(f"offsets-{split}.bin", np.dtype(np.int64), int(count["examples"]) + 1)
        return ExampleSplit(tokens, counted, np.asarray(offsets))

    def _read(self, name: str, dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
        path = self.path / name
        if not path.exists() or path.stat().st_size != size * dtype.itemsize:
            raise UserError(f"{path} is missing or damaged: build the corpus again")
        return np.memmap(path, dtype=dtype, mode="r", shape=(size,))
