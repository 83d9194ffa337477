"""What a language model is adapted to: a corpus, or files of which one is built with the model's tokenizer.

a folder that maquette corpus built    as it is, of text or of examples
records with prompts and answers       examples: .jsonl, .json, .csv, .parquet, .yaml (`read_examples`)
records with a text alone, other files text
a world of questions, by name         examples: what its task never asks
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError
from maquette.base.files import read_json
from maquette.corpus.examples.build import build_examples
from maquette.corpus.examples.example import LICENCES, YAML
from maquette.corpus.examples.store import ExamplesCorpus
from maquette.corpus.examples.template import Template
from maquette.corpus.progress import Progress, silent
from maquette.corpus.read import files
from maquette.corpus.tasks import ANSWERS, MESSAGES, file_records, first_of
from maquette.corpus.terms import Term, terms_of_licences, terms_of_manifest
from maquette.corpus.text.build import build
from maquette.corpus.text.build_options import BuildOptions
from maquette.corpus.text.named import BUILT, open_corpus
from maquette.corpus.text.store import MANIFEST, Corpus, stored_kind
from maquette.corpus.tokenizer import Tokenizer
from maquette.training.datasets.examples_config import ExamplesData
from maquette.training.datasets.text_config import TextData
from maquette.workshop.adapt_resume import asked_of, built_as, is_built
from maquette.worlds.questions.registry import question_worlds

RECORDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", *YAML)
HELDOUT = 0.1  # of the prompts, or of the text


def data_of(
    source: str,
    out: Path,
    tokenizer: Tokenizer,
    sequence: int,
    *,
    fields: Mapping[str, str] | None = None,
    template: str = Template.text,
    resume: bool = False,
    progress: Progress = silent,
) -> TextData | ExamplesData:
    """What a recipe reads of a corpus, or of files, whose corpus is built as `out`.

    sequence: tokens a training sequence. fields, template: see `build_examples`. resume: whether `out` is
    taken where it was built of the same. Raises WrongUse where it is in the way, UserError for files that are
    missing, and for a record that is neither an example nor a text.
    """
    path = Path(source).expanduser()
    if source in BUILT or (path / MANIFEST).exists():
        corpus: Corpus | ExamplesCorpus = opened(source, progress)
    elif not path.exists() and source not in question_worlds():
        raise UserError(
            f"{source} does not exist: name a corpus, files of examples or of text, or a world of questions"
        )
    elif is_built(out, asked := asked_of([source], fields, template), resume):
        corpus = opened(str(out), progress)
    else:
        with built_as(out, asked) as place:
            if is_text(source, fields):
                build(
                    place,
                    files([str(path)]),
                    BuildOptions(heldout=HELDOUT),
                    tokenizer=tokenizer,
                    progress=progress,
                )
            else:
                build_examples(
                    place,
                    [source if source in question_worlds() and not path.exists() else path],
                    tokenizer,
                    template=template,
                    fields=fields,
                    heldout=HELDOUT,
                    progress=progress,
                )
        corpus = opened(str(out), progress)
    if isinstance(corpus, ExamplesCorpus):
        return ExamplesData(corpus=str(corpus.path), sequence=sequence)
    return TextData(corpus=str(corpus.path), sequence=sequence)


def source_terms(sources: Sequence[str], fields: Mapping[str, str] | None = None) -> list[Term]:
    """The terms of corpora, and of the licences that the records of files name.

    fields: fields of the records, by the part of an example.
    """
    found: list[Term] = []
    for source in sources:
        path = Path(source).expanduser()
        if (path / MANIFEST).exists():
            found += terms_of_manifest(read_json(path / MANIFEST))
        elif path.is_file() and any(suffix in RECORDS for suffix in path.suffixes):
            names = (fields or {}).get("licence")
            licences: dict[str, str] = {}
            for record, where in file_records(path):
                if isinstance(record, dict):
                    licence = first_of(record, (names,) if names else LICENCES)
                    licences.setdefault(str(licence or ""), where)
            found += terms_of_licences(licences)
    return list(dict.fromkeys(found))


def opened(source: str, progress: Progress = silent) -> Corpus | ExamplesCorpus:
    """A corpus of text or of examples, by its folder or name."""
    if stored_kind(source) == "text":
        return open_corpus(source, progress)
    return ExamplesCorpus(source)  # refuses one of pictures


def is_text(source: str, fields: Mapping[str, str] | None = None) -> bool:
    """Whether `data_of` makes text of a source; one that is not there is none."""
    path = Path(source).expanduser()
    if source in BUILT or (path / MANIFEST).exists():
        return stored_kind(source) == "text"
    return (
        path.exists()
        and not fields
        and source not in question_worlds()
        and not holds_examples(path)
    )


def holds_examples(path: Path) -> bool:
    """Whether a file holds records of more than a text."""
    if path.is_dir() or not any(suffix in RECORDS for suffix in path.suffixes):
        return False
    if path.suffix in YAML:
        return True
    first: Any = next(iter(file_records(path)), (None, ""))[0]
    if not isinstance(first, dict) or "text" not in first:
        return True
    return any(first_of(first, names) is not None for names in (ANSWERS, MESSAGES, ("chosen",)))
