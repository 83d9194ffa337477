"""The texts that audits are asked about, and how they are shown."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import UserError, WrongUse
from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.corpus.store import Corpus

MOST_TEXT = 4 << 20  # bytes of a text to look up


def corpus_of(name: str, progress: Any) -> "Corpus":
    """The corpus a run was trained on, or the one of that name."""
    from maquette.training.run import CORPUS, RunDirectory
    from maquette.workshop.corpora import open_corpus

    run = RunDirectory(name)
    return run.corpus() if (run / CORPUS).exists() else open_corpus(name, progress)


def given_text(arguments: argparse.Namespace) -> str:
    if (arguments.text is None) == (arguments.file is None):
        raise WrongUse("give the text itself, or a file with --file")
    if arguments.text is not None:
        return str(arguments.text)
    if arguments.file == "-":
        data = sys.stdin.buffer.read(MOST_TEXT + 1)
    else:
        with Path(arguments.file).expanduser().open("rb") as file:
            data = file.read(MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise UserError(f"{arguments.file} is longer than {MOST_TEXT >> 20} MB: cut it in pieces")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{arguments.file} is not text in UTF-8: convert it") from error


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
    said = " ".join(text[span.start : span.end].split())
    return said if len(said) <= 70 else f"{said[:40]} ... {said[-25:]}"
