"""Build a corpus from text, from examples or from pictures, or show what is in one.

build reads text, HTML, PDF, source code and records (.jsonl, .json, .parquet; packed or not) from files,
folders, hf://DATASET or - (standard input); without a source it takes the text already on this
machine. Near-duplicates are left out, and a portrait is written (maquette audit member). A build
that was killed goes on when the same command is given again. show prints the components, the
mixture, what was left out; with --why DOCUMENT, why that one was kept or dropped; with --check, whether
its files are as they were written. examples makes a corpus of prompts and answers, for tuning (maquette
corpus examples --help); pictures one of captioned pictures (maquette corpus pictures --help), and show
--picture FILE draws a grid of them.

example: maquette corpus build corpus/mine ~/Documents --vocabulary 4096 --clean quality,personal
         maquette corpus build corpus/mixed --mixture mixture.yaml --evaluation test.jsonl
         maquette corpus show corpus/mine --why notes.txt
         maquette corpus examples corpus/questions questions.jsonl --tokenizer runs/first
         maquette corpus pictures corpus/birds ~/Pictures/birds --image-size 64
"""

import argparse
import time
from pathlib import Path
from typing import Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal, amount

VERBS = {"examples": "corpus_examples", "pictures": "corpus_pictures"}
VOCABULARY = 8192
PLANTED_BYTES = 2_000_000  # of the corpus' text


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="build|examples|pictures|show"
    )
    build = verbs.add_parser("build", help="read sources, write a corpus")
    build.add_argument("out", help="folder to write")
    build.add_argument("sources", nargs="*", help="files, folders, hf://DATASET, -")
    build.add_argument("--mixture", metavar="FILE", help="components and their weights (YAML)")
    build.add_argument("--text-field", metavar="NAME",
                       help="the field of records that holds the text (text); a.b for b in a")  # fmt: skip
    build.add_argument("--vocabulary", type=int, help="8192; 257 for plain bytes")
    build.add_argument("--digits", type=int, help="of a number in one token (2; 1 splits)")
    build.add_argument("--tokenizer", metavar="NAME",
                       help="take one: a corpus, a run, a tokenizer.json, tiktoken:NAME, bytes")  # fmt: skip
    build.add_argument("--eos-token", metavar="NAME",
                       help="what ends a document, where the tokenizer's files do not say")  # fmt: skip
    build.add_argument("--heldout", type=float, default=0.02, help="fraction kept for evaluation")
    build.add_argument("--split", choices=("hash", "tail"), default="hash",
                       help="hold out whole documents, or the end of each")  # fmt: skip
    build.add_argument("--clean", metavar="RULES", default="",
                       help="rules, with commas: quality, c4, boilerplate, personal, ...")  # fmt: skip
    build.add_argument("--near", type=_similarity, default=0.8, metavar="J",
                       help="leave out what is so similar to an earlier document, or off (0.8)")  # fmt: skip
    build.add_argument("--substrings", type=int, metavar="BYTES",
                       help="cut what repeats so many bytes of an earlier document")  # fmt: skip
    build.add_argument("--evaluation", action="append", default=[], metavar="FILE",
                       help="cut out what an evaluation set holds (13-grams)")  # fmt: skip
    build.add_argument("--evaluation-field", metavar="NAME",
                       help="the field of its records with the text (default: usual ones)")  # fmt: skip
    build.add_argument("--no-portrait", action="store_true", help="write no portrait")
    build.add_argument("--locator", action="store_true", help="write a locator of long passages")
    build.add_argument("--terms", default="", metavar="NAME,...",
                       help="terms of all sources: forbid-training, forbid-export, a licence")  # fmt: skip
    build.add_argument("--workers", type=int, help="processes (default: all cores)")
    build.add_argument("--engine", choices=("local", "ray"), default="local")
    build.add_argument("--replace", action="store_true", help="build an existing corpus again")
    show = verbs.add_parser("show", help="print what is in a corpus")
    show.add_argument("corpus", help="a corpus folder, or default, or tiny")
    show.add_argument("--why", metavar="DOCUMENT", help="why this document was kept or dropped")
    show.add_argument("--check", action="store_true",
                      help="hash the shards, and say whether they are as they were written")  # fmt: skip
    show.add_argument("--planted", action="store_true",
                      help="plant duplicates in a sample, and say how many deduplication finds")  # fmt: skip
    show.add_argument("--picture", metavar="FILE", help="draw the components, or pictures (PNG)")
    build.epilog = "example: maquette corpus build corpus/mine ~/Documents --clean quality,personal"
    show.epilog = "example: maquette corpus show corpus/mine --why notes.txt"
    for verb in (build, show):
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)


