"""Build a corpus: read, choose, learn a tokenizer, encode, put together.

    reading       every part of the sources, cleaned, into the workspace        (scratch.py)
    choosing      exact and near-duplicates, evaluation sets, repeated stretches (choose.py)
    tokenizer     learned from a uniform sample of the training documents, or given
    encoding      every part to tokens                                           (encode.py)
    assembling    one stream for each split, the table of documents, the portrait, the locator

The result depends on the documents and the options alone: not on the number of workers, not on the
engine, not on the time. The workspace `.NAME.building` stands beside the corpus until it is done; a
build of files that was killed goes on from what is finished there, to the same corpus.
"""

import dataclasses
import hashlib
import heapq
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, lock, read_json, write_atomic, write_json
from maquette.base.machine import cores
from maquette.corpus.assemble import assemble
from maquette.corpus.choose import Choice, choose
from maquette.corpus.document import Source
from maquette.corpus.encode import (
    DROP,
    TO_BOTH,
    TO_HELDOUT,
    TO_TRAIN,
    EncodeTask,
    divided,
    encode_part,
)
from maquette.corpus.engine import Engine, Pool
from maquette.corpus.overlap import N, word_count
from maquette.corpus.progress import Progress, silent
from maquette.corpus.scratch import PART, SKIPS_NAMED, ReadTask, Scratch, read_part
from maquette.corpus.store import MANIFEST, SPLITS, TOKENIZER, Corpus
from maquette.corpus.tasks import read_tasks
from maquette.corpus.tokenizer import (
    BYTES,
    DIGITS,
    Tokenizer,
    digest,
    for_documents,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

if TYPE_CHECKING:
    from maquette.corpus.mixture import Mixture

PART_BYTES = 16 << 20  # of the files that one worker reads at a time
SAMPLE_BYTES = 32 << 20  # of text the tokenizer learns from
TRAIN = SPLITS[0]
OPTIONS = "options.json"


@dataclass(frozen=True)
class Options:
    """What a corpus depends on, besides its documents."""

    vocabulary: int
    digits: int
    or_fewer: bool
    heldout: float
    split: str
    clean: tuple[str, ...]
    near: float | None
    evaluation: tuple[str, ...]
    evaluation_field: str | None
    substrings: int | None
    portrait: bool
    locator: bool


@dataclass
class _Build:
    """One build: where it works, and what it has learned."""

    workspace: Path
    options: Options
    mixture: "Mixture | None"
    pool: Pool
    progress: Progress
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: list[dict[str, str]] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)


def build(
    out: Path,
    source: Source,
    *,
    vocabulary: int = 8192,
    digits: int = DIGITS,
    or_fewer: bool = False,
    heldout: float = 0.02,
    split: str = "hash",
    clean: Sequence[str] = (),
    near: float | None = None,
    evaluation: Sequence[str] = (),
    evaluation_field: str | None = None,
    substrings: int | None = None,
    portrait: bool = False,
    locator: bool = False,
    mixture: "Mixture | None" = None,
    tokenizer: Tokenizer | None = None,
    workers: int | None = None,
    engine: Engine = "local",
    replace: bool = False,
    progress: Progress = silent,
) -> Corpus:
    """Read `source` and write the corpus `out`.

    vocabulary: symbols of the byte-pair tokenizer to train (257: plain bytes), unless a
    `tokenizer` is given; digits: of a number in one symbol; or_fewer: so many at most, where the text
    supports fewer. heldout: the fraction held out for evaluation. split: "hash" holds out whole
    documents, chosen by the hash of their text; "tail" holds out the end of each document. A corpus
    whose documents are too few for "hash" takes "tail". clean: rules of `clean.py`. near: drop what
    has at least this Jaccard similarity with an earlier document. evaluation: files whose 13-grams
    are cut out; evaluation_field: the field of their records that holds the text. substrings: cut what
    repeats an earlier stretch of at least so many bytes. portrait, locator: write these beside the
    tokens. mixture: how often each component is repeated. workers: processes.
    Raises UserError where there is no text or too little of it for the vocabulary, or where the
    tokenizer names no end of a document.
    """
    out = out.absolute()  # a worker elsewhere may stand in another folder
    evaluation = [str(Path(path).expanduser().absolute()) for path in evaluation]
    if out.exists() and not (replace and (out / MANIFEST).exists()):
        how = "pass --replace to build it again" if (out / MANIFEST).exists() else "it is no corpus"
        raise WrongUse(f"{out} exists: choose another folder ({how})")
    if not 0 < heldout < 1:
        raise WrongUse(f"heldout is {heldout}: use a fraction between 0 and 1, such as 0.02")
    if near is not None and not 0.5 <= near <= 1:
        raise WrongUse(f"near is {near}: use a Jaccard similarity of 0.5 to 1, such as 0.8, or off")
    if tokenizer is None and not BYTES < vocabulary < 1 << 31:
        raise WrongUse(f"vocabulary is {vocabulary}: use {BYTES + 1} (plain bytes) or more")
    if tokenizer is not None:
        tokenizer = for_documents(tokenizer)
    if substrings is not None and substrings < 16:
        raise WrongUse(f"substrings is {substrings}: use 16 bytes or more, such as 100")
    if not 1 <= digits <= 9:
        raise WrongUse(f"digits is {digits}: use 1 (each by itself) to 9")
    if clean:
        from maquette.corpus.clean import rules_named

        rules_named(tuple(clean))  # refuses an unknown one before anything is read
    if workers is not None and workers < 1:
        raise WrongUse(f"workers is {workers}: use 1 or more")
    options = Options(
        vocabulary, digits, or_fewer, heldout, split, tuple(clean), near, tuple(evaluation),
        evaluation_field, substrings, portrait, locator,
    )  # fmt: skip
    with (
        _workspace(out, source, options, mixture, tokenizer) as workspace,
        Pool(workers or cores(), engine) as pool,
    ):
        one = _Build(workspace, options, mixture, pool, progress)
        scratch = _read(one, source)
        choice = _choose(one, scratch)
        where = _divide(one, scratch, choice)
        used = _tokenizer(one, scratch, choice, where, tokenizer)
        encoded, dtype = _encode(one, scratch, choice, where, used)
        with directory_aside(out) as folder:
            save_tokenizer(used, folder / TOKENIZER)
            read = {
                "options": dataclasses.asdict(options),
                "clean": _rules(options, mixture),
                "not_english": dict(one.foreign.most_common()),
                "evaluation": _evaluation(options),
                "skipped": sum(one.reasons.values()),
                "skipped_reasons": dict(one.reasons.most_common()),
                "skipped_named": one.skipped,
            }
            made = assemble(
                folder, workspace, scratch, choice, where, encoded, used, dtype,
                heldout=heldout, mixture=mixture, signatures=near is not None, portrait=portrait,
                locator=locator, progress=progress,
            )  # fmt: skip
            write_json(folder / MANIFEST, made | read)
    return Corpus(out)


