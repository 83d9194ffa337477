"""Adapt a trained model to a task: a language model to examples or text, a classifier to other labels.

METHOD is lora, adapter, bias, prompt, p-tuning or prefix (of text), linear, vpt-shallow or vpt-deep (of
pictures), or full. What it trains is kept in the adapted run, beside no copy of RUN. DATA of a language
model: a corpus of examples or text, or files: records with prompt and answer, messages or text (.jsonl, .csv,
.parquet ...), or texts. DATA of a classifier: a corpus of pictures with labels, or shapes: the built-in world
with the settings that --world.FIELD gives. METHOD merge writes an adapted run as an ordinary one, with its
LoRA in the weights (no DATA). METHOD compare adapts a language model by every method that fits: one table,
one picture, and which is worth it. With options of their own (maquette adapt METHOD --help):

    continue       goes on with the training of a language model, on your own documents and some of its own
    black-box      searches for a prompt by a model's answers alone, without a gradient; also of an endpoint
    pet            classifies with few labels: patterns, an ensemble, soft labels (PET and iPET)
    self-instruct  writes instructions from seeds, filters and learns them
    star           teaches itself to reason, from questions and their answers
    dpo            learns from pairs of answers, a better and a worse one
    grpo           learns from its own answers to questions with known results

Printed are the parameters that were trained and what held-out data cost before and after; of a language
model also what its own held-out text costs now, minutes and memory.

example: maquette adapt lora runs/first questions.jsonl --run runs/tuned
         maquette adapt compare runs/first questions.jsonl --run runs/compared
         maquette adapt continue runs/first notes/ --run runs/mine
         maquette adapt star runs/steps corpus/sums --run runs/star
         maquette adapt pet runs/first reviews.jsonl --unlabelled more.jsonl --patterns patterns.yaml
         maquette adapt full runs/first notes/ --rate-decay 2.6 --unfreeze 50
         maquette adapt vpt-deep runs/vit shapes --label count --world.objects 4 --world.counts true
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.adapt_compare import compare_methods
from maquette.cli.terminal import Terminal, TrainingProgress
from maquette.cli.texts import line_ends

if TYPE_CHECKING:
    from maquette.adaptation.recipes import AdaptOptions
    from maquette.worlds.shapes import Shapes

VERBS = {
    "continue": "adapt_continue",
    "black-box": "adapt_black_box",
    "dpo": "adapt_dpo",
    "grpo": "adapt_grpo",
    "self-instruct": "adapt_self_instruct",
    "pet": "adapt_pet",
    "star": "adapt_star",
}
"""methods with options of their own, and their modules"""
PREFIX = "world."
WORLD = (
    "objects",
    "colours",
    "shapes",
    "relations",
    "backgrounds",
    "textures",
    "sizes",
    "counts",
    "phrasings",
    "held_out",
    "noise",
    "blur",
)
"""the fields of `Shapes`, which cannot be imported for --help alone"""
TEXT: dict[str, Any] = {
    "methods": "",
    "sequence": None,
    "fields": "",
    "template": None,
}
"""options of language models, and what they are when not given"""
PICTURES: dict[str, Any] = {"label": [], "examples": 1000, "sweep": False}
"""options of classifiers, and what they are when not given"""
BATCH = {"text": 16, "pictures": 64}
"""samples a step where none are asked for"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "method", metavar="METHOD", help="lora, prompt, full, linear, vpt-deep, ..."
    )
    parser.add_argument("base", metavar="RUN", help="the run that is adapted")
    parser.add_argument("data", metavar="DATA", nargs="?", help="a corpus, files, or shapes")
    parser.add_argument("--run", help="the adapted run's directory (default: runs/METHOD)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    parser.add_argument("--steps", type=int, default=300, help="steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="sequences (16) or pictures (64) a step")
    parser.add_argument("--learning-rate", type=float, help="(default: the method's own)")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--prompts", type=int, default=10,
                        help="number of prompts, of keys and values of a prefix (10)")  # fmt: skip
    parser.add_argument("--rank", type=int, default=8, help="rank of lora, size of adapter (8)")
    parser.add_argument("--rate-decay", type=float, default=1.0,
                        help="of full: the rate of a layer over that of the one below it")  # fmt: skip
    parser.add_argument("--unfreeze", type=int, default=0, metavar="STEPS",
                        help="of full: set a layer free so many steps after the one above")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    text = parser.add_argument_group("language models")
    text.add_argument("--sequence", type=int, help="tokens a training sequence")
    text.add_argument("--methods", metavar="A,B,...", help="of compare (all that fit)")
    text.add_argument("--fields", metavar="PART=NAME,...",
                      help="of records: prompt=..., answer=..., messages=...")  # fmt: skip
    text.add_argument("--template", type=line_ends, metavar="TEXT",
                      help="how examples stand (as RUN learnt, else {prompt}{answer}); chat")  # fmt: skip
    pictures = parser.add_argument_group("classifiers")
    pictures.add_argument("--label", action="append", help="learn this label (may be repeated)")
    pictures.add_argument("--examples", type=int, help="training pictures (1000)")
    pictures.add_argument("--sweep", action="store_true", default=None,
                          help="choose rate and decay on a fifth of the pictures")  # fmt: skip
    for name in WORLD:
        flag = f"--{PREFIX}{name.replace('_', '-')}"
        pictures.add_argument(flag, dest=PREFIX + name, metavar="VALUE")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.adaptation.recipes import AdaptOptions
    from maquette.training.run import free_name
    from maquette.workshop.kinds import kind_of_model

    terminal = Terminal(arguments.json)
    if arguments.method == "merge":
        return merge(arguments, terminal)
    base = Path(arguments.base).expanduser()
    kind = "text" if kind_of_model(base) == "text" else "pictures"
    own, others = (TEXT, PICTURES) if kind == "text" else (PICTURES, TEXT)
    worlds = [PREFIX + name for name in WORLD] if kind == "text" else []
    for name in [*others, *worlds]:
        if getattr(arguments, name) is not None:
            raise WrongUse(f"--{name.replace('_', '-')} is not for a run of {kind}: leave it out")
    if arguments.data is None:
        raise WrongUse("DATA is missing: name a corpus, files of examples, or shapes")
    for name, value in own.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    compared = arguments.method == "compare"
    if compared:
        if kind != "text":
            raise WrongUse("adapt compare is of language models: use one method with --sweep")
        if arguments.learning_rate is not None:
            raise WrongUse("compare takes every method's own rate: leave --learning-rate out")
        if arguments.rate_decay != 1 or arguments.unfreeze:
            raise WrongUse(
                "--rate-decay and --unfreeze are of full, not of compare: leave them out"
            )
    elif arguments.methods:
        raise WrongUse("--methods is of compare: leave it out")
    options = AdaptOptions(
        "lora" if compared else arguments.method,
        labels=tuple(arguments.label or ()),
        steps=arguments.steps,
        batch=arguments.batch or BATCH[kind],
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        prompts=arguments.prompts,
        rank=arguments.rank,
        seed=arguments.seed,
        sequence=arguments.sequence,
        rate_decay=arguments.rate_decay,
        unfreeze=arguments.unfreeze,
    )
    path = Path(arguments.run or free_name(Path("runs"), arguments.method)).expanduser()
    if compared:
        return compare_methods(arguments, options, path, terminal)
    way = adapt_language_model if kind == "text" else adapt_classifier
    return way(arguments, options, path, terminal)