def _similarity(text: str) -> float | None:
    if text == "off":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor off") from error


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    terminal = Terminal(arguments.json)
    if arguments.verb == "build":
        return build(arguments, terminal)
    if arguments.why and arguments.check:
        raise WrongUse("--check is of the whole corpus: leave --why out")
    return why(arguments, terminal) if arguments.why else show(arguments, terminal)


def build(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.corpus.progress import Stages
    from maquette.corpus.read import files
    from maquette.corpus.terms import said_terms
    from maquette.corpus.text.build import build as build_corpus
    from maquette.corpus.text.build_options import BuildOptions
    from maquette.corpus.text.local import Local
    from maquette.corpus.tokenizer import DIGITS, named_tokenizer

    source = None
    text_field = arguments.text_field or "text"
    if arguments.mixture:
        from maquette.corpus.text.components import Components
        from maquette.corpus.text.mixture import load_mixture

        if arguments.sources:
            raise WrongUse("the mixture names the sources: leave them out beside --mixture")
        if arguments.text_field:
            raise WrongUse("a mixture names the field of each component: write text: in it")
        source = Components(load_mixture(Path(arguments.mixture)))
    elif arguments.text_field and not arguments.sources:
        raise WrongUse("--text-field is for records: name the sources that hold them")
    if arguments.tokenizer and (arguments.vocabulary, arguments.digits) != (None, None):
        raise WrongUse("--tokenizer brings its own vocabulary: leave --vocabulary and --digits out")
    if arguments.eos_token and not arguments.tokenizer:
        raise WrongUse("--eos-token is of a tokenizer that is there: name it with --tokenizer")
    tokenizer = None
    if arguments.tokenizer:
        tokenizer = named_tokenizer(arguments.tokenizer, arguments.eos_token)
    options = BuildOptions(
        vocabulary=VOCABULARY if arguments.vocabulary is None else arguments.vocabulary,
        digits=DIGITS if arguments.digits is None else arguments.digits,
        heldout=arguments.heldout,
        split=arguments.split,
        clean=tuple(rule.strip() for rule in arguments.clean.split(",") if rule.strip()),
        near=arguments.near,
        evaluation=tuple(arguments.evaluation),
        evaluation_field=arguments.evaluation_field,
        substrings=arguments.substrings,
        portrait=not arguments.no_portrait,
        locator=arguments.locator,
        terms=said_terms(arguments.terms),
    )
    start = time.perf_counter()
    with terminal.stages() as progress:
        stages = Stages(progress)
        corpus = build_corpus(
            Path(arguments.out),
            source or (files(arguments.sources, text=text_field) if arguments.sources else Local()),
            options,
            tokenizer=tokenizer,
            workers=arguments.workers,
            engine=arguments.engine,
            replace=arguments.replace,
            progress=stages,
        )
    seconds = time.perf_counter() - start
    summary = summarise(corpus.manifest)
    describe(corpus, terminal)
    speeds = ", ".join(
        f"{name} {amount(size / taken, 'B/s')}"
        for name, (taken, size) in stages.taken().items()
        if taken >= 0.1 and size
    )
    speed = amount(summary["bytes"] / seconds, "B/s")
    detail = f": {speeds}" if speeds else ""
    terminal.say(f"built: {arguments.out} in {seconds:.1f} s ({speed}{detail})")
    taken = {name: {"seconds": round(t, 3), "bytes": b} for name, (t, b) in stages.taken().items()}
    return summary | {"seconds": round(seconds, 3), "stages": taken}


def show(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.corpus.text.store import stored_kind

    kind = stored_kind(arguments.corpus)
    if kind != "text" and arguments.planted:
        raise WrongUse(f"--planted is for text: leave it out beside a corpus of {kind}")
    if kind == "examples":
        from maquette.cli import corpus_examples
        from maquette.corpus.examples.store import ExamplesCorpus

        if arguments.picture:
            raise WrongUse("--picture is for text and pictures: leave it out beside examples")
        examples = ExamplesCorpus(arguments.corpus)
        checked = check(examples, terminal) if arguments.check else {}
        return corpus_examples.show(examples, terminal) | checked
    if kind != "text":
        from maquette.cli import corpus_pictures
        from maquette.corpus.pictures.store import open_pictures

        checked = check(open_pictures(arguments.corpus), terminal) if arguments.check else {}
        return corpus_pictures.show(arguments.corpus, arguments.picture, terminal) | checked
    from maquette.corpus.text.named import open_corpus

    with terminal.stages() as progress:
        corpus = open_corpus(arguments.corpus, progress)
    checked = check(corpus, terminal) if arguments.check else {}
    describe(corpus, terminal)
    table = corpus.documents.select(["component", "source"])
    terminal.say()
    for name in corpus.components:
        own = table.filter(table["component"].to_numpy(zero_copy_only=False) == name)
        sources = own["source"].slice(0, 2000).to_pylist()
        terminal.say(f"  {name}: {', '.join(sources[:: max(1, len(sources) // 3)][:3])}")
    if arguments.picture:
        from maquette.base.files import write_atomic
        from maquette.workshop.charts import png
        from maquette.workshop.mixture_chart import corpus_chart

        write_atomic(Path(arguments.picture), png(corpus_chart(corpus.manifest)))
        terminal.say(f"picture: {arguments.picture}")
    rates = planted(corpus, terminal) if arguments.planted else {}
    return summarise(corpus.manifest) | checked | rates


def check(corpus: Any, terminal: Terminal) -> dict[str, Any]:
    """Hash what the manifest has checksums of."""
    with terminal.stages() as progress:
        size = corpus.check(progress)
    terminal.say(f"checked: {amount(size, 'B')}, all as it was written")
    return {"checked_bytes": size}


def planted(corpus: Any, terminal: Terminal) -> dict[str, Any]:
    """Precision and recall of deduplication on copies put into some of the corpus' documents."""
    from maquette.corpus.text.planted_duplicates import check

    texts: list[bytes] = []
    rows = corpus.documents["bytes"].to_pylist()
    step = max(1, sum(rows) // PLANTED_BYTES)  # documents passed over
    for row in range(0, len(rows), step):
        if rows[row] >= 500:
            texts.append(corpus.text(row))
    rates = check(texts)
    terminal.say(f"planted in {len(texts):,} of its documents:")
    terminal.table(
        ["", "rate", "95 %", "of"],
        [
            [name, f"{r.value:.4f}", "{:.4f} to {:.4f}".format(*r.interval), f"{r.of:,}"]
            for name, r in rates.items()
        ],
    )
    return {
        "planted": {
            name: {"rate": r.value, "interval": list(r.interval), "of": r.of}
            for name, r in rates.items()
        }
    }


def why(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.corpus.text.history import history
    from maquette.corpus.text.named import open_corpus
    from maquette.corpus.text.store import stored_kind

    if stored_kind(arguments.corpus) != "text":
        raise WrongUse("--why is for text: maquette corpus show names what was skipped of pictures")
    documents = history(open_corpus(arguments.corpus), arguments.why)
    for document in documents:
        terminal.say(f"{document['source']} ({document['component']}): {document['state']}")
        for reason in document["why"]:
            terminal.say(f"  {reason}")
    return {"documents": documents}


def summarise(manifest: dict[str, Any]) -> dict[str, Any]:
    """Summary of a corpus for --json."""
    keys = ("documents", "bytes", "tokens", "duplicates_removed", "removed", "cut_bytes",
            "contaminated", "evaluation", "vocabulary", "hash", "skipped", "components",
            "mixture", "licences", "terms")  # fmt: skip
    return {key: manifest[key] for key in keys if key in manifest}


def describe(corpus: Any, terminal: Terminal) -> None:
    """The table of components, the mixture, the terms, and what was left out."""
    from maquette.cli import corpus_examples

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
    if m.get("mixture"):
        from maquette.corpus.text.mixture import table

        terminal.say()
        terminal.table(*table(m["mixture"]))
    terminal.say(
        f"  {m['documents']:,} documents, {m['duplicates_removed']:,} duplicates removed, "
        f"{m['skipped']:,} skipped; vocabulary {m['vocabulary']:,}; hash {m['hash'][:12]}"
    )
    corpus_examples.say_terms(m, terminal)
    left = {name: count for name, count in m.get("removed", {}).items() if count}
    if left or m.get("cut_bytes"):
        summary = ", ".join(f"{count:,} {name}" for name, count in left.items()) or "no document"
        terminal.say(f"  left out: {summary}; {amount(m.get('cut_bytes', 0), 'B')} cut from others")
    if other := m.get("not_english"):
        summary = ", ".join(f"{count:,} in {code}" for code, count in list(other.items())[:6])
        terminal.say(
            f"  cleaning's rules for English were not asked of documents in others: {summary}"
        )
    for name, count in m.get("evaluation", {}).items():
        short = count["too_short"]
        summary = f"; {short:,} of fewer than 13 words are too short to be found" * bool(short)
        terminal.say(f"  evaluation {name}: {count['examples']:,} examples looked for{summary}")
    for reason, count in list(m["skipped_reasons"].items())[:4]:
        example = next(s["source"] for s in m["skipped_named"] if s["reason"] == reason)
        terminal.say(f"  skipped {count:,}: {reason} (such as {example})")
