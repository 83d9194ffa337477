"""Texts in options; and those that audits are asked about, and how they are shown."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import UserError, WrongUse
from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.corpus.text.store import Corpus

WEIGHTS = ("auto", "fp32", "bf16", "int8", "int4")  # `serving.weights.CHOICES`, without its imports
MOST_TEXT = 4 << 20  # bytes of a text to look up


def line_ends(text: str) -> str:
    """The text of an option, with a line end for every \\n in it: the type of such an option."""
    return text.replace("\\n", "\n")


def corpus_of(name: str, progress: Any) -> "Corpus":
    """The corpus a run was trained on, or the one of that name."""
    from maquette.corpus.text.named import open_corpus
    from maquette.training.run import CORPUS, RunDirectory
    from maquette.training.run_corpus import text_of

    run = RunDirectory(name)
    return text_of(run) if (run / CORPUS).exists() else open_corpus(name, progress)


def given_text(arguments: argparse.Namespace) -> str:
    """The text, or what a corpus would read in the file: of a page its text, of records theirs."""
    if (arguments.text is None) == (arguments.file is None):
        raise WrongUse("give the text itself, or a file with --file")
    if arguments.text is not None:
        return str(arguments.text)
    if arguments.file != "-":
        return read_text(Path(arguments.file).expanduser())
    data = sys.stdin.buffer.read(MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise UserError(f"standard input is longer than {MOST_TEXT >> 20} MB: cut it in pieces")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("standard input is not text in UTF-8: convert it") from error


def read_text(path: Path) -> str:
    """The documents of a file as a corpus reads it, one after the other with an empty line between.

    Raises UserError where there is none, or they are longer than MOST_TEXT.
    """
    from maquette.corpus.document import Document
    from maquette.corpus.formats import NOT_TEXT
    from maquette.corpus.read import read_file
    from maquette.corpus.records import NAME_IT

    path.stat()  # raises, where it is not there
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    texts: list[str] = []
    size, why, fault = 0, "empty", None
    for item in read_file(path, str(path)):
        if not isinstance(item, Document):
            why = item.reason
            fault = why if item.source == str(path) else fault
            continue
        texts.append(item.text)
        size += len(item.text.encode("utf-8", "replace"))
        if size > MOST_TEXT:
            raise UserError(f"{path} is longer than {MOST_TEXT >> 20} MB: cut it in pieces")
    if not texts and why == NOT_TEXT:  # a corpus leaves out what holds zeros; here it may be asked
        return _plain(path)
    if not texts:
        raise UserError(f"{path} gives no text ({why.replace(NAME_IT, '')}): name a file with text")
    if fault is not None:
        raise UserError(
            f"{path} can be read in part only ({fault}): mend it, or give the part itself"
        )
    return "\n\n".join(texts)


def _plain(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise UserError(f"{path} is longer than {MOST_TEXT >> 20} MB: cut it in pieces")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: convert it") from error


def show(terminal: Terminal, text: str, spans: list[tuple[int, int]]) -> None:
    """The text with its spans in colour, on a terminal."""
    if not terminal.file.isatty() or len(text) > 4000:
        return
    pieces, at = [], 0
    for start, end in sorted(spans):
        if end <= at:
            continue
        start = max(start, at)
        pieces += [text[at:start], "\x1b[30;48;5;222m", text[start:end], "\x1b[0m"]
        at = end
    terminal.say("".join([*pieces, text[at:]]))
    terminal.say()


def short(text: str, span: Any) -> str:
    words = " ".join(text[span.start : span.end].split())
    return words if len(words) <= 70 else f"{words[:40]} ... {words[-25:]}"
