"""The default corpus: the real text that every machine with Python already has, as a small Pile.

    code     the standard library's sources, without its tests
    tests    the standard library's tests, where they are installed
    prose    pydoc topics, and of installed packages licences, changelogs, READMEs and docstrings
    manual   manual pages and the system's documentation folder, where present

Nothing is downloaded, and nothing is in two components, so that no held-out text is trained on under
another name: docstrings are those of packages, whose sources are not read. Each component stops at
32 MB, so that the build takes well under a minute.
"""

import gzip
import inspect
import itertools
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from maquette.corpus.document import Document, Skipped
from maquette.corpus.read import read_file, walk

COMPONENT_BYTES = 32 << 20
TOPICS = "pydoc_data"  # a source whose strings are the topics of `prose`
TESTS = frozenset({"test", "tests", "idle_test"})
DOCSTRING = re.compile(
    r'^[ \t]*(?:[rR]?)("""|\'\'\')(.*?)\1', re.MULTILINE | re.DOTALL
)  # a string that stands on a line of its own
PAPERS = re.compile(r"^(licen[cs]e|copying|notice|changelog|changes|history|news|readme)", re.I)
MANUAL = re.compile(r"/man/man\d")
ROFF_FONT = re.compile(r"\\f(?:\(..|\[[^\]]*\]|.)|\\s[-+]?\d+|\\&|\\\||\\\^|\\/|\\,")
ROFF_NAMES = {r"\-": "-", r"\e": "\\", r"\ ": " ", r"\~": " ", r"\(aq": "'", r"\(bu": "*"} | {
    r"\(lq": '"',
    r"\(rq": '"',
    r"\(em": "-",
    r"\(en": "-",
    r"\(co": "(c)",
}


@dataclass(frozen=True)
class Local:
    """The default corpus as a source; `limit` is the bytes of each component."""

    limit: int = COMPONENT_BYTES

    def __iter__(self) -> Iterator[Document | Skipped]:
        for part in self.parts():
            yield from part

    def parts(self, size: int = 0) -> list["LocalPart"]:
        """The components, to be read side by side, whatever their size."""
        return [LocalPart(name, self.limit) for name in ("code", "prose", "tests", "manual")]


@dataclass(frozen=True)
class LocalPart:
    """One component of the default corpus."""

    component: str
    limit: int

    def __iter__(self) -> Iterator[Document | Skipped]:
        readers: dict[str, Callable[[], Iterator[Document | Skipped]]] = {
            "code": lambda: _standard_library(tests=False),
            "prose": _prose,
            "tests": lambda: _standard_library(tests=True),
            "manual": _manual,
        }
        yield from _at_most(readers[self.component](), self.limit)


def _at_most(documents: Iterator[Document | Skipped], limit: int) -> Iterator[Document | Skipped]:
    read = 0
    for document in documents:
        yield document
        if isinstance(document, Document):
            read += len(document.text)
            if read >= limit:
                return


def _standard_library(tests: bool) -> Iterator[Document | Skipped]:
    top = Path(sysconfig.get_path("stdlib"))
    for path in walk(top):
        relative = path.relative_to(top)
        if path.suffix != ".py" or TOPICS in relative.parts:
            continue
        if (not TESTS.isdisjoint(relative.parts)) == tests:
            for document in read_file(
                path, f"python:{relative.as_posix()}", "tests" if tests else "code"
            ):
                yield _dated(document, licence="PSF-2.0")


def _dated(document: Document | Skipped, licence: str | None) -> Document | Skipped:
    """The date of an installed file is the day of the installation: no date is better."""
    if isinstance(document, Skipped):
        return document
    return Document(document.text, document.component, document.source, None, licence)


def _prose() -> Iterator[Document | Skipped]:
    yield from _topics()
    packages = Path(sysconfig.get_path("purelib"))
    for path in _installed(packages):
        if PAPERS.match(path.name) and path.suffix in ("", ".md", ".rst", ".txt"):
            for document in read_file(path, f"packages:{path.relative_to(packages)}", "prose"):
                yield _dated(document, licence=None)
    for path in _installed(packages):
        if path.suffix == ".py" and TESTS.isdisjoint(path.relative_to(packages).parts):
            text = _docstrings(path)
            if len(text) >= 200:
                yield Document(text, "prose", f"packages:{path.relative_to(packages)}#docstrings")


def _installed(packages: Path) -> Iterator[Path]:
    """Files of the installed packages, package by package in turn, so that none crowds the rest."""
    tops = sorted(p for p in packages.iterdir() if p.is_dir()) if packages.is_dir() else []
    turns = [walk(top) for top in tops if not top.name.startswith((".", "_"))]
    while turns:
        left = []
        for turn in turns:
            batch = list(itertools.islice(turn, 25))
            yield from batch
            if batch:
                left.append(turn)
        turns = left


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name in sorted(topics):
        yield Document(topics[name], "prose", f"python:topics/{name}", None, "PSF-2.0")


def _docstrings(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    docstrings = (inspect.cleandoc(match[2]).strip() for match in DOCSTRING.finditer(text))
    return "\n\n".join(f for f in docstrings if len(f) >= 40)


def _manual() -> Iterator[Document | Skipped]:
    for path in walk(Path("/usr/share/man")):
        if MANUAL.search(str(path.parent)):
            text = _roff(path)
            if len(text) >= 200:
                yield Document(text, "manual", f"man:{path.name.removesuffix('.gz')}")
    for path in walk(Path("/usr/share/doc")):
        if PAPERS.match(path.name) or path.name == "copyright" or path.suffix in (".txt", ".md"):
            for document in read_file(path, f"doc:{path.parent.name}/{path.name}", "manual"):
                yield _dated(document, licence=None)


def _roff(path: Path) -> str:
    """A manual page's words: macros dropped, fonts and named characters undone."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile):
        return ""
    lines = []
    for line in text.splitlines():
        if line.startswith((".SH", ".SS", ".Sh", ".Ss")):
            lines += ["", line[4:].strip().strip('"')]
        elif line.startswith((".B ", ".I ", ".BR ", ".IR ", ".TP", ".Nm ", ".Fl ", ".Ar ")):
            lines.append(line.partition(" ")[2].replace('"', ""))
        elif not line.startswith((".", "'", '\\"')):
            lines.append(line)
    words = ROFF_FONT.sub("", "\n".join(lines))
    for name, character in ROFF_NAMES.items():
        words = words.replace(name, character)
    return words.strip() + os.linesep if words.strip() else ""
