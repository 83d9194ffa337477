"""The terms of a model in a folder that leaves Maquette, or comes from elsewhere.

    terms.json    the terms, as a run keeps them
    README.md     a model card: `license` and `license_name` in its front matter, a line for each term

A folder of others has a card alone, as on Hugging Face's hub: what its licence forbids is known by the
licence's name. Nothing is written where there are no terms.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from maquette.base.errors import UserError
from maquette.base.files import read_json, write_atomic, write_json
from maquette.corpus.terms import (
    FORBIDS,
    USES,
    Term,
    joined_licences,
    records_of,
    terms_of_licences,
    terms_of_records,
)

TERMS, CARD = "terms.json", "README.md"


def write_terms(folder: Path, terms: Iterable[Term]) -> None:
    """Write `terms.json` and the card of a folder, where there are terms."""
    terms = list(terms)
    if not terms:
        return
    write_json(folder / TERMS, records_of(terms))
    head = yaml.safe_dump({"license": "other", "license_name": joined_licences(terms)})
    lines = [
        f"- {term.source}: {term.licence}, which {' and '.join(USES[use] for use in term.forbids)}"
        for term in terms
    ]
    said = "What the licences of the sources forbid, of which this model was made:"
    write_atomic(folder / CARD, f"---\n{head}---\n\n{said}\n\n" + "\n".join(lines) + "\n")


def read_terms(folder: Path) -> list[Term]:
    """The terms of a folder: those of its `terms.json`, else of the licence that its card names.

    Raises UserError for a `terms.json` that holds something else.
    """
    if (folder / TERMS).exists():
        try:
            terms = terms_of_records(read_json(folder / TERMS))
        except (TypeError, KeyError) as error:
            raise UserError(f"{folder / TERMS} is no list of terms: restore it") from error
        if any(use not in FORBIDS for term in terms for use in term.forbids):
            raise UserError(f"{folder / TERMS} forbids what is not known: use {', '.join(FORBIDS)}")
        return terms
    return terms_of_licences({name: str(folder) for name in _licences(folder / CARD)})


def _licences(card: Path) -> list[str]:
    """The licences that the front matter of a card names, also where other lines of it are no YAML."""
    if not card.exists():
        return []
    written = card.read_text(encoding="utf-8-sig", errors="replace")
    found = re.match(r"---[ \t]*\n(.*?)^---[ \t]*$", written, re.DOTALL | re.MULTILINE)
    if found is None:
        return []
    try:
        head: Any = yaml.safe_load(found[1])
    except yaml.YAMLError:
        head = dict(
            re.findall(r"^(license(?:_name)?):[ \t]*['\"]?([\w.-]+)", found[1], re.MULTILINE)
        )
    if not isinstance(head, dict):
        return []
    named = head.get("license", [])
    names = named if isinstance(named, list) else [named]
    return [str(head.get("license_name", name)) if name == "other" else str(name) for name in names]
