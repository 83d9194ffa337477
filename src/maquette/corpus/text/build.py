"""Build a corpus: read, choose, learn a tokenizer, encode, put together.

    reading       every part of the sources, cleaned, into the workspace (scratch.py)
    choosing      duplicates, evaluation sets and repeated stretches left out (document_selection.py)
    tokenizer     learned from a uniform sample of the training documents, or given
    encoding      every part to tokens (encode.py)
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import directory_aside, lock, read_json, write_atomic, write_json
from maquette.base.machine import cores
from maquette.corpus.document import Source
from maquette.corpus.progress import Progress, silent
from maquette.corpus.tasks import read_tasks
from maquette.corpus.text.assemble import assemble
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.document_selection import Choice, choose
from maquette.corpus.text.encode import (
    DROP,
    TO_BOTH,
    TO_HELDOUT,
    TO_TRAIN,
    EncodeTask,
    divided,
    encode_part,
    token_dtype,
)
from maquette.corpus.text.overlap import N, word_count
from maquette.corpus.text.scratch import PART, SKIPS_NAMED, ReadTask, Scratch, read_part
from maquette.corpus.text.store import MANIFEST, SPLITS, TOKENIZER, Corpus
from maquette.corpus.tokenizer import (
    Tokenizer,
    digest,
    for_documents,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from maquette.corpus.worker_pool import Engine, Pool

if TYPE_CHECKING:
    from maquette.corpus.text.mixture import Mixture

PART_BYTES = 16 << 20  # of the files that one worker reads at a time
SAMPLE_BYTES = 32 << 20  # of text the tokenizer learns from
TRAIN = SPLITS[0]
OPTIONS = "options.json"


@dataclass
class _Build:
    """State of one build: its workspace and results."""

    workspace: Path
    options: BuildOptions
    mixture: "Mixture | None"
    pool: Pool
    progress: Progress
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: list[dict[str, str]] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)


def build(
    out: Path,
    source: Source,
    options: BuildOptions,
    *,
    tokenizer: Tokenizer | None = None,
    workers: int | None = None,
    engine: Engine = "local",
    replace: bool = False,
    progress: Progress = silent,
) -> Corpus:
    """Read `source` and write the corpus `out`.

    tokenizer: the tokenizer to encode with, in the place of one that is trained. workers: number of
    processes (None: one for each core). engine: processes of this machine, or Ray's. replace: whether an
    existing corpus is built again. Raises UserError where there is no text or too little of it for the
    vocabulary, or where the tokenizer has no EOS token.
    """
    out = out.absolute()  # a worker elsewhere may stand in another folder
    if out.exists() and not (replace and (out / MANIFEST).exists()):
        how = "pass --replace to build it again" if (out / MANIFEST).exists() else "it is no corpus"
        raise WrongUse(f"{out} exists: choose another folder ({how})")
    if tokenizer is not None:
        tokenizer = for_documents(tokenizer)
    if workers is not None and workers < 1:
        raise WrongUse(f"workers is {workers}: use 1 or more")
    mixture: Mixture | None = getattr(source, "mixture", None)
    with (
        _workspace(out, source, options, mixture, tokenizer) as workspace,
        Pool(workers or cores(), engine) as pool,
    ):
        job = _Build(workspace, options, mixture, pool, progress)
        scratch = _read(job, source)
        choice = choose(scratch, workspace, options, pool, progress)
        where = _divide(job, scratch, choice)
        used = _tokenizer(job, scratch, choice, where, tokenizer)
        encoded = _encode(job, scratch, choice, where, used)
        with directory_aside(out) as folder:
            save_tokenizer(used, folder / TOKENIZER)
            read = {
                "options": dataclasses.asdict(options),
                "clean": _rules(options, mixture),
                "not_english": dict(job.foreign.most_common()),
                "evaluation": _evaluation(options),
                "skipped": sum(job.reasons.values()),
                "skipped_reasons": dict(job.reasons.most_common()),
                "skipped_named": job.skipped,
            }
            made = assemble(
                folder, workspace, scratch, choice, where, encoded, used, options, mixture, progress
            )
            write_json(folder / MANIFEST, made | read)
    return Corpus(out)


@contextmanager
def _workspace(
    out: Path,
    source: Source,
    options: BuildOptions,
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
        "tokenizer": [digest(tokenizer), tokenizer.eos_token_id] if tokenizer else None,
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


def _read(job: _Build, source: Source) -> Scratch:
    """The first stage: every part of the sources."""
    parts: Callable[[int], list[Source]] | None = getattr(source, "parts", None)
    sources = parts(PART_BYTES) if parts else [source]
    clean = _rules(job.options, job.mixture)
    near = job.options.near is not None
    tasks = [
        ReadTask(job.workspace / "read" / f"{n:05d}", part, clean, near)
        for n, part in enumerate(sources)
    ]
    read = 0
    size = getattr(source, "size", math.inf)
    for counts in job.pool.each(read_part, tasks, size):
        read += counts["bytes"]
        for skipped in counts["skipped_named"]:
            if len(job.skipped) < SKIPS_NAMED or skipped["reason"] not in job.reasons:
                job.skipped.append(skipped)
            job.reasons[skipped["reason"]] += 0  # it has an example now
        job.reasons.update(counts["skipped_reasons"])
        job.foreign.update(counts["foreign"])
        job.progress("reading", read, None)
    scratch = Scratch([task.folder for task in tasks])
    if not len(scratch):
        raise UserError(_nothing(job, tasks))
    return scratch


def _evaluation(options: BuildOptions) -> dict[str, dict[str, int]]:
    """Number of examples of each evaluation set, and of those too short to search for."""
    return {
        name: {"examples": len(texts), "too_short": sum(word_count(text) < N for text in texts)}
        for name, texts in read_tasks(options.evaluation, options.evaluation_field).items()
    }


def _rules(options: BuildOptions, mixture: "Mixture | None") -> dict[str, tuple[str, ...]]:
    """The cleaning rules of each component, and of every other one under ""."""
    own = {c.name: tuple(c.clean) for c in mixture.components if c.clean} if mixture else {}
    return {"": options.clean} | own


def _divide(job: _Build, scratch: Scratch, choice: Choice) -> npt.NDArray[np.uint8]:
    """The split of each document, (documents,)."""
    where = np.full(len(scratch), DROP, np.uint8)
    kept = choice.kept
    digests = (choice.digests.get(int(i), scratch.digests[i]) for i in kept)
    held = np.array([_key(digest) < job.options.heldout for digest in digests])
    tail = job.options.split == "tail" or not 0 < held.sum() < len(kept)
    where[kept] = TO_BOTH if tail else np.where(held, TO_HELDOUT, TO_TRAIN)
    return where


def _key(digest: bytes) -> float:
    """A number in [0, 1) for a document, by the hash of its text."""
    return int.from_bytes(digest[:8], "big") / 2**64


def _tokenizer(
    job: _Build,
    scratch: Scratch,
    choice: Choice,
    where: npt.NDArray[np.uint8],
    tokenizer: Tokenizer | None,
) -> Tokenizer:
    """The third stage: train the tokenizer on the training texts with the smallest hashes."""
    path = job.workspace / TOKENIZER
    if tokenizer is not None:
        save_tokenizer(tokenizer, path)
        return tokenizer
    if path.exists():
        return load_tokenizer(path)
    job.progress("tokenizer", 0, None)
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
        for split, text in divided(choice.text(scratch, i), int(where[i]), job.options.heldout)
        if split == TRAIN
    )
    trained = train_tokenizer(
        texts, job.options.vocabulary, job.options.or_fewer, job.options.digits
    )
    save_tokenizer(trained, path)
    job.progress("tokenizer", sampled, sampled)
    return trained


def _encode(
    job: _Build,
    scratch: Scratch,
    choice: Choice,
    where: npt.NDArray[np.uint8],
    tokenizer: Tokenizer,
) -> list[Path]:
    """The fourth stage: every part as tokens; returns the folders of the encoded parts."""
    bounds = list(zip(scratch.firsts[:-1].tolist(), scratch.firsts[1:].tolist(), strict=True))
    tasks = [
        EncodeTask(
            job.workspace / "encoded" / part.name,
            part,
            job.workspace / TOKENIZER,
            token_dtype(tokenizer),
            where[first:last],
            {i - first: choice.cuts[i] for i in range(first, last) if i in choice.cuts},
            job.options.heldout,
            job.pool.workers if len(bounds) == 1 else 1,
        )
        for part, (first, last) in zip(scratch.parts, bounds, strict=True)
    ]
    total = sum(len(choice.text(scratch, int(i))) if int(i) in choice.cuts else
                int(scratch.sizes[i]) for i in choice.kept)  # fmt: skip
    done = 0
    for size in job.pool.each(encode_part, tasks, total):
        done += size
        job.progress("encoding", done, total)
    return [task.folder for task in tasks]


def _nothing(job: _Build, tasks: list[ReadTask]) -> str:
    dropped = sum(read_json(t.folder / PART)["dropped"] for t in tasks)
    if dropped:
        return f"cleaning left nothing of {dropped:,} documents: ask for fewer rules with --clean"
    if not job.reasons:
        return "no files found: name a folder that holds text, code or .jsonl files"
    reasons = ", ".join(f"{count} {reason}" for reason, count in job.reasons.most_common(4))
    example = job.skipped[0]["source"]
    return f"no text found ({reasons}; {example} for one): name a folder that holds UTF-8 text"
