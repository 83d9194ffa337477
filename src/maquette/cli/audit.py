"""What is in a corpus, and what of it is in a model.

portrait       write a small file that tells whether a text was seen in training, without the corpus
member         which spans of a text a portrait has seen, longest first, and how sure that is
trace          the longest verbatim spans of a text in the training text, with their documents
memorised      how much of what a run writes stands word for word in its training text
contamination  which examples of evaluation sets the training text holds

example: maquette audit portrait default --out default.portrait
         maquette audit member default.portrait --file README.md --html member.html
         maquette audit trace runs/first "permission is hereby granted, free of charge" --html trace.html
         maquette audit contamination default test.jsonl
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal, amount
from maquette.cli.texts import corpus_of, given_text, short, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from maquette.audit.member import Membership
    from maquette.corpus.text.store import Corpus

SHOWN = 20  # spans
AGAIN = "maquette audit portrait"
EXAMPLES = {
    "portrait": "default --out default.portrait",
    "member": "default.portrait --file README.md --html member.html",
    "trace": 'runs/first "permission is hereby granted, free of charge" --html trace.html',
    "memorised": "runs/first --samples 128",
    "contamination": "default test.jsonl",
}


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    portrait = verbs.add_parser("portrait", help="write the portrait of a corpus")
    portrait.add_argument("corpus", help="a corpus folder or name")
    portrait.add_argument("--out", metavar="FILE", help="(default: in the corpus folder)")
    portrait.add_argument("--bits", type=int, default=7, help="of a gram: error 2^-bits (7)")
    portrait.add_argument("--width", type=int, default=33, help="bytes of a gram")
    portrait.add_argument("--stride", type=int, default=67, help="bytes from gram to gram")
    member = verbs.add_parser("member", help="which spans of a text were seen")
    member.add_argument("portrait", help="a portrait, or a corpus that has one")
    member.add_argument("--error", type=float, default=0.01,
                        help="how likely a text has a strong span of which nothing was seen")  # fmt: skip
    trace = verbs.add_parser("trace", help="where a text stands in the training text")
    trace.add_argument("source", metavar="RUN_OR_CORPUS")
    trace.add_argument("--all", action="store_true", help="every maximal span, not the rarest")
    trace.add_argument("--least", type=int, help="tokens of a span (default: about 24 bytes)")
    trace.add_argument("--sentences", action="store_true",
                       help="spans of whole words within a line and a sentence, as OLMoTrace's")  # fmt: skip
    trace.add_argument("--locator", action="store_true",
                       help="passages of 99 bytes or more only, from the corpus' locator")  # fmt: skip
    trace.add_argument("--documents", type=int, help="at most, for each span (10)")
    for verb in (member, trace):
        verb.add_argument("text", nargs="?", help="the text (or --file)")
        verb.add_argument("--file", help="a text file, - for standard input")
        verb.add_argument("--html", metavar="FILE", help="write a page with the spans marked")
    memorised = verbs.add_parser("memorised", help="how much a run copies")
    memorised.add_argument("run")
    memorised.add_argument("--samples", type=int, default=64)
    memorised.add_argument("--tokens", type=int, help="of a sample (default: a whole context)")
    memorised.add_argument("--temperature", type=float, default=1.0)
    memorised.add_argument("--bytes", type=int, default=50, help="of a verbatim span (50)")
    memorised.add_argument("--seed", type=int, default=0)
    contamination = verbs.add_parser("contamination", help="which examples were trained on")
    contamination.add_argument("corpus", help="a corpus folder or name, or a run")
    contamination.add_argument("tasks", nargs="+", help="files of examples, or folders of them")
    contamination.add_argument("--text-field", metavar="NAME",
                               help="the field with the text of an example; several with commas")  # fmt: skip
    contamination.add_argument("--words", type=_words, default=13,
                               help="of a gram, or auto: 8 to 13 by the examples' lengths (13)")  # fmt: skip
    for name, verb in verbs.choices.items():
        verb.epilog = f"example: maquette audit {name} {EXAMPLES[name]}"
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)


def _words(text: str) -> int | None:
    return None if text == "auto" else int(text)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    terminal = Terminal(arguments.json)
    verbs = {
        "portrait": portrait,
        "member": member,
        "trace": trace,
        "memorised": memorised,
        "contamination": contamination,
    }
    return verbs[arguments.verb](arguments, terminal)


def portrait(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.corpus.text.named import open_corpus
    from maquette.corpus.text.portrait import PORTRAIT, build_portrait

    start = time.perf_counter()
    with terminal.stages() as progress:
        corpus = open_corpus(arguments.corpus, progress)
        out = Path(arguments.out).expanduser() if arguments.out else corpus.path / PORTRAIT
        if out.is_dir() or not out.name:
            raise WrongUse(f"{out} is a folder: name a file with --out")
        made = build_portrait(
            corpus, out, arguments.width, arguments.stride, arguments.bits, progress
        )
    seconds = time.perf_counter() - start
    size = out.stat().st_size
    terminal.say(
        f"portrait: {out}, {amount(size, 'B')}, {size / max(1, made.text_bytes):.4f} bytes for each "
        f"byte of training text; error of a gram {100 * made.error:.2g} %"
    )
    terminal.say(f"every verbatim run of {made.guarantee} bytes or more is found by")
    terminal.say(f"  maquette audit member {out} --file TEXT")
    return {
        "path": str(out),
        "bytes": size,
        "bytes_per_byte": size / max(1, made.text_bytes),
        "gram_error": made.error,
        "guarantee": made.guarantee,
        "corpus": corpus.hash,
        "seconds": round(seconds, 3),
    }


def member(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.audit.member import member as look_up
    from maquette.audit.page import PageSpan, write_page
    from maquette.base.arrays import check_corpus
    from maquette.corpus.text.named import open_corpus
    from maquette.corpus.text.portrait import PORTRAIT, open_portrait

    text = given_text(arguments)
    path = Path(arguments.portrait).expanduser()
    if path.is_file():
        portrait = open_portrait(path)
    else:
        corpus = open_corpus(arguments.portrait)
        portrait = open_portrait(corpus.path / PORTRAIT)
        check_corpus(corpus.path / PORTRAIT, {"corpus": portrait.corpus}, corpus.hash, AGAIN)
    membership = look_up(portrait, text, arguments.error)
    strong = [s for s in membership.spans if s.strong]
    show(terminal, text, [(s.start, s.end) for s in strong])
    terminal.table(
        ["characters", "length", "grams", "bound", "text"],
        [
            [f"{s.start}-{s.end}", s.end - s.start, s.hits, f"{s.bound:.1g}", short(text, s)]
            for s in strong[:SHOWN]
        ],
    )
    weak = len(membership.spans) - len(strong)
    headline = verdict(membership, len(strong))
    terminal.say(headline)
    if weak and membership.too_short:
        terminal.say(f"{weak} weak spans: a part of it may have been seen, or it is an accident")
    elif weak:
        terminal.say(
            f"{weak} weak spans besides, of fewer than {membership.hits_needed} grams: such a text has "
            f"{membership.accidents:.2g} by accident"
        )
    if arguments.html:
        spans = [
            PageSpan(
                s.start, s.end, f"{s.hits} grams, bound {s.bound:.1g}", 1.0 if s.strong else 0.2
            )
            for s in membership.spans
        ]
        page = write_page(
            Path(arguments.html),
            title="Was it seen?",
            lead=headline,
            text=text,
            spans=spans,
            note=f"Every verbatim run of {membership.guarantee} bytes or more is marked; shorter ones may be "
            "missed: maquette audit trace finds them.",
        )
        terminal.say(f"page: {page}")
    return asdict(membership)


def verdict(membership: "Membership", strong: int) -> str:
    """The membership of a text as a sentence."""
    if membership.coverage is None:
        return (
            f"too short to be sure: of a text that was seen, {membership.sure_from} bytes or more are "
            "needed; maquette audit trace looks the text itself up"
        )
    return (
        f"{100 * membership.coverage:.1f} % of the characters are in {strong} spans that were seen; "
        f"a text of which nothing was seen has one with probability {membership.bound:.2g} at most"
    )


def trace(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.audit.index import open_index
    from maquette.audit.trace import trace as look_up
    from maquette.audit.trace import write_trace

    text = given_text(arguments)
    if arguments.locator:
        if (arguments.all, arguments.sentences, arguments.least, arguments.documents) != (
            False, False, None, None,
        ):  # fmt: skip
            raise WrongUse("--locator has one document for each passage: leave other options out")
        return locate(arguments, text, terminal)
    with terminal.stages() as progress:
        corpus = corpus_of(arguments.source, progress)
        index = open_index(corpus, progress=progress)
    start = time.perf_counter()
    traced = look_up(
        index,
        text,
        least=arguments.least,
        everything=arguments.all,
        self_contained=arguments.sentences,
        documents=10 if arguments.documents is None else arguments.documents,
    )
    seconds = time.perf_counter() - start
    seen = _steps(arguments.source, corpus)
    show_trace(terminal, traced, seen)
    if arguments.html:
        title = f"Where it stands in {corpus.path.name}"
        terminal.say(f"page: {write_trace(Path(arguments.html), traced, title)}")
    result = traced.to_dict()
    if seen:
        for span in result["spans"]:
            for origin in span["documents"]:
                origin["steps"] = seen(origin["position"])
    return result | {"corpus": str(corpus.path), "seconds": round(seconds, 5)}


def _steps(source: str, corpus: "Corpus") -> "Callable[[int], list[int]] | None":
    """Function from a position of the stream to the steps that trained on it; None for no run."""
    from maquette.audit.trace import seen_at
    from maquette.corpus.order import SampleOrder
    from maquette.training.recipe import language
    from maquette.training.run import RECIPE, RunDirectory

    run = RunDirectory(source)
    if not (run / RECIPE).exists() or not (records := run.records()):
        return None
    recipe = language(run.recipe())
    order = SampleOrder(len(corpus.train), recipe.data.sequence, recipe.seed)
    replay = getattr(recipe.data, "replay", 0.0)
    return lambda position: seen_at(order, position, recipe.batch, records[-1]["step"], replay)


def locate(arguments: argparse.Namespace, text: str, terminal: Terminal) -> dict[str, Any]:
    """The trace of long passages, without an index."""
    from maquette.audit.long_passages import located
    from maquette.audit.page import PageDocument, PageSpan, write_page
    from maquette.corpus.text.locator import LOCATOR, build_locator, open_locator

    with terminal.stages() as progress:
        corpus = corpus_of(arguments.source, progress)
        there = (corpus.path / LOCATOR).exists()
        locator = open_locator(corpus) if there else build_locator(corpus, progress=progress)
    passages = located(corpus, locator, text)
    show(terminal, text, [(p.start, p.end) for p in passages])
    for p in passages[:SHOWN]:
        origin = p.documents[0]
        terminal.say(f'  {p.start}-{p.end}: "{short(text, p)}"')
        terminal.say(f"      {origin['source']} at {origin['offset']}")
    terminal.say(
        f"{len(passages)} passages; of every run of {locator.guarantee} bytes or more at least a part "
        "is among them"
    )
    if arguments.html:
        spans = [
            PageSpan(p.start, p.end, f"{p.end - p.start} characters", 1.0, [
                PageDocument(d["source"], f"at character {d['offset']:,}", "", p.text, "")
                for d in p.documents
            ])
            for p in passages
        ]  # fmt: skip
        lead = f"{len(passages)} passages stand word for word in {corpus.path.name}"
        page = write_page(
            Path(arguments.html), title="Where it stands", lead=lead, text=text, spans=spans
        )
        terminal.say(f"page: {page}")
    return {"text": text, "spans": [asdict(p) for p in passages], "corpus": str(corpus.path)}


def show_trace(
    terminal: Terminal, traced: Any, seen: "Callable[[int], list[int]] | None" = None
) -> None:
    """The spans, each with its first documents, and when a run trained on them."""
    show(terminal, traced.text, [(s.start, s.end) for s in traced.spans])
    for span in traced.spans[:SHOWN]:
        terminal.say(f'  {span.start}-{span.end}, {span.count} times: "{short(traced.text, span)}"')
        for origin in span.documents[:3]:
            steps = seen(origin.position)[:3] if seen else []
            when = f"trained on at step {', '.join(map(str, steps))}" if steps else None
            about = ", ".join(x for x in (origin.title, origin.date, origin.licence, when) if x)
            terminal.say(
                f"      {origin.source} at {origin.offset}" + (f" ({about})" if about else "")
            )
        if len(span.documents) > 3:
            terminal.say(f"      and {len(span.documents) - 3} more")
    terminal.say(
        f"{len(traced.spans)} of {traced.maximal} maximal spans of {traced.least} tokens or more, the "
        f"rarest first; {100 * traced.verbatim:.1f} % of the characters in spans of 50 bytes or more"
    )


def memorised(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.audit.index import open_index
    from maquette.audit.memorised import memorised as sample
    from maquette.training.run import RunDirectory
    from maquette.training.run_corpus import text_of
    from maquette.workshop.load import load

    loaded = load(arguments.run)
    with terminal.stages() as progress:
        index = open_index(text_of(RunDirectory(arguments.run)), progress=progress)
        result = sample(
            loaded.optimise().model,
            loaded.tokenizer,
            index,
            samples=arguments.samples,
            tokens=arguments.tokens,
            least=arguments.bytes,
            temperature=arguments.temperature,
            seed=arguments.seed,
            progress=progress,
        )
    low, high = result.interval
    for span in result.spans[:SHOWN]:
        text = " ".join(span.text.split())
        terminal.say(f'  {span.bytes} bytes, {span.count} times: "{text[:90]}"')
    terminal.say(
        f"{100 * result.fraction:.2f} % ({100 * low:.2f} to {100 * high:.2f}) of {result.tokens:,} "
        f"tokens are in verbatim spans of {result.least} bytes or more"
    )
    return {"run": arguments.run} | result.to_dict()


def contamination(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    from maquette.audit.contamination import contamination as search
    from maquette.corpus.tasks import read_tasks

    tasks = read_tasks(arguments.tasks, arguments.text_field)
    with terminal.stages() as progress:
        corpus = corpus_of(arguments.corpus, progress)
        results = search(corpus, tasks, arguments.words, progress=progress)
    terminal.table(
        ["task", "examples", "dirty", "clean", "too short", "dirty of all", "95 %"],
        [
            [
                name,
                task.examples,
                task.dirty,
                task.clean,
                task.short,
                f"{100 * task.fraction:.1f} %",
                f"{100 * task.interval[0]:.1f}-{100 * task.interval[1]:.1f} %",
            ]
            for name, task in results.items()
        ],
    )
    for name, task in results.items():
        for example in task.flagged[:3]:
            hits = [hit for hit in task.hits if hit.example == example]
            sources = ", ".join(f"{hit.source} at {hit.offset}" for hit in hits[:3])
            terminal.say(f"  {name} example {example + 1}: {sources}")
        if task.short:
            terminal.say(
                f"  {name}: {task.short} have fewer than {task.n} words: too short to tell"
            )
    return {"tasks": {name: task.to_dict() for name, task in results.items()}}
