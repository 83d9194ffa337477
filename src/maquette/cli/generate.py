"""Continue a prompt with a run's model.

example: maquette generate runs/first "def " --tokens 60
         maquette generate runs/first "def " --temperature 0
         maquette generate runs/first "def " "class " --top-p 0.9 --seed 3
         maquette generate runs/first "def " --trace
"""

import argparse
import sys
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("prompts", nargs="*", default=[""], metavar="PROMPT",
                        help="what to continue; several make a batch (none: a new document)")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=64, help="at most so many (default: 64)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: greedy (default: 0.8)")
    parser.add_argument("--top-k", type=int, help="choose among the k likeliest")
    parser.add_argument("--top-p", type=float, help="choose among the likeliest of mass p")
    parser.add_argument("--min-p", type=float, help="drop what is less than p times the likeliest")
    parser.add_argument("--stop", action="append", default=[], help="end before this string")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto",
                        help="of the weights (auto: the faster here)")  # fmt: skip
    parser.add_argument("--trace", action="store_true",
                        help="say where the text stands in the training text")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse
    from maquette.serving.sampler import Sampling
    from maquette.training.run import RunDirectory
    from maquette.workshop.load import load

    if arguments.tokens < 1:
        raise WrongUse(f"tokens is {arguments.tokens}: ask for at least 1")
    sampling = Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    terminal = Terminal(arguments.json)
    if arguments.trace:
        RunDirectory(arguments.run).corpus()  # refuses a run without one before it writes
    loaded = load(arguments.run).optimise(arguments.precision)
    prompts = arguments.prompts or [""]
    alone = len(prompts) == 1

    def write(piece: str) -> None:
        print(piece, end="", file=terminal.file, flush=True)

    if alone:
        write(prompts[0])
    results, timing = loaded.generate_batch(
        prompts,
        tokens=arguments.tokens,
        sampling=sampling,
        stop=arguments.stop,
        on_text=write if alone else None,
    )
    if alone:
        terminal.say()
    else:
        for prompt, result in zip(prompts, results, strict=True):
            terminal.say(f"{prompt}{result.text}\n---")
    speed = timing.tokens_per_second
    print(f"[{timing.tokens} tokens, {speed:,.0f} a second]", file=sys.stderr)
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
    } | ({"traces": traces} if traces else {})


def trace_text(run: str, text: str, terminal: Terminal) -> dict[str, Any]:
    """Print and return the trace of what was written."""
    from maquette.audit.index import open_index
    from maquette.audit.trace import trace
    from maquette.cli.audit import show_trace
    from maquette.training.run import RunDirectory

    with terminal.stages() as progress:
        index = open_index(RunDirectory(run).corpus(), progress=progress)
    found = trace(index, text)
    show_trace(terminal, found)
    return found.to_dict()
