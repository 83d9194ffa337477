"""Search for a prompt by a model's answers alone, without a gradient (black-box tuning).

maquette adapt black-box RUN DATA searches vectors that stand before the text, by CMA-ES in a random
subspace of --size dimensions; what comes out is a run with a prompt adapter. With --endpoint URL --model NAME
and DATA alone the model is any that answers OpenAI's API with log-probabilities, on this machine or
elsewhere: vectors cannot be sent there, so words are searched, of --words or of the examples, and
prompt.json in the folder has the best. Nothing is sent where no endpoint is named.

DATA are examples: a corpus of them, or files of records with prompt and answer; of examples with choices
the loss is over the choices. --examples of them are searched on, as many others choose among what is found
every --every calls, and those held out are scored before and after. A call is one prompt on all of them.

The key of an endpoint is read from the environment variable that --key-variable names; it is not kept.

example: maquette adapt black-box runs/first questions.jsonl --run runs/prompted
         maquette adapt black-box runs/first questions.jsonl --calls 8000 --size 200 --loss hinge
         maquette adapt black-box --endpoint http://localhost:8000/v1 --model small questions.jsonl
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal
from maquette.cli.texts import line_ends

VECTORS = {"size": 64, "prompts": 10}
"""options of a search for vectors, and what they are when not given"""
ENDPOINT = {"model": None, "words": None, "key_variable": "OPENAI_API_KEY", "timeout": 60.0,
            "places": 5}  # fmt: skip
"""options of an endpoint, and what they are when not given"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="RUN DATA", nargs="+",
                        help="the run and the examples; of an endpoint the examples alone")  # fmt: skip
    parser.add_argument("--run", help="the new folder (default: runs/black-box)")
    parser.add_argument("--resume", action="store_true",
                        help="go on with a search that was cut off")  # fmt: skip
    parser.add_argument("--calls", type=int, default=2000, help="prompts that are scored (2000)")
    parser.add_argument("--population", type=int, default=20,
                        help="prompts that are scored at a time (20)")  # fmt: skip
    parser.add_argument("--examples", type=int, default=32,
                        help="examples to search on, and others to choose by (32)")  # fmt: skip
    parser.add_argument("--every", type=int, default=100, help="calls between choices (100)")
    parser.add_argument("--loss", choices=("cross-entropy", "hinge"), default="cross-entropy",
                        help="over the choices of an example (cross-entropy)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fields", default="", metavar="PART=NAME,...",
                        help="of records: prompt=..., answer=..., choices=...")  # fmt: skip
    parser.add_argument("--template", type=line_ends, metavar="TEXT",
                        help="how an example is written (as RUN learnt, else {prompt}{answer})")  # fmt: skip
    vectors = parser.add_argument_group("a run of ours")
    vectors.add_argument("--size", type=int, help="dimensions that are searched (64)")
    vectors.add_argument("--prompts", type=int, help="number of vectors (10)")
    endpoint = parser.add_argument_group("an endpoint")
    endpoint.add_argument("--endpoint", metavar="URL", help="its address, as http://host:8000/v1")
    endpoint.add_argument("--model", metavar="NAME", help="the model's name there")
    endpoint.add_argument("--words", metavar="FILE",
                          help="words to choose from, one a line (those of the examples)")  # fmt: skip
    endpoint.add_argument("--places", type=int, help="words of the prompt (5)")
    endpoint.add_argument("--key-variable", metavar="NAME",
                          help="environment variable with the key (OPENAI_API_KEY)")  # fmt: skip
    endpoint.add_argument("--timeout", type=float, metavar="SECONDS",
                          help="longest wait for an answer (60)")  # fmt: skip


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.training.run import free_name

    ours = arguments.endpoint is None
    own, others = (VECTORS, ENDPOINT) if ours else (ENDPOINT, VECTORS)
    for name in others:
        if getattr(arguments, name) is not None:
            of = "an endpoint: name it with --endpoint" if ours else "a run of ours: leave it out"
            raise WrongUse(f"--{name.replace('_', '-')} is of {of}")
    for name, value in own.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if len(arguments.names) != (2 if ours else 1):
        wanted = "a run and examples" if ours else "of an endpoint the examples alone"
        raise WrongUse(f"{' '.join(arguments.names)}: name {wanted}")
    path = Path(arguments.run or free_name(Path("runs"), "black-box")).expanduser()
    search = {
        name: getattr(arguments, name)
        for name in ("calls", "population", "examples", "every", "seed", "loss")
    }
    terminal = Terminal(arguments.json)
    way = of_run if ours else of_endpoint
    return way(arguments, path, search, terminal)


def of_run(
    arguments: argparse.Namespace, path: Path, search: dict[str, Any], terminal: Terminal
) -> dict[str, Any]:
    """A prompt of vectors for a run; a table of what is right or costs before and after."""
    from maquette.cli.adapted import show_adapted
    from maquette.cli.corpus_examples import fields_of
    from maquette.workshop.adapt_black_box import CHOSEN, BlackBoxOptions, adapt_black_box

    run, data = arguments.names
    options = BlackBoxOptions(**search, size=arguments.size, length=arguments.prompts)
    with terminal.stages(counts=True) as progress:
        done = adapt_black_box(
            Path(run), data, path, options,
            fields=fields_of(arguments.fields), template=arguments.template,
            resume=arguments.resume, progress=progress, say=terminal.say,
        )  # fmt: skip
    terminal.say(f"{done.found.calls:,} calls, {options.size} dimensions searched")
    bits = [f"{score.bits_per_byte:.4f}" for score in done.scores]
    rows = [["bits per byte of held-out answers", *bits]]
    show_adapted(done, terminal, rows if done.metric == CHOSEN else ())
    return done.to_dict()


def of_endpoint(
    arguments: argparse.Namespace, path: Path, search: dict[str, Any], terminal: Terminal
) -> dict[str, Any]:
    """A prompt of words for a model behind an endpoint."""
    from maquette.cli.corpus_examples import fields_of
    from maquette.serving.endpoint import Endpoint
    from maquette.workshop.black_box_endpoint import WordOptions, prompt_words

    if arguments.model is None:
        raise WrongUse("--model is missing: name the endpoint's model")
    endpoint = Endpoint(
        arguments.endpoint,
        arguments.model,
        key_variable=arguments.key_variable,
        timeout=arguments.timeout,
    )
    with terminal.stages(counts=True) as progress:
        done = prompt_words(
            endpoint, arguments.names[0], path,
            WordOptions(**search, places=arguments.places),
            words=None if arguments.words is None else Path(arguments.words),
            fields=fields_of(arguments.fields), template=arguments.template or "{prompt}{answer}",
            resume=arguments.resume, progress=progress, say=terminal.say,
        )  # fmt: skip
    terminal.say(f'prompt: "{done["prompt"]}"')
    terminal.table(
        ["", "before", "after"],
        [[done["metric"], f"{done['metric_before']:.4f}", f"{done['metric_after']:.4f}"]],
    )
    terminal.say(
        f"{path}: prompt.json, in {done['calls']:,} calls of {done['requests']:,} requests"
    )
    return done
