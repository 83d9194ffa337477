"""Continue a prompt with a run's model, or make a picture of it with a picture run.

A picture run writes a PNG: of captions; with --picture and --mask of what the white part of the mask
hides; with --outpaint of what lies beside it; with --variations-of of what a CLIP sees in a picture.

example: maquette generate runs/first "def " --tokens 60
         maquette generate runs/first "def " "class " --top-p 0.9 --seed 3
         maquette generate runs/first "def " --trace
         maquette generate runs/first "Once" --adapter runs/medieval=0.7 --adapter runs/terse=-0.3
         maquette generate runs/first "2 + 2 = " --choices 3,4,5
         maquette generate runs/large "def " --draft runs/first
         maquette generate runs/diffusion "a large red circle" --out a.png
         maquette generate runs/diffusion "a large red circle" --picture a.png --mask hole.png --out b.png
         maquette generate runs/diffusion --picture a.png --outpaint right=64 --out wide.png
         maquette generate runs/decoder --variations-of a.png --count 8 --out more.png
"""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli import generate_pictures
from maquette.cli.terminal import Terminal
from maquette.cli.texts import line_ends

if TYPE_CHECKING:
    from maquette.serving.restrict import Answers

TEXT: dict[str, Any] = {
    "tokens": 64,
    "temperature": 0.8,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "stop": [],
    "choices": None,
    "regex": None,
    "schema": None,
    "precision": "auto",
    "trace": False,
    "adapter": [],
    "draft": None,
    "base": None,
}
"""options of text, and what they are when not given"""

WORDS_ANYWHERE = True  # prompts before options, or after them


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("prompts", nargs="*", default=[], metavar="PROMPT",
                        help="what to continue, or what to show; several make a batch")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    text = parser.add_argument_group("runs of text")
    text.add_argument("--tokens", type=int, help="at most so many (default: 64)")
    text.add_argument("--temperature", type=float, help="0: greedy (default: 0.8)")
    text.add_argument("--top-k", type=int, help="choose among the k likeliest")
    text.add_argument("--top-p", type=float, help="choose among the likeliest of mass p")
    text.add_argument("--min-p", type=float, help="drop what is less than p times the likeliest")
    text.add_argument("--stop", type=line_ends, action="append",
                      help="end before this string; \\n is a line end")  # fmt: skip
    text.add_argument("--adapter", action="append", metavar="NAME=WEIGHT",
                      help="attach an adapted run of this one, with a weight (default: 1)")  # fmt: skip
    text.add_argument("--base", help="where the base of an adapted run is now")
    text.add_argument("--draft", metavar="RUN",
                      help="a smaller run whose tokens this one checks: the same text, faster")  # fmt: skip
    text.add_argument("--choices", metavar="A,B,...", help="the answer is one of these")
    text.add_argument("--regex", help="the answer matches this expression as a whole")
    text.add_argument(
        "--schema", metavar="FILE", help="the answer is an object of this JSON schema"
    )
    text.add_argument("--precision", choices=("auto", "bf16", "fp32"),
                      help="of the weights (default: the faster here)")  # fmt: skip
    text.add_argument("--trace", action="store_true", default=None,
                      help="say where the text stands in the training text")  # fmt: skip
    generate_pictures.configure(parser.add_argument_group("runs of pictures"))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.workshop.kinds import kind_of_model

    ways = {
        "text": (TEXT, continue_text),
        "pictures": (generate_pictures.OPTIONS, generate_pictures.run),
    }
    kind = kind_of_model(Path(arguments.run).expanduser())
    own, way = ways[kind]
    for name in {name for options, _ in ways.values() for name in options} - set(own):
        if getattr(arguments, name) is not None:
            raise WrongUse(f"--{name.replace('_', '-')} is not for a run of {kind}: leave it out")
    return way(arguments)