@contextmanager
def _workspace(
    out: Path,
    source: Source,
    options: Options,
    mixture: "Mixture | None",
    tokenizer: Tokenizer | None,
) -> Iterator[Path]:
    """The folder a build works in. It outlives a failed build where the sources can be known again."""
    path = out.with_name(f".{out.name}.building")
    fingerprint: Callable[[], str] | None = getattr(source, "fingerprint", None)
    examples = read_tasks(options.evaluation, options.evaluation_field)
    known = {
        "source": fingerprint() if fingerprint else None,
        "options": dataclasses.asdict(options),
        "mixture": mixture.to_dict() if mixture else None,
        "tokenizer": [digest(tokenizer), tokenizer.end] if tokenizer else None,
        "evaluation": hashlib.sha256(repr(examples).encode("utf-8", "replace")).hexdigest(),
    }
    identity = json.dumps(known, indent=1)
    with lock(path / ".lock", busy=f"another process is building {out}: wait for it"):
        kept = (path / OPTIONS).read_text(encoding="utf-8") if (path / OPTIONS).exists() else None
        if kept != identity or fingerprint is None:
            (path / OPTIONS).unlink(
                missing_ok=True
            )  # first: what is half wiped is not gone on from
            for entry in path.iterdir():
                if entry.name != ".lock":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            write_atomic(path / OPTIONS, identity)
        try:
            yield path
        except BaseException:
            if fingerprint is None:
                shutil.rmtree(path)
            raise
        (path / OPTIONS).unlink()
        shutil.rmtree(path)


def _read(one: _Build, source: Source) -> Scratch:
    """The first stage: every part of the sources."""
    parts: Callable[[int], list[Source]] | None = getattr(source, "parts", None)
    sources = parts(PART_BYTES) if parts else [source]
    clean = _rules(one.options, one.mixture)
    near = one.options.near is not None
    tasks = [
        ReadTask(one.workspace / "read" / f"{n:05d}", part, clean, near)
        for n, part in enumerate(sources)
    ]
    read = 0
    size = getattr(source, "size", math.inf)
    for counts in one.pool.each(read_part, tasks, size):
        read += counts["bytes"]
        for skipped in counts["skipped_named"]:
            if len(one.skipped) < SKIPS_NAMED or skipped["reason"] not in one.reasons:
                one.skipped.append(skipped)
            one.reasons[skipped["reason"]] += 0  # it has an example now
        one.reasons.update(counts["skipped_reasons"])
        one.foreign.update(counts["foreign"])
        one.progress("reading", read, None)
    scratch = Scratch([task.folder for task in tasks])
    if not len(scratch):
        raise UserError(_nothing(one, tasks))
    return scratch


def _evaluation(options: Options) -> dict[str, dict[str, int]]:
    """How many examples each evaluation set has, and how many are too short to be looked for."""
    return {
        name: {"examples": len(texts), "too_short": sum(word_count(text) < N for text in texts)}
        for name, texts in read_tasks(options.evaluation, options.evaluation_field).items()
    }


