"""The terms that travel with a run: those of its corpus, and of the run that it began with.

`terms.json` is written when the run is made. What forbids training stops it there; what forbids to give away
stops an export, unless the user accepts it. What a model wrote may train that model, which is known by the
same licence among the terms of the run that is begun with.
"""

from pathlib import Path

from maquette.base.errors import UserError
from maquette.base.files import read_json, write_json
from maquette.corpus.open import AnyCorpus
from maquette.corpus.terms import USES, Term, records_of, terms_of_manifest, terms_of_records
from maquette.corpus.terms_card import TERMS


def terms_of(run: Path) -> list[Term]:
    """The terms that a run keeps; none for one that has none."""
    return terms_of_records(read_json(run / TERMS)) if (run / TERMS).exists() else []


def keep_terms(run: Path, terms: list[Term]) -> None:
    """Write `terms.json`, where there are some."""
    if terms:
        write_json(run / TERMS, records_of(terms))


def terms_to_train(corpus: AnyCorpus, start: str | None) -> list[Term]:
    """The terms of a run on a corpus that begins with the run `start`.

    Raises UserError where one of them forbids to train.
    """
    base = [] if start is None else terms_of(Path(start).expanduser())
    own = terms_of_manifest(corpus.manifest)
    known = {term.licence for term in base}
    for term in own:
        for use in ("training", "others"):
            if use in term.forbids and not (use == "others" and term.licence in known):
                raise UserError(
                    f"{corpus.path} holds {term}, which {USES[use]}: build the corpus without it"
                )
    for term in base:
        if "training" in term.forbids:
            raise UserError(
                f"{start} holds {term}, which {USES['training']}: begin with another run"
            )
    return list(dict.fromkeys([*own, *base]))


def check_export(run: Path, accepted: bool = False) -> list[Term]:
    """The terms that an export is under. Raises UserError for one that forbids it and is not accepted."""
    terms = terms_of(run)
    for term in terms:
        if "export" in term.forbids and not accepted:
            raise UserError(
                f"{run} was trained on {term}, which {USES['export']}: leave that source out, or "
                "pass --accept-terms where you have the right"
            )
    return terms
