"""What to train with a budget: size, tokens, settings, layout, memory, time, expected loss, and why.

The budget is --flops, or --hours (or --minutes) on --devices of a --device; without a device it is
this machine as measured, and without any budget an hour of it. With the name of a recipe or of a
published architecture in its place, what that takes. With --from, the law of a table of runs.

maquette plan ladder          measure your own law: train a family of small models
maquette plan coordinates     check that activations keep their size as the width grows

example: maquette plan --device H100 --devices 8 --hours 24
         maquette plan --flops 5.88e23 --why
         maquette plan --minutes 10 --corpus default --out planned.yaml
         maquette plan gpt3-175b --device A100 --devices 1024
         maquette plan --from runs.csv --columns "parameters=Model Size,flops=Training FLOP"
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.scaling.devices import Device
    from maquette.scaling.laws import ScalingLaw
    from maquette.scaling.plan import Text

VERBS = {"ladder": "plan_ladder", "coordinates": "plan_coordinates"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE",
                        help="a recipe, its file, or a published architecture: what it takes")  # fmt: skip
    parser.add_argument("--flops", type=float, help="operations to spend")
    parser.add_argument("--device", help="a device by name, such as H100 (default: this machine)")
    parser.add_argument("--devices", type=int, default=1, help="how many (default: 1)")
    parser.add_argument("--hours", type=float, help="time to spend")
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--price", type=float, help="money for an hour of one device")
    parser.add_argument("--utilisation", type=float,
                        help="fraction of the peak (default: what the layout should reach)")  # fmt: skip
    parser.add_argument("--corpus", help="a corpus: its vocabulary, its tokens, its own ladder")
    parser.add_argument("--law", help="besiroglu (default), hoffmann, hoffmann-unrounded, muennighoff, "
                        "kaplan; or a ladder's folder")  # fmt: skip
    parser.add_argument("--inference-tokens", type=float, metavar="T",
                        help="tokens to be served: a smaller model, trained longer")  # fmt: skip
    parser.add_argument(
        "--vocabulary", type=int, help="symbols (default: 32768; 4096 below 30 M parameters)"
    )
    parser.add_argument("--context", type=int, help="positions (default: 1024, or 256)")
    parser.add_argument("--why", action="store_true", help="the derivation of every number")
    parser.add_argument("--out", metavar="FILE", help="write the recipe, for maquette train")
    parser.add_argument("--picture", metavar="FILE", help="draw the budget, or the fit, as a PNG")
    fit = parser.add_argument_group("a law of your own")
    fit.add_argument("--from", dest="source", metavar="CSV|FOLDER", help="a table of runs, or runs")
    fit.add_argument("--columns", metavar="NAME=COLUMN,...",
                     help="what the table calls parameters, tokens, flops, loss, run")  # fmt: skip
    fit.add_argument("--drop", type=int, default=0, metavar="K",
                     help="leave out the K runs of the highest loss")  # fmt: skip
    fit.add_argument("--resamples", type=int, default=100, help="of the bootstrap (default: 100)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse

    terminal = Terminal(arguments.json)
    hours = arguments.hours
    if arguments.minutes is not None:
        if hours is not None:
            raise WrongUse("give --hours or --minutes, not both")
        hours = arguments.minutes / 60
    if arguments.source is None:
        for name in ("columns", "drop"):
            if getattr(arguments, name):
                raise WrongUse(f"--{name} belongs to --from CSV: name the table of runs")
        if arguments.recipe is not None:
            return _taken(arguments, terminal)
        return _planned(arguments, hours, terminal)
    from maquette.cli.plan_fit import fitted

    if arguments.recipe is not None or hours is not None:
        raise WrongUse("--from fits a law: give it --flops for a budget, and no recipe or time")
    return fitted(arguments, arguments.flops, terminal)


def _planned(
    arguments: argparse.Namespace, hours: float | None, terminal: Terminal
) -> dict[str, Any]:
    """A budget."""
    from maquette.scaling.plan import Budget, make_plan

    device = None
    if arguments.flops is None and hours is None:
        hours = 1.0
    if hours is not None or arguments.device is not None:
        device = _device(arguments.device)
    budget = Budget(
        flops=arguments.flops,
        seconds=None if hours is None else hours * 3600,
        device=device,
        devices=arguments.devices,
        utilisation=arguments.utilisation,
        price=arguments.price,
    )
    text = _text(arguments.corpus)
    plan = make_plan(
        budget,
        _law(arguments.law, arguments.corpus),
        text=text,
        vocabulary=arguments.vocabulary,
        context=arguments.context,
        inference_tokens=arguments.inference_tokens,
    )
    for line in plan.lines:
        terminal.say(f"  {line.what:<12} {line.text}")
        if arguments.why:
            terminal.say(f"  {'':<12}   {line.why}")
    for warning in plan.warnings:
        terminal.say(f"  note: {warning}")
    if arguments.out:
        _write(Path(arguments.out), plan.recipe, plan.forecast(), terminal)
    if arguments.picture:
        from maquette.base.files import write_atomic
        from maquette.workshop.charts import png
        from maquette.workshop.law_chart import budget_chart

        unit = "bits per byte" if plan.small else "nats a token"
        chosen = (plan.parameters, plan.tokens)
        chart = budget_chart(plan.surface, plan.flops, chosen, unit)
        write_atomic(Path(arguments.picture), png(chart))
        terminal.say(f"picture: {arguments.picture}")
    best = plan.choice.best if plan.choice else None
    return {
        "flops": plan.flops,
        "parameters": plan.parameters,
        "tokens": plan.tokens,
        "batch_tokens": plan.batch_tokens,
        "loss_predicted": plan.loss_predicted,
        "loss_interval": plan.loss_interval and list(plan.loss_interval),
        "law": plan.law.constants() | {"name": plan.law.name, "source": plan.law.source},
        "width": plan.model.width,
        "depth": plan.model.depth,
        "learning_rate": plan.recipe.optimiser.learning_rate,
        "layout": best and best.layout.name,
        "memory": best and best.memory.total,
        "utilisation": plan.utilisation,
        "seconds": plan.seconds,
        "cost": plan.cost,
        "epochs": plan.epochs,
        "other_sizes": [vars(one) for one in plan.beside],
        "recipe": plan.recipe.to_dict(),
        "why": dict(plan.why),
        "warnings": plan.warnings,
    }


def _taken(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """A recipe or an architecture: its parameters, operations, memory and time."""
    from maquette.base.errors import WrongUse
    from maquette.scaling.cost import cost

    for name in (
        "flops",
        "hours",
        "minutes",
        "law",
        "inference_tokens",
        "out",
        "picture",
        "corpus",
    ):
        if getattr(arguments, name) is not None:
            flag = name.replace("_", "-")
            raise WrongUse(
                f"--{flag} is for a budget: leave it out, or leave {arguments.recipe} out"
            )
    recipe, published = _recipe(arguments.recipe)
    found = cost(recipe, _device(arguments.device), arguments.devices, published, arguments.price)
    for line in found.lines:
        terminal.say(f"  {line.what:<12} {line.text}")
        if arguments.why:
            terminal.say(f"  {'':<12}   {line.why}")
    for warning in found.warnings:
        terminal.say(f"  note: {warning}")
    return found.plain() | {"why": {line.what: line.why for line in found.lines}}


def _recipe(name: str) -> tuple[Any, Any]:
    """A published architecture without torch; a recipe of the catalogue or of a file with it."""
    from maquette.models.published import names, published

    if name in names():
        from maquette.scaling.cost import recipe_of

        one = published(name)
        return recipe_of(one), one
    if name.endswith((".yaml", ".yml")):
        from maquette.training.recipe import load_recipe

        return load_recipe(Path(name)), None
    from maquette.systems.catalogue import recipe_named

    return recipe_named(name), None


def _device(name: str | None) -> "Device":
    """A device of the table, or this machine: measured now if it was not in the last day."""
    from maquette.scaling.devices import device, from_machine, here

    if name is not None:
        return device(name)
    known = here()
    if known is None:
        from maquette.base.machine import measure

        known = from_machine(measure())
    return known


def _text(corpus: str | None) -> "Text | None":
    if corpus is None:
        return None
    from maquette.scaling.plan import Text
    from maquette.workshop.corpora import open_corpus

    opened = open_corpus(corpus)
    return Text(
        corpus,
        len(opened.train),
        opened.vocabulary,
        opened.manifest["bytes"] / max(1, opened.manifest["tokens"]),
    )


def _law(name: str | None, corpus: str | None) -> "ScalingLaw":
    """The law of that name, the ladder of a folder, or the corpus's own ladder where it has one."""
    from maquette.scaling.laws import LAWS, law

    if name is not None and name not in LAWS and Path(name).expanduser().exists():
        from maquette.scaling.own import ladder_law

        return ladder_law(Path(name).expanduser())
    if name is None and corpus is not None:
        from maquette.scaling.own import ladder_of
        from maquette.workshop.corpora import open_corpus

        own = ladder_of(open_corpus(corpus).hash)
        if own is not None:
            return own
    return law(name or "besiroglu")


def _write(path: Path, recipe: Any, forecast: dict[str, Any], terminal: Terminal) -> None:
    recipe.save(path, forecast)
    terminal.say(f"recipe: {path}; next: maquette train {path}")