def adapt_language_model(
    arguments: argparse.Namespace, options: "AdaptOptions", path: Path, terminal: Terminal
) -> dict[str, Any]:
    """Examples or text; a table of what held-out text costs before and after."""
    from maquette.cli.adapted import losses, show_adapted
    from maquette.cli.corpus_examples import fields_of
    from maquette.workshop.adapt_text import adapt_text

    with terminal.stages() as progress:
        done = adapt_text(
            Path(arguments.base),
            arguments.data,
            path,
            options,
            fields=fields_of(arguments.fields),
            template=arguments.template,
            resume=arguments.resume,
            observer=TrainingProgress(terminal),
            progress=progress,
            say=terminal.say,
        )
    show_adapted(done, terminal, losses(done))
    return done.to_dict()


def adapt_classifier(
    arguments: argparse.Namespace, options: "AdaptOptions", path: Path, terminal: Terminal
) -> dict[str, Any]:
    """Other labels of pictures; a table of what is right before and after."""
    from maquette.training.datasets.picture_config import PictureData
    from maquette.workshop.adapt import adapt

    world = world_of(arguments)
    if world is not None and arguments.data != "shapes":
        raise WrongUse(f"--world settings are those of shapes, the pictures are {arguments.data}")
    data = PictureData(corpus=arguments.data, count=arguments.examples, world=world)
    done = adapt(
        Path(arguments.base),
        data,
        path,
        options,
        sweep=arguments.sweep,
        resume=arguments.resume,
        observer=TrainingProgress(terminal),
        say=terminal.say,
    )
    terminal.table(
        ["learning rate", "weight decay", "right of those left out"],
        [[f"{t.learning_rate:g}", f"{t.weight_decay:g}", t.right] for t in done.trials],
    )
    terminal.say(f"{done.method}: {done.counted}")
    before, after = done.accuracies
    rows = [("every label", before.all, after.all)]
    rows += [(name, share, after.factors[name]) for name, share in before.factors.items()]
    terminal.table(
        ["held-out pictures right", "before", "after", "95 % interval"],
        [
            [name, f"{a.value:.3f}", f"{b.value:.3f}", "{:.3f} to {:.3f}".format(*b.interval)]
            for name, a, b in rows
        ],
    )
    terminal.say(f"adapted: {path}")
    return done.to_dict()


def merge(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Write the model of an adapted run, whole."""
    from maquette.training.run import free_name
    from maquette.workshop.merge import merge

    if arguments.data is not None:
        raise WrongUse(f"adapt merge takes a run alone: leave {arguments.data} out")
    path = Path(arguments.run or free_name(Path("runs"), "merged")).expanduser()
    merge(Path(arguments.base).expanduser(), path)
    terminal.say(f"merged: {path}")
    return {"run": str(path)}


def world_of(arguments: argparse.Namespace) -> "Shapes | None":
    """The world that the --world flags describe; None without any."""
    from pydantic import TypeAdapter, ValidationError

    from maquette.worlds.shapes import Shapes

    given: dict[str, Any] = {
        name.removeprefix(PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(PREFIX) and value is not None
    }
    if not given:
        return None
    if "relations" in given:
        given["relations"] = [one.strip() for one in given["relations"].split(",")]
    try:
        return TypeAdapter(Shapes).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, WrongUse):
            raise WrongUse(str(cause)) from error
        place = PREFIX + ".".join(str(part) for part in first["loc"][:1]).replace("_", "-")
        raise WrongUse(f"--{place} is {first['input']!r}: {first['msg'].lower()}") from error
