"""Audit of a run: how much of its samples is verbatim training text, for the report.

`audit.json` holds the portrait with a passage that was trained on and one that was held out, the
trace of a sample, and how much of what the model writes is verbatim.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maquette.audit.index import open_index
from maquette.audit.member import member
from maquette.audit.memorised import memorised
from maquette.audit.trace import VERBATIM_BYTES, trace
from maquette.base.arrays import check_corpus
from maquette.base.errors import UserError
from maquette.base.files import write_json
from maquette.corpus.progress import Progress, silent
from maquette.corpus.text.portrait import PORTRAIT, open_portrait
from maquette.corpus.text.store import SPLITS, Corpus
from maquette.training.run import RunDirectory
from maquette.training.run_corpus import text_of
from maquette.workshop.load import Loaded, load
from maquette.workshop.report import AUDIT

MOST_TOKENS = 1 << 27  # of a corpus that is indexed without being asked
SAMPLES, TOKENS = 32, 128
PASSAGE = 400  # characters shown to the portrait
DOCUMENTS, SPANS = 3, 5  # shown


def audit_run(path: Path, progress: Progress = silent) -> dict[str, Any]:
    """Write `audit.json` of a finished run, and return it.

    A corpus of more than 128 M tokens is traced only where it has an index already.
    """
    run = RunDirectory(path)
    corpus = text_of(run)
    page: dict[str, Any] = {"portrait": None, "trace": None, "verbatim": None, "missing": []}
    parts: list[Callable[[], dict[str, Any]]] = [lambda: {"portrait": _portrait(corpus)}]
    if corpus.manifest["tokens"] <= MOST_TOKENS or (corpus.path / "index").exists():
        parts.append(lambda: _traced(load(path), corpus, progress))
    for part in parts:
        try:
            page |= part()
        except UserError as error:  # a finished run is worth a report without it
            page["missing"].append(str(error))
    write_json(run / AUDIT, page)
    return page


def _portrait(corpus: Corpus) -> dict[str, Any] | None:
    """Membership of a passage of each split by the corpus' portrait."""
    if not (corpus.path / PORTRAIT).exists():
        return None
    portrait = open_portrait(corpus.path / PORTRAIT)
    check_corpus(portrait.path, {"corpus": portrait.corpus}, corpus.hash, "maquette audit portrait")
    asked = []
    for split in SPLITS:
        text = _passage(corpus, split)
        if text is None:
            continue
        membership = member(portrait, text)
        spans = [[s.start, s.end] for s in membership.spans if s.strong]
        asked.append(
            {"split": split, "text": text, "spans": spans, "coverage": membership.coverage or 0.0,
             "bound": membership.bound}
        )  # fmt: skip
    return {
        "bytes": portrait.size,
        "bytes_per_byte": portrait.size / max(1, portrait.text_bytes),
        "gram_error": portrait.error,
        "guarantee": portrait.guarantee,
        "asked": asked,
    }


def _passage(corpus: Corpus, split: str) -> str | None:
    """The middle of the split's document in the middle of those that are long enough."""
    table = corpus.documents
    rows = [
        row
        for row, (name, size) in enumerate(
            zip(table["split"].to_pylist(), table["bytes"].to_pylist(), strict=True)
        )
        if name == split and size >= PASSAGE
    ]
    if not rows:
        return None
    text = corpus.text(rows[len(rows) // 2]).decode("utf-8", "replace")
    start = max(0, (len(text) - PASSAGE) // 2)
    return text[start : start + PASSAGE]


def _traced(loaded: Loaded, corpus: Corpus, progress: Progress) -> dict[str, Any]:
    """The trace of the most verbatim sample, and the verbatim fraction of all samples."""
    index = open_index(corpus, progress=progress)
    model = loaded.model
    tokens = min(TOKENS, model.config.context - 1)
    drawn = memorised(
        model, loaded.tokenizer, index, samples=SAMPLES, tokens=tokens, progress=progress
    )
    most = max(range(len(drawn.verbatim)), key=lambda i: drawn.verbatim[i])
    text = loaded.tokenizer.decode(
        t for t in drawn.written[most] if t != loaded.tokenizer.eos_token_id
    )
    traced = trace(index, text, documents=DOCUMENTS)
    low, high = drawn.interval
    return {
        "trace": {
            "text": traced.text,
            "spans": [asdict(span) for span in traced.spans[:SPANS]],
            "maximal": traced.maximal,
            "least": traced.least,
            "verbatim": traced.verbatim,
        },
        "verbatim": {
            "fraction": drawn.fraction,
            "low": low,
            "high": high,
            "tokens": drawn.tokens,
            "least_bytes": VERBATIM_BYTES,
        },
    }
