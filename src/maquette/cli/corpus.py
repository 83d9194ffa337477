"""Build a corpus from text, or show what is in one.

build reads text, source code and records (.jsonl, .jsonl.gz, .jsonl.zst) from files and folders;
without a source it takes the text already on this machine (the standard library, documentation,
manual pages). show prints components, documents, tokens and examples.

example: maquette corpus build corpus/mine ~/Documents --vocabulary 4096
         maquette corpus show corpus/mine
"""

import argparse
import time
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal, amount


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|show")
    build = verbs.add_parser("build", help="read sources, write a corpus")
    build.add_argument("out", help="folder to write")
    build.add_argument("sources", nargs="*", help="files and folders (none: this machine's text)")
    build.add_argument("--vocabulary", type=int, default=8192, help="257 for plain bytes")
    build.add_argument("--heldout", type=float, default=0.02, help="fraction kept for evaluation")
    build.add_argument("--split", choices=("hash", "tail"), default="hash",
                       help="hold out whole documents, or the end of each")  # fmt: skip
    build.add_argument("--workers", type=int, help="threads (default: all cores)")
    build.add_argument("--replace", action="store_true", help="build an existing corpus again")
    show = verbs.add_parser("show", help="print what is in a corpus")
    show.add_argument("corpus", help="a corpus folder, or default, or tiny")
    for verb in (build, show):
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    terminal = Terminal(arguments.json)
    return build(arguments, terminal) if arguments.verb == "build" else show(arguments, terminal)


def build(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.corpus.build import build as build_corpus
    from maquette.corpus.local import Local
    from maquette.corpus.read import files

    start = time.perf_counter()
    with terminal.stages() as progress:
        corpus = build_corpus(
            Path(arguments.out),
            files(arguments.sources) if arguments.sources else Local(),
            vocabulary=arguments.vocabulary,
            heldout=arguments.heldout,
            split=arguments.split,
            workers=arguments.workers,
            replace=arguments.replace,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    summary = summarise(corpus.manifest)
    describe(corpus, terminal)
    speed = amount(summary["bytes"] / seconds, "B/s")
    terminal.say(f"built: {arguments.out} in {seconds:.1f} s ({speed})")
    return summary | {"seconds": round(seconds, 3)}


def show(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.workshop.corpora import open_corpus

    with terminal.stages() as progress:
        corpus = open_corpus(arguments.corpus, progress)
    describe(corpus, terminal)
    table = corpus.documents
    terminal.say()
    for name in corpus.components:
        sources = [r["source"] for r in table.to_pylist() if r["component"] == name][:2000]
        terminal.say(f"  {name}: {', '.join(sources[:: max(1, len(sources) // 3)][:3])}")
    return summarise(corpus.manifest)


def summarise(manifest: dict[str, Any]) -> dict[str, Any]:
    """What --json prints of a corpus."""
    keys = ("documents", "bytes", "tokens", "duplicates_removed", "vocabulary", "hash", "skipped")
    return {key: manifest[key] for key in keys} | {"components": manifest["components"]}


def describe(corpus: Any, terminal: Terminal) -> None:
    """The table of components."""
    m = corpus.manifest
    rows = []
    for name, c in m["components"].items():
        size = c["train_bytes"] + c["heldout_bytes"]
        tokens = c["train_tokens"] + c["heldout_tokens"]
        documents = c["train_documents"] + c["heldout_documents"]
        rows.append(
            [
                name,
                f"{documents:,}",
                f"{size:,}",
                f"{100 * size / m['bytes']:.1f} %",
                f"{tokens:,}",
                f"{size / max(1, tokens):.2f}",
                f"{c['heldout_bytes']:,}",
            ]
        )
    head = ["component", "documents", "bytes", "share", "tokens", "bytes/token", "held out"]
    terminal.table(head, rows)
    terminal.say(
        f"  {m['documents']:,} documents, {m['duplicates_removed']:,} duplicates removed, "
        f"{m['skipped']:,} skipped; vocabulary {m['vocabulary']:,}; hash {m['hash'][:12]}"
    )
    for reason, count in list(m["skipped_reasons"].items())[:4]:
        example = next(s["source"] for s in m["skipped_named"] if s["reason"] == reason)
        terminal.say(f"  skipped {count:,}: {reason} (such as {example})")
