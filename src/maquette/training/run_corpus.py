"""The corpus that a run was trained on, and what the run keeps of it."""

from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.base.files import read_json, write_json
from maquette.corpus.open import AnyCorpus, open_kept
from maquette.corpus.pictures.store import PictureCorpus
from maquette.corpus.text.store import Corpus
from maquette.training.run import CORPUS, RunDirectory


def keep_corpus(run: RunDirectory, corpus: AnyCorpus) -> None:
    """Write `corpus.json`: path, hash, and the manifest without the shards."""
    table = {k: v for k, v in corpus.manifest.items() if k not in ("shards", "skipped_named")}
    write_json(run / CORPUS, {"path": str(corpus.path), "hash": corpus.hash, "table": table})


def kept_corpus(run: RunDirectory) -> dict[str, Any]:
    """The record of `keep_corpus`: `path`, `hash` and `table`."""
    if not (run / CORPUS).exists():
        raise UserError(f"{run.path} was not trained here: name a corpus in its place")
    kept = read_json(run / CORPUS)
    if not isinstance(kept, dict) or not {"path", "hash"} <= kept.keys():
        raise UserError(f"{run / CORPUS} is damaged: restore it, or train a new run")
    return kept


def corpus_of(run: RunDirectory) -> AnyCorpus:
    """The corpus that the run was trained on. Raises UserError where it has changed."""
    kept = kept_corpus(run)
    path, table = Path(kept["path"]), kept.get("table", {})
    if not path.exists() and table.get("kind") != "world":
        raise UserError(
            f"the corpus of {run.path} is no longer at {path}: move it back, or name its new "
            f"place with --corpus where a command takes one"
        )
    corpus = open_kept(path, table)
    if corpus.hash != kept["hash"]:
        raise UserError(
            f"the corpus at {path} has changed since this run (hash {corpus.hash[:12]}, "
            f"not {kept['hash'][:12]}): restore it, or train a new run"
        )
    return corpus


def text_of(run: RunDirectory) -> Corpus:
    """The text that the run was trained on. Raises WrongUse for a run of another kind."""
    corpus = corpus_of(run)
    if not isinstance(corpus, Corpus):
        raise WrongUse(f"{run.path} is a run of {_kind(corpus)}: name a run of text")
    return corpus


def as_text(corpus: AnyCorpus) -> Corpus:
    """The corpus as a corpus of text. Raises WrongUse for a corpus of another kind."""
    if not isinstance(corpus, Corpus):
        raise WrongUse(f"{corpus.path} is a corpus of {_kind(corpus)}: name one of text")
    return corpus


def pictures_of(run: RunDirectory) -> PictureCorpus:
    """The pictures that the run was trained on. Raises WrongUse for a run of another kind."""
    corpus = corpus_of(run)
    if not isinstance(corpus, PictureCorpus):
        raise WrongUse(f"{run.path} is a run of {_kind(corpus)}: name a run of pictures")
    return corpus


def _kind(corpus: AnyCorpus) -> str:
    kind = str(corpus.manifest.get("kind", "text"))
    return "pictures" if kind == "world" else kind
