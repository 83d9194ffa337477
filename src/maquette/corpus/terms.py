"""Terms: what the licence of a source forbids to do with a model that was trained on it.

    training    nothing may be trained on it
    others      what a model wrote may train that model alone, and none that competes with it
    export      what was trained on it may be used, not given away

A corpus keeps the licences of its documents and examples in its manifest, a run those of its corpus and of
the run that it began with, an export asks for them (`training/run_terms.py`). Known are names; in an SPDX
expression OR leaves the choice and AND adds up; what is not known forbids nothing. Whether a model is a
derivative of its training data is disputed; that a licensor says no is not, and is all that is kept here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from maquette.base.errors import WrongUse

FORBIDS = ("training", "others", "export")
USES = {
    "training": "forbids training",
    "others": "forbids to train other models on it",
    "export": "forbids to give away what was trained on it",
}
SAID: dict[str, tuple[str, ...]] = {
    "no-train": ("training",),
    "forbid-training": ("training",),
    "forbid-others": ("others",),
    "forbid-export": ("export",),
}
"""terms that a user can say, by their names"""
KNOWN: dict[str, tuple[str, ...]] = SAID | {
    "no-ai": ("training",),
    "noai": ("training",),  # robots directives of DeviantArt, "All Deviations Are Opted Out" (2022)
    "noimageai": ("training",),
    "all-rights-reserved": ("training",),
    "cc-by-nc*": ("export",),  # SPDX: -NC-, -NC-SA-, -NC-ND-; of version 4.0 section 2.a.1
    "polyform-noncommercial-*": ("export",),  # SPDX; its "Noncommercial Purposes"
    "research-only": ("export",),
    "non-commercial": ("export",),
    "opt-175b": ("export",),  # OPT-175B License Agreement, sections 1.a and 2.a.i
    "llama": ("export",),  # LLaMA of February 2023: for non-commercial research
    "llama-license": ("export",),  # the same, as cards on the hub call it
    "llama2": ("others",),  # name on the hub; Llama 2 Community License Agreement, section 1.b.v
    "llama3": ("others",),  # Meta Llama 3 Community License Agreement, section 1.b.v; not of 3.1
    "openai-output": (
        "others",
    ),  # OpenAI's Terms of Use, "What you cannot do": models that compete
    "anthropic-output": (
        "others",
    ),  # Anthropic's Consumer Terms, section 3; Commercial, section D.4
}
"""what a licence forbids, by its name in small letters"""


@dataclass(frozen=True)
class Term:
    """What the licence of one source forbids."""

    licence: str
    """name of the licence"""
    source: str
    """first source under it"""
    forbids: tuple[str, ...]
    """uses that it forbids (`FORBIDS`)"""

    def __str__(self) -> str:
        return f"{self.source} ({self.licence})"


def forbidden(licence: str) -> frozenset[str]:
    """What a licence forbids: a name, or an SPDX expression of names with OR, AND, WITH and brackets."""
    written = licence.lower().replace(" or later", "-or-later")  # a part of a name, no choice
    words = re.findall(r"[()]|[^\s()]+", written)
    return _expression(words)


def _expression(words: list[str]) -> frozenset[str]:
    """What an expression forbids; takes its words up to the bracket that closes it."""
    choices: list[frozenset[str]] = []
    all_of: frozenset[str] = frozenset()
    name: list[str] = []
    while words:
        word = words.pop(0)
        if word == "(":
            all_of |= _expression(words)
        elif word in ("and", "or", ")"):
            all_of |= _named("-".join(name))
            name = []
            if word == "or":
                choices.append(all_of)
                all_of = frozenset()
            elif word == ")":
                break
        elif word == "with":  # an exception: it allows more
            words[:1] = []
        else:
            name.append(word)
    choices.append(all_of | _named("-".join(name)))
    return min(choices, key=lambda uses: [use in uses for use in FORBIDS])


def _named(name: str) -> frozenset[str]:
    return frozenset(
        use for known, uses in KNOWN.items() if fnmatchcase(name, known) for use in uses
    )


def said_terms(names: str) -> tuple[str, ...]:
    """Terms that a user says, with commas. Raises WrongUse for a name that is not known."""
    given = tuple(filter(None, (name.strip() for name in names.split(","))))
    for name in given:
        if not any(fnmatchcase(name.lower(), known) for known in KNOWN):
            shown = ", ".join((*SAID, "a licence as CC-BY-NC-4.0"))
            raise WrongUse(f"the terms {name} are not known: use {shown}")
    return given


def terms_of_licences(sources: Mapping[str, str]) -> list[Term]:
    """The terms of licences that forbid something. sources: the first source of each licence."""
    found = [
        Term(licence, source, tuple(use for use in FORBIDS if use in forbidden(licence)))
        for licence, source in sorted(sources.items())
    ]
    return [term for term in found if term.forbids]


def terms_of_manifest(manifest: Mapping[str, Any]) -> list[Term]:
    """The terms that a corpus' manifest keeps."""
    return terms_of_records(manifest.get("terms", ()))


def terms_of_records(records: Iterable[Mapping[str, Any]]) -> list[Term]:
    """Terms as they were written by `records_of`."""
    return [Term(r["licence"], r["source"], tuple(r["forbids"])) for r in records]


def records_of(terms: Iterable[Term]) -> list[dict[str, Any]]:
    """Plain values of terms."""
    return [asdict(term) | {"forbids": list(term.forbids)} for term in terms]


def joined_licences(terms: Iterable[Term]) -> str:
    """One licence expression of all; "" for none."""
    names = dict.fromkeys(term.licence for term in terms)
    return " AND ".join(f"({name})" if " OR " in name.upper() else name for name in names)


class Licences:
    """Counts the licences of what is read, and keeps the first source of each.

    said: terms of all sources: names that a user says, or what other corpora have kept.
    """

    def __init__(self, said: Iterable[str | Term] = ()) -> None:
        self.counts: dict[str, int] = {}
        self._sources = dict(
            (one.licence, one.source) if isinstance(one, Term) else (one, "all sources")
            for one in said
        )

    def add(self, licence: str | None, source: str) -> None:
        """Count a document or an example; one without a licence counts under ""."""
        name = licence or ""
        self.counts[name] = self.counts.get(name, 0) + 1
        if name:
            self._sources.setdefault(name, source)

    def manifest(self) -> dict[str, Any]:
        """The manifest's part: how many of each licence, and the terms of those that forbid something."""
        return {
            "licences": dict(sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))),
            "terms": records_of(terms_of_licences(self._sources)),
        }
