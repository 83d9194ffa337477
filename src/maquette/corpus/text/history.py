"""Why a document is in a corpus, or is not: what cleaning found in it, and which stage left it out."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maquette.base.errors import UserError
from maquette.corpus.text.clean import Attribute, why
from maquette.corpus.text.store import ATTRIBUTES_TABLE, DROPPED_TABLE, Corpus

SHOWN = 20  # documents, where a name fits many


def history(corpus: Corpus, name: str) -> list[dict[str, Any]]:
    """Every document whose source is `name`, ends with it, or else contains it.

    Each is {source, component, state, why: [a line each]}. Raises UserError where there is none.
    """
    if not (corpus.path / DROPPED_TABLE).exists():
        raise UserError(f"{corpus.path} keeps no history: build it again")
    kept = corpus.documents
    dropped = pq.read_table(corpus.path / DROPPED_TABLE)
    table = pq.read_table(corpus.path / ATTRIBUTES_TABLE)
    kept, dropped = _named(kept, dropped, name)
    entries = [_kept(row) for row in kept.to_pylist()] + [
        _dropped(row) for row in dropped.to_pylist()
    ]
    if not entries:
        raise UserError(f"no document of {corpus.path} is called {name}: see corpus show")
    rules = corpus.manifest["clean"]
    for entry in entries[:SHOWN]:
        source = entry["source"].removesuffix("#tail")
        rows = table.filter(pc.equal(table["source"], source)).to_pylist()
        attributes = [Attribute(r["start"], r["end"], r["score"], r["rule"]) for r in rows]
        entry["why"] += (
            why(attributes, rules.get(entry["component"], rules[""])) if any(rules.values()) else []
        )
    return entries[:SHOWN]


def _named(kept: pa.Table, dropped: pa.Table, name: str) -> tuple[pa.Table, pa.Table]:
    for test in (pc.equal, pc.ends_with, pc.match_substring):
        matches = tuple(table.filter(test(table["source"], name)) for table in (kept, dropped))
        if len(matches[0]) or len(matches[1]):
            return matches[0], matches[1]
    return kept.slice(0, 0), dropped.slice(0, 0)


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    why = [f"{row['bytes']:,} bytes, {row['tokens']:,} tokens from {row['offset']:,} on"]
    if row["overlap"]:
        why.append(f"{row['overlap']} stretches of an evaluation set cut out")
    state = "kept, for training" if row["split"] == "train" else "kept, held out"
    return {"source": row["source"], "component": row["component"], "state": state, "why": why}


def _dropped(row: dict[str, Any]) -> dict[str, Any]:
    why = [f"{row['reason']}: {row['detail']}", f"{row['bytes']:,} bytes"]
    return {"source": row["source"], "component": row["component"], "state": "left out", "why": why}
