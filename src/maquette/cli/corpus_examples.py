"""Make a corpus of examples, prompts with their answers, for tuning a model.

A source is a file of records (.jsonl, .json, .csv, .parquet, .yaml ...) or a folder of them. A record has a
prompt and an answer by the names that well-known sets give them, or a conversation (messages with role
and content, of which the assistant's are learned); --fields names the fields of others. Or it is a world of
questions (maquette eval --list), which makes --count examples that its task never asks. Or it is a corpus
of text, of whose documents --count questions with answers are cut: what a thing is, what a function does, the
word of a blank, what follows, which document says it; those of held-out documents are held out.

The template says how an example is written; what stands before {answer} is read, and not learned. --template
chat is the chat template of the tokenizer's files, else 'Q: {prompt}\\nA: {answer}'; one in Jinja2 is taken,
too. The same example again is left out, and a fraction of the prompts is held out.

example: maquette corpus examples corpus/questions questions.jsonl --tokenizer runs/first
         maquette corpus examples corpus/chat chats.parquet --tokenizer runs/first \\
             --template 'User: {prompt}\\nAssistant: {answer}'
         maquette corpus examples corpus/sums arithmetic_2da --tokenizer bytes --template '{prompt} {answer}'
         maquette corpus examples corpus/pairs corpus/mine --tokenizer corpus/mine --template chat
         maquette corpus show corpus/questions
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal
from maquette.cli.texts import line_ends

if TYPE_CHECKING:
    from maquette.corpus.examples.store import ExamplesCorpus

SHOWN, CHARACTERS = 3, 300  # examples that are shown, and of each


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="folder to write")
    parser.add_argument(
        "sources", nargs="+", help="files of records, folders of them, worlds, corpora of text"
    )
    parser.add_argument("--tokenizer", required=True, metavar="NAME",
                        help="the learner's: a run, a corpus, a tokenizer.json, bytes")  # fmt: skip
    parser.add_argument("--eos-token", metavar="NAME",
                        help="what ends an answer, where the tokenizer's files do not say")  # fmt: skip
    parser.add_argument("--template", type=line_ends, default="{prompt}{answer}", metavar="TEXT",
                        help="how one is written ({prompt}{answer}); chat; \\n ends a line")  # fmt: skip
    parser.add_argument("--fields", default="", metavar="PART=NAME,...",
                        help="of records: prompt=..., answer=..., rejected=..., choices=...")  # fmt: skip
    parser.add_argument("--count", type=int, default=10_000,
                        help="examples of a world, or of a corpus of text (10000)")  # fmt: skip
    parser.add_argument("--heldout", type=float, default=0.05,
                        help="fraction of prompts kept for evaluation (0.05)")  # fmt: skip
    parser.add_argument("--terms", default="", metavar="NAME,...",
                        help="terms of all sources: forbid-training, forbid-export, a licence")  # fmt: skip
    parser.add_argument("--replace", action="store_true", help="build an existing corpus again")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.corpus.examples.build import build_examples
    from maquette.corpus.progress import Stages
    from maquette.corpus.terms import said_terms
    from maquette.corpus.tokenizer import named_tokenizer

    terminal = Terminal(arguments.json)
    tokenizer = named_tokenizer(arguments.tokenizer, arguments.eos_token)
    start = time.perf_counter()
    with terminal.stages() as progress:
        corpus = build_examples(
            Path(arguments.out),
            arguments.sources,
            tokenizer,
            template=arguments.template,
            fields=fields_of(arguments.fields),
            count=arguments.count,
            heldout=arguments.heldout,
            terms=said_terms(arguments.terms),
            replace=arguments.replace,
            progress=Stages(progress),
        )
    seconds = time.perf_counter() - start
    describe(corpus, terminal)
    terminal.say(f"built: {arguments.out} in {seconds:.1f} s")
    return summarise(corpus) | {"seconds": round(seconds, 3)}


def fields_of(text: str) -> dict[str, str]:
    """PART=NAME,PART=NAME,...; a name without a part is another field of the part before it."""
    fields: dict[str, str] = {}
    part = ""
    for pair in filter(str.strip, text.split(",")):
        before, sign, name = pair.partition("=")
        if sign:
            part = before.strip()
        if not part or not (name if sign else before).strip():
            raise WrongUse(
                f"--fields {text} is no list of PART=NAME: write prompt=question,answer=solution"
            )
        fields[part] = name.strip() if sign else f"{fields[part]},{before.strip()}"
    return fields


def show(corpus: "ExamplesCorpus", terminal: Terminal) -> dict[str, Any]:
    """What is in a corpus of examples, and some of them as a model reads them."""
    describe(corpus, terminal)
    split, shown = corpus.train, []
    for number in sorted({i * len(split) // SHOWN for i in range(SHOWN)}):
        tokens, counted = split.read(number, CHARACTERS)
        context, wanted = (corpus.tokenizer.decode(tokens[mask].tolist())[:CHARACTERS]
                         for mask in (~counted, counted))  # fmt: skip
        terminal.say()
        terminal.say(f"  read:    {context!r}")
        terminal.say(f"  learned: {wanted!r}")
        shown.append({"read": context, "learned": wanted})
    return summarise(corpus) | {"shown": shown}


def describe(corpus: "ExamplesCorpus", terminal: Terminal) -> None:
    """Counts of each split, and what was left out."""
    m = corpus.manifest
    terminal.table(
        ["split", "examples", "tokens", "learned"],
        [
            [split, f"{c['examples']:,}", f"{c['tokens']:,}", f"{c['counted']:,}"]
            for split, c in m["splits"].items()
        ],
    )
    terminal.say(
        f"  template {m['template']!r}; the longest has {m['longest']:,} tokens; "
        f"{m['duplicates_removed']:,} duplicates removed; vocabulary {m['vocabulary']:,}; "
        f"hash {m['hash'][:12]}"
    )
    say_terms(m, terminal)


def say_terms(manifest: dict[str, Any], terminal: Terminal) -> None:
    """The licences of a corpus, and which of them forbid something."""
    from maquette.corpus.terms import USES, terms_of_manifest

    counts = {name or "none named": n for name, n in manifest.get("licences", {}).items()}
    if set(counts) - {"none named"}:
        summary = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:6])
        terminal.say(f"  licences: {summary}")
    for term in terms_of_manifest(manifest):
        terminal.say(f"  terms: {term} {' and '.join(USES[use] for use in term.forbids)}")


def summarise(corpus: "ExamplesCorpus") -> dict[str, Any]:
    """Summary of a corpus of examples for --json."""
    keys = ("kind", "examples", "splits", "tokens", "counted", "bytes", "longest", "template",
            "duplicates_removed", "licences", "terms", "vocabulary", "hash")  # fmt: skip
    return {key: corpus.manifest[key] for key in keys if key in corpus.manifest}
