"""Adapt a trained picture classifier (a vit or a cnn) to another task with few labelled pictures.

METHOD is linear (new heads alone), bias, vpt-shallow, vpt-deep (visual prompts), lora or full. DATA is
a corpus of pictures with labels, or shapes: the built-in world with the settings that --world.FIELD
gives. METHOD merge writes an adapted run as an ordinary one, with its LoRA in the weights (no DATA).

Heads are new where the labels are not the ones that RUN learned. Printed are the parameters that
were trained and the share of held-out pictures with every label right, before and after.

example: maquette adapt vpt-deep runs/vit shapes --label count --world.objects 4 --world.counts true
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.base.errors import WrongUse
from maquette.cli.terminal import Terminal, TrainingProgress

if TYPE_CHECKING:
    from maquette.worlds.shapes import Shapes

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


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", metavar="METHOD", help="linear, bias, vpt-shallow, ...")
    parser.add_argument("base", metavar="RUN", help="the run that is adapted")
    parser.add_argument("data", metavar="DATA", nargs="?", help="a corpus of pictures, or shapes")
    parser.add_argument("--run", help="the adapted run's directory (default: runs/METHOD)")
    parser.add_argument(
        "--label", action="append", default=[], help="learn this label factor (may be repeated)"
    )
    parser.add_argument(
        "--examples", type=int, default=1000, help="training pictures (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=300, help="steps (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--learning-rate", type=float, help="(default: the method's own)")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--prompts", type=int, default=10, help="prompts of a block")
    parser.add_argument("--rank", type=int, default=8, help="rank of lora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sweep", action="store_true", help="choose rate and decay on a fifth of the pictures"
    )
    for name in WORLD:
        flag = f"--{PREFIX}{name.replace('_', '-')}"
        parser.add_argument(flag, dest=PREFIX + name, metavar="VALUE")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.adaptation.recipes import AdaptOptions
    from maquette.training.datasets.picture_config import PictureData
    from maquette.training.run import free_name
    from maquette.workshop.adapt import adapt

    terminal = Terminal(arguments.json)
    if arguments.method == "merge":
        return merge(arguments, terminal)
    if arguments.data is None:
        raise WrongUse("DATA is missing: name a corpus of pictures, or shapes")
    world = world_of(arguments)
    if world is not None and arguments.data != "shapes":
        raise WrongUse(f"--world settings are those of shapes, the pictures are {arguments.data}")
    path = Path(arguments.run or free_name(Path("runs"), arguments.method)).expanduser()
    data = PictureData(corpus=arguments.data, count=arguments.examples, world=world)
    options = AdaptOptions(
        arguments.method,
        labels=tuple(arguments.label),
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        weight_decay=arguments.weight_decay,
        prompts=arguments.prompts,
        rank=arguments.rank,
        seed=arguments.seed,
    )
    done = adapt(
        Path(arguments.base),
        data,
        path,
        options,
        sweep=arguments.sweep,
        observer=TrainingProgress(terminal),
        say=terminal.say,
    )
    terminal.table(
        ["learning rate", "weight decay", "right of those left out"],
        [[f"{t.learning_rate:g}", f"{t.weight_decay:g}", t.right] for t in done.trials],
    )
    terminal.say(f"{done.method}: {done.counted}")
    rows = [("every label", done.before.all, done.after.all)]
    rows += [(name, share, done.after.factors[name]) for name, share in done.before.factors.items()]
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