def continue_text(arguments: argparse.Namespace) -> dict[str, Any]:
    """What follows the prompts, from a run of text."""
    from maquette.serving.sampler import Sampling
    from maquette.training.run import RunDirectory
    from maquette.training.run_corpus import text_of
    from maquette.workshop.load import load

    for name, value in TEXT.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.tokens < 1:
        raise WrongUse(f"tokens is {arguments.tokens}: ask for at least 1")
    sampling = Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    answers = answers_of(arguments)
    terminal = Terminal(arguments.json)
    if arguments.trace:
        text_of(RunDirectory(arguments.run))  # refuses a run without one before it writes
    loaded = load(arguments.run, arguments.base)
    for given in arguments.adapter:
        loaded.attach(*adapter_named(given, Path(arguments.run)))
    loaded.optimise(arguments.precision)
    draft = load(arguments.draft).optimise(arguments.precision) if arguments.draft else None
    prompts = arguments.prompts or [""]
    alone = len(prompts) == 1

    def write(piece: str) -> None:
        print(piece, end="", file=terminal.file, flush=True)

    if alone:
        write(prompts[0])
    options: dict[str, Any] = {
        "tokens": arguments.tokens,
        "sampling": sampling,
        "stop": arguments.stop,
        "on_text": write if alone else None,
        "answers": answers,
    }
    per_pass = None
    if draft is not None:
        results, timing, per_pass = loaded.generate_drafted(draft, prompts, **options)
    else:
        results, timing = loaded.generate_batch(prompts, **options)
    if alone:
        terminal.say()
    else:
        for prompt, result in zip(prompts, results, strict=True):
            terminal.say(f"{prompt}{result.text}\n---")
    speed = timing.tokens_per_second
    checked = "" if per_pass is None else f", {per_pass:.2f} a pass of the model"
    print(f"[{timing.tokens} tokens, {speed:,.0f} a second{checked}]", file=sys.stderr)
    traces = [
        trace_text(arguments.run, prompt + result.text, terminal)
        for prompt, result in zip(prompts, results, strict=True)
        if arguments.trace
    ]
    return {
        "text": results[0].text,
        "texts": [result.text for result in results],
        "finish": [result.finish for result in results],
        "tokens_per_second": round(speed, 1),
        "prompt_seconds": round(timing.prompt_seconds, 4),
        **({} if per_pass is None else {"tokens_per_pass": round(per_pass, 3)}),
        **({"traces": traces} if traces else {}),
    }


def adapter_named(given: str, run: Path) -> tuple[str, Path, float]:
    """The name, folder and weight of NAME=WEIGHT: an adapted run, by its folder or beside `run`."""
    name, sign, number = given.rpartition("=")
    if not sign:
        name, number = given, "1"
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise WrongUse(
            f"--adapter {given}: {number} is no weight: write NAME=WEIGHT, as in terse=0.7"
        )
    places = [Path(name).expanduser(), run.expanduser().resolve().parent / name]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise WrongUse(f"--adapter {given}: {places[0]} does not exist: name an adapted run")
    return folder.resolve().name.replace(".", "-"), folder, weight


def answers_of(arguments: argparse.Namespace) -> "Answers | None":
    """What the continuations are held to."""
    from maquette.serving.restrict import Answers

    if not (arguments.choices or arguments.regex or arguments.schema):
        return None
    choices = tuple(arguments.choices.split(",")) if arguments.choices else ()
    schema = Path(arguments.schema).read_text(encoding="utf-8") if arguments.schema else None
    return Answers(choices, arguments.regex, schema)


def trace_text(run: str, text: str, terminal: Terminal) -> dict[str, Any]:
    """Print and return the trace of what was written."""
    from maquette.audit.index import open_index
    from maquette.audit.trace import trace
    from maquette.cli.audit import show_trace
    from maquette.training.run import RunDirectory
    from maquette.training.run_corpus import text_of

    with terminal.stages() as progress:
        index = open_index(text_of(RunDirectory(run)), progress=progress)
    traced = trace(index, text)
    show_trace(terminal, traced)
    return traced.to_dict()
