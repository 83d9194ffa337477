"""Build a corpus of examples: read, leave out duplicates, hold some out, encode with the loss mask, write.

The result depends on the sources and the options alone. An example is held out by the hash of its prompt:
it keeps its side when the sources grow, and two answers to one prompt stand on one side. Where chance holds
none out, the prompt that came nearest is. The corpus is built aside and stands whole or not at all; memory
holds 32 bytes an example. Left out: near-duplicates (a template's words would make all alike), and going
on from a build that was killed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, lock, sha256, write_json
from maquette.corpus.examples.chat_template import template_of
from maquette.corpus.examples.example import COUNT, Example, read_examples
from maquette.corpus.examples.pairs import corpus_pairs
from maquette.corpus.examples.store import EXAMPLES_TABLE, FORMAT, KIND, ExamplesCorpus
from maquette.corpus.examples.template import ConversationTemplate, Template, encode
from maquette.corpus.progress import Progress, silent
from maquette.corpus.terms import Licences, Term, terms_of_manifest
from maquette.corpus.text.store import MANIFEST, SPLITS, TOKENIZER, Corpus
from maquette.corpus.tokenizer import Tokenizer, save_tokenizer

ROWS = 4096  # of the table that are written at a time
TRAIN, HELDOUT = SPLITS


def build_examples(
    out: Path,
    sources: Sequence[str | Path | Example],
    tokenizer: Tokenizer,
    *,
    template: str = Template.text,
    fields: Mapping[str, str] | None = None,
    count: int = COUNT,
    heldout: float = 0.05,
    terms: Sequence[str | Term] = (),
    replace: bool = False,
    progress: Progress = silent,
) -> ExamplesCorpus:
    """Read the examples of `sources` and write the corpus `out`.

    sources: see `read_examples`; of a corpus of text, `corpus_pairs`; or examples themselves.

    tokenizer: tokenizer of the model to train. template: see `template_of`. fields: fields of the records, by
    the part of an example. heldout: the fraction of the prompts that is held out for evaluation. terms: terms
    that all sources are under (`corpus/terms.py`), beside those that corpora among them keep. Raises
    UserError for a record that is no example and for examples of fewer than two prompts.
    """
    out = out.absolute()
    if out.exists() and not (replace and (out / MANIFEST).exists()):
        how = "pass --replace to build it again" if (out / MANIFEST).exists() else "it is no corpus"
        raise WrongUse(f"{out} exists: choose another folder ({how})")
    if not 0 < heldout < 1:
        raise WrongUse(f"heldout is {heldout}: use a fraction between 0 and 1, such as 0.05")
    written = template_of(template, tokenizer)
    terms = [
        *terms,
        *(term for one in _corpora(sources) for term in terms_of_manifest(one.manifest)),
    ]
    locked = out.with_name(f".{out.name}.lock")
    with lock(locked, busy=f"another process is building {out}: wait for it"):
        try:
            with directory_aside(out) as folder:
                save_tokenizer(tokenizer, folder / TOKENIZER)
                limit = int(heldout * 2**64)
                for _ in range(2):
                    with _Writer(folder, tokenizer, written, limit, terms) as writer:
                        for example in _read(sources, fields, count):
                            writer.add(example)
                            progress("examples", writer.bytes, None)
                    if all(side["examples"] for side in writer.sides.values()):
                        break
                    limit = writer.nearest + 1
                else:
                    raise UserError(
                        "there are examples of fewer than two prompts, and one must be held out: add others"
                    )
                made = writer.manifest() | {
                    "kind": KIND,
                    "format": FORMAT,
                    "vocabulary": tokenizer.vocabulary,
                    "eos_token_id": tokenizer.eos_token_id,
                    "template": written.text,
                    "fields": dict(fields or {}),
                    "heldout": heldout,
                    "sources": [
                        str(source) for source in sources if not isinstance(source, Example)
                    ],
                }
                names = sorted(p.name for p in folder.iterdir())
                made["files"] = {name: sha256(folder / name) for name in names}
                made["hash"] = _hash(made["files"], writer.rejected.hexdigest())
                write_json(folder / MANIFEST, made)
        finally:
            locked.unlink(missing_ok=True)
    return ExamplesCorpus(out)


def _corpora(sources: Sequence[str | Path | Example]) -> list[Corpus]:
    """The corpora of text among the sources."""
    paths = [Path(source).expanduser() for source in sources if not isinstance(source, Example)]
    return [Corpus(path) for path in paths if (path / MANIFEST).exists()]


def _read(
    sources: Sequence[str | Path | Example], fields: Mapping[str, str] | None, count: int
) -> Iterator[Example]:
    """The examples of all sources, in their order."""
    for source in sources:
        if isinstance(source, Example):
            yield source
        elif (Path(source).expanduser() / MANIFEST).exists():
            yield from corpus_pairs(Corpus(source), count)  # refuses one of another kind
        else:
            yield from read_examples([source], fields, count)


def _hash(files: Mapping[str, str], rejected: str) -> str:
    """Hash of the training data; the table is left out, as its bytes depend on the library.

    rejected: hash of the rejected answers, which are in the table alone.
    """
    known = {n: digest for n, digest in files.items() if n != EXAMPLES_TABLE}
    if rejected != hashlib.sha256().hexdigest():
        known["rejected"] = rejected
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


class _Writer:
    """Writes the files of both splits, example by example.

    limit: prompts whose hash, a number below 2^64, is less are held out. nearest: the smallest hash.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        template: ConversationTemplate,
        limit: int,
        terms: Sequence[str | Term],
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        exchange = pa.struct([("prompt", pa.string()), ("answer", pa.string())])
        self._schema = pa.schema(
            [
                ("split", pa.string()),
                ("prompt", pa.string()),
                ("answer", pa.string()),
                ("rejected", pa.string()),
                ("choices", pa.list_(pa.string())),
                ("answer_index", pa.int32()),
                ("history", pa.list_(exchange)),
                ("source", pa.string()),
                ("licence", pa.string()),
                ("sha256", pa.binary(32)),
                ("tokens", pa.int64()),
                ("counted", pa.int64()),
            ]
        )
        self._tokenizer, self._template, self._limit = tokenizer, template, limit
        self._dtype = "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"
        self._table = pq.ParquetWriter(folder / EXAMPLES_TABLE, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._files = {
            (array, split): (folder / f"{array}-{split}.bin").open("wb")
            for array in ("tokens", "counted", "offsets")
            for split in SPLITS
        }
        self._digests: set[bytes] = set()
        self._licences = Licences(terms)
        self.sides = {split: {"examples": 0, "tokens": 0, "counted": 0} for split in SPLITS}
        self.duplicates = self.bytes = self.longest = 0
        self.nearest = 2**64
        self.rejected = hashlib.sha256()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._write_rows()
        self._table.close()
        for split in SPLITS:
            self._write_offset(split)
        for file in self._files.values():
            file.close()

    def add(self, example: Example) -> None:
        """Write an example, unless it is a duplicate."""
        digest = example.digest()
        if digest in self._digests:
            self.duplicates += 1
            return
        self._digests.add(digest)
        held = example.heldout
        if held is None:
            key = int.from_bytes(example.prompt_digest()[:8], "big")
            self.nearest = min(self.nearest, key)
            held = key < self._limit
        split = HELDOUT if held else TRAIN
        if example.rejected is not None:
            self.rejected.update(digest)
        tokens, counted = encode(example, self._template, self._tokenizer)
        self._write_offset(split)
        self._files["tokens", split].write(tokens.astype(self._dtype).tobytes())
        self._files["counted", split].write(counted.tobytes())
        size = {"tokens": len(tokens), "counted": int(counted.sum())}
        for name, more in (size | {"examples": 1}).items():
            self.sides[split][name] += more
        self.bytes += sum(len(text.encode()) for pair in example.exchanges for text in pair)
        self.longest = max(self.longest, len(tokens))
        self._licences.add(example.licence, example.source)
        self._rows.append(
            size
            | {
                "split": split,
                "prompt": example.prompt,
                "answer": example.answer,
                "rejected": example.rejected,
                "choices": example.choices,
                "answer_index": example.answer_index,
                "history": [{"prompt": p, "answer": a} for p, a in example.history],
                "source": example.source,
                "licence": example.licence,
                "sha256": digest,
            }
        )
        if len(self._rows) >= ROWS:
            self._write_rows()

    def manifest(self) -> dict[str, Any]:
        """The manifest's part on the examples, when all are written."""
        total = {name: sum(side[name] for side in self.sides.values()) for name in ("examples",
                 "tokens", "counted")}  # fmt: skip
        return (
            total
            | self._licences.manifest()
            | {
                "splits": self.sides,
                "bytes": self.bytes,
                "longest": self.longest,
                "duplicates_removed": self.duplicates,
                "dtype": self._dtype,
            }
        )

    def _write_offset(self, split: str) -> None:
        offset = np.array([self.sides[split]["tokens"]], np.int64)
        self._files["offsets", split].write(offset.tobytes())

    def _write_rows(self) -> None:
        import pyarrow as pa

        self._table.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