def _rules(options: Options, mixture: "Mixture | None") -> dict[str, tuple[str, ...]]:
    """The cleaning rules of each component, and of every other one under ""."""
    own = {c.name: tuple(c.clean) for c in mixture.components if c.clean} if mixture else {}
    return {"": options.clean} | own


def _choose(one: _Build, scratch: Scratch) -> Choice:
    """The second stage: which documents stay, and what of them."""
    choice = choose(
        scratch,
        one.workspace,
        near=one.options.near,
        evaluation=one.options.evaluation,
        evaluation_field=one.options.evaluation_field,
        substrings=one.options.substrings,
        pool=one.pool,
        progress=one.progress,
    )
    if not len(choice.kept):
        raise UserError("no document is left: ask for less cleaning, or name other evaluation sets")
    return choice


def _divide(one: _Build, scratch: Scratch, choice: Choice) -> npt.NDArray[np.uint8]:
    """Where each document goes. (documents,)"""
    where = np.full(len(scratch), DROP, np.uint8)
    kept = choice.kept
    digests = (choice.digests.get(int(i), scratch.digests[i]) for i in kept)
    held = np.array([_key(digest) < one.options.heldout for digest in digests])
    tail = one.options.split == "tail" or not 0 < held.sum() < len(kept)
    where[kept] = TO_BOTH if tail else np.where(held, TO_HELDOUT, TO_TRAIN)
    return where


def _key(digest: bytes) -> float:
    """A document's place in [0, 1), drawn by its text."""
    return int.from_bytes(digest[:8], "big") / 2**64


def _tokenizer(
    one: _Build,
    scratch: Scratch,
    choice: Choice,
    where: npt.NDArray[np.uint8],
    given: Tokenizer | None,
) -> Tokenizer:
    """The third stage. The sample is the training texts with the smallest hashes: uniform, fixed."""
    path = one.workspace / TOKENIZER
    if given is not None:
        save_tokenizer(given, path)
        return given
    if path.exists():
        return load_tokenizer(path)
    one.progress("tokenizer", 0, None)
    smallest: list[tuple[int, int]] = []  # a heap, the largest hash on top
    sampled = 0
    for document in np.flatnonzero((where == TO_TRAIN) | (where == TO_BOTH)).tolist():
        digest = choice.digests.get(document, scratch.digests[document])
        key = int(_key(digest) * 2**64)
        heapq.heappush(smallest, (-key, document))
        sampled += int(scratch.sizes[document])
        while sampled > SAMPLE_BYTES and len(smallest) > 1:
            sampled -= int(scratch.sizes[heapq.heappop(smallest)[1]])
    chosen = [document for _, document in sorted(smallest, reverse=True)]
    texts = (
        text.decode()
        for i in chosen
        for split, text in divided(choice.text(scratch, i), int(where[i]), one.options.heldout)
        if split == TRAIN
    )
    trained = train_tokenizer(
        texts, one.options.vocabulary, one.options.or_fewer, one.options.digits
    )
    save_tokenizer(trained, path)
    one.progress("tokenizer", sampled, sampled)
    return trained


def _encode(
    one: _Build,
    scratch: Scratch,
    choice: Choice,
    where: npt.NDArray[np.uint8],
    tokenizer: Tokenizer,
) -> tuple[list[Path], str]:
    """The fourth stage; returns the encoded parts and the type of their tokens."""
    dtype = "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32"
    bounds = list(zip(scratch.firsts[:-1].tolist(), scratch.firsts[1:].tolist(), strict=True))
    tasks = [
        EncodeTask(
            one.workspace / "encoded" / part.name,
            part,
            one.workspace / TOKENIZER,
            dtype,
            where[first:last],
            {i - first: choice.cuts[i] for i in range(first, last) if i in choice.cuts},
            one.options.heldout,
            one.pool.workers if len(bounds) == 1 else 1,
        )
        for part, (first, last) in zip(scratch.parts, bounds, strict=True)
    ]
    total = sum(len(choice.text(scratch, int(i))) if int(i) in choice.cuts else
                int(scratch.sizes[i]) for i in choice.kept)  # fmt: skip
    done = 0
    for size in one.pool.each(encode_part, tasks, total):
        done += size
        one.progress("encoding", done, total)
    return [task.folder for task in tasks], dtype


def _nothing(one: _Build, tasks: list[ReadTask]) -> str:
    dropped = sum(read_json(t.folder / PART)["dropped"] for t in tasks)
    if dropped:
        return f"cleaning left nothing of {dropped:,} documents: ask for fewer rules with --clean"
    if not one.reasons:
        return "no files found: name a folder that holds text, code or .jsonl files"
    reasons = ", ".join(f"{count} {reason}" for reason, count in one.reasons.most_common(4))
    example = one.skipped[0]["source"]
    return f"no text found ({reasons}; {example} for one): name a folder that holds UTF-8 text"
