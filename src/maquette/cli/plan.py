"""What to train with a budget: size, tokens, settings, layout, memory, time, expected loss, and why.

The budget is --flops, or --hours (or --minutes) on --devices of a --device; without a device it is
this machine as measured, and without any budget an hour of it. With the name of a recipe or of a
published architecture in its place, what that takes. With --from, the law of a table of runs. With
--serve, memory and tokens a second of a trained model on a phone, a board, a laptop, a GPU.

maquette plan ladder          measure your own law: train a family of small models
maquette plan coordinates     check that activations keep their size as the width grows

example: maquette plan --device H100 --devices 8 --hours 24
         maquette plan --flops 5.88e23 --why
         maquette plan --minutes 10 --corpus default --out planned.yaml
         maquette plan gpt3-175b --device A100 --devices 1024
         maquette plan --serve llama-7b --device pixel-6
         maquette plan --from runs.csv --columns "parameters=Model Size,flops=Training FLOP"
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.models.published import Published
    from maquette.scaling.plan_lines import Line
    from maquette.training.recipe import Recipe

VERBS = {"ladder": "plan_ladder", "coordinates": "plan_coordinates"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE",
                        help="a recipe, its file, or a published architecture: what it takes")  # fmt: skip
    parser.add_argument("--flops", type=float, help="operations to spend")
    parser.add_argument("--device", help="a device by name, such as H100 (default: this machine); "
                        "with --serve also pixel-6, pi-5, m2 ..., `this`, or `list`")  # fmt: skip
    parser.add_argument("--serve", metavar="RUN|NAME",
                        help="plan to serve a run, or a published architecture, on --device")  # fmt: skip
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
        "--vocabulary",
        type=int,
        help="number of tokens in the vocabulary (default: 32768; 4096 below 30 M parameters)",
    )
    parser.add_argument("--context", type=int, help="positions (default: 1024, or 256)")
    parser.add_argument("--why", action="store_true", help="the derivation of every number")
    parser.add_argument("--out", metavar="FILE", help="write the recipe, for maquette train")
    parser.add_argument("--picture", metavar="FILE", help="draw the budget, or the fit, as a PNG")
    fit = parser.add_argument_group("a law of your own")
    fit.add_argument("--from", dest="source", metavar="CSV|FOLDER", help="a table of runs, or runs")
    fit.add_argument("--columns", metavar="NAME=COLUMN,...",
                     help="what the table calls parameters, tokens, flops, loss, run; "
                     "COLUMN*1e6 where it counts in millions")  # fmt: skip
    fit.add_argument("--drop", type=int, default=0, metavar="K",
                     help="leave out the K runs of the highest loss")  # fmt: skip
    fit.add_argument("--resamples", type=int, default=100, help="of the bootstrap (default: 100)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse

    terminal = Terminal(arguments.json)
    if arguments.picture and not arguments.picture.endswith(".png"):
        raise WrongUse(f"--picture writes a PNG: name it {arguments.picture}.png, for one")
    if arguments.serve is not None or arguments.device == "list":
        from maquette.cli.plan_serve import served

        _alone(arguments)
        return served(arguments, terminal)
    if arguments.source is not None:
        from maquette.cli.plan_fit import fitted

        return fitted(arguments, arguments.flops, terminal)
    _only_with(arguments, "--from CSV", "columns", "drop")
    if arguments.recipe is not None:
        return _taken(arguments, terminal)
    return _planned(arguments, terminal)


def _only_with(arguments: argparse.Namespace, requirement: str, *names: str) -> None:
    from maquette.base.errors import WrongUse

    for name in names:
        if getattr(arguments, name):
            raise WrongUse(
                f"--{name.replace('_', '-')} belongs to {requirement}: add that, or leave it out"
            )


def _alone(arguments: argparse.Namespace) -> None:
    """Raise WrongUse for what has no meaning beside --serve."""
    from maquette.base.errors import WrongUse

    for name in (
        "recipe", "flops", "hours", "minutes", "price", "utilisation", "corpus", "law",
        "inference_tokens", "vocabulary", "out", "picture", "source", "columns", "drop",
    ):  # fmt: skip
        if getattr(arguments, name):
            flag = "RECIPE" if name == "recipe" else "--" + name.replace("_", "-")
            raise WrongUse(f"{flag} is not of --serve: leave it out")
    if arguments.devices != 1:
        raise WrongUse("--serve plans one device: leave --devices out")
    if arguments.context is not None and arguments.context < 1:
        raise WrongUse(f"context is {arguments.context}: use at least 1")


def _planned(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Plan a budget."""
    from maquette.scaling.budget import Budget, hours_of
    from maquette.scaling.plan import make_plan
    from maquette.workshop.planning import device_named, law_named, text_of

    hours = hours_of(arguments.hours, arguments.minutes)
    if arguments.flops is None and hours is None:
        hours = 1.0
    device = None
    if hours is not None or arguments.device is not None:
        device = device_named(arguments.device)
    elif arguments.devices != 1:
        _only_with(arguments, "--device D", "devices")
    if device is None:
        _only_with(arguments, "--device D", "utilisation", "price")
    budget = Budget(
        flops=arguments.flops,
        seconds=None if hours is None else hours * 3600,
        device=device,
        devices=arguments.devices,
        utilisation=arguments.utilisation,
        price=arguments.price,
    )
    plan = make_plan(
        budget,
        law_named(arguments.law, arguments.corpus),
        text=text_of(arguments.corpus) if arguments.corpus else None,
        vocabulary=arguments.vocabulary,
        context=arguments.context,
        inference_tokens=arguments.inference_tokens,
    )
    _show(plan.lines, plan.warnings, arguments.why, terminal)
    if arguments.out:
        plan.recipe.save(Path(arguments.out), plan.forecast())
        terminal.say(f"recipe: {arguments.out}; next: maquette train {arguments.out}")
        if arguments.corpus is None and plan.model.vocabulary != 4096:
            vocabulary = plan.model.vocabulary
            terminal.say(f"  with a corpus of vocabulary {vocabulary:,}: maquette corpus build corpus/mine "
                         f"SOURCE --vocabulary {vocabulary}, and --data.corpus corpus/mine")  # fmt: skip
    if arguments.picture:
        from maquette.base.files import write_atomic
        from maquette.workshop.charts import png
        from maquette.workshop.law_chart import budget_chart

        unit = "bits per byte" if plan.small else "nats a token"
        chosen = (plan.parameters, plan.tokens)
        chart = budget_chart(plan.surface, plan.flops, chosen, unit)
        write_atomic(Path(arguments.picture), png(chart))
        terminal.say(f"picture: {arguments.picture}")
    best = plan.option
    return {
        "flops": plan.flops,
        "parameters": plan.parameters,
        "tokens": plan.tokens,
        "parameters_interval": plan.parameters_interval and list(plan.parameters_interval),
        "tokens_interval": plan.tokens_interval and list(plan.tokens_interval),
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
        "other_sizes": [vars(option) for option in plan.beside],
        "recipe": plan.recipe.to_dict(),
        "why": dict(plan.why),
        "warnings": plan.warnings,
    }


def _taken(arguments: argparse.Namespace, terminal: Terminal) -> dict[str, Any]:
    """Show the parameters, operations, memory and time of a recipe or an architecture."""
    from maquette.base.errors import WrongUse
    from maquette.scaling.cost import cost
    from maquette.training.recipe import language
    from maquette.workshop.planning import device_named

    for name in (
        "flops", "hours", "minutes", "law", "inference_tokens", "out", "picture", "corpus",
        "utilisation", "vocabulary", "context",
    ):  # fmt: skip
        if getattr(arguments, name) is not None:
            flag = name.replace("_", "-")
            raise WrongUse(
                f"--{flag} is for a budget: leave it out, or leave {arguments.recipe} out"
            )
    recipe, published = _recipe(arguments.recipe)
    device = device_named(arguments.device)
    if not recipe.flops_per_unit:  # a step is timed and counted
        from maquette.training.datasets.picture_config import picture_recipe
        from maquette.workshop.picture_plan import plan_pictures

        if arguments.devices != 1 or arguments.price is not None:
            raise WrongUse(
                f"{recipe.name} is planned for one device, without a price: leave both out"
            )
        device_or_none = device if arguments.device is not None else None
        lines, numbers = plan_pictures(picture_recipe(recipe), device_or_none)
        _show(lines, [], arguments.why, terminal)
        return numbers | {"why": {line.name: line.why for line in lines}}
    estimate = cost(language(recipe), device, arguments.devices, published, arguments.price)
    _show(estimate.lines, estimate.warnings, arguments.why, terminal)
    return estimate.plain() | {"why": {line.name: line.why for line in estimate.lines if line.name}}


def _show(lines: "list[Line]", warnings: list[str], why: bool, terminal: Terminal) -> None:
    for line in lines:
        terminal.say(f"  {line.name:<12} {line.text}")
        if why:
            terminal.say(f"  {'':<12}   {line.why}")
    for warning in warnings:
        terminal.say(f"  note: {warning}")


def _recipe(name: str) -> "tuple[Recipe, Published | None]":
    """A published architecture without torch; a recipe of the catalogue or of a file with it."""
    from maquette.models.published import names, published

    if name in names():
        from maquette.scaling.cost import recipe_of

        architecture = published(name)
        return recipe_of(architecture), architecture
    if name.endswith((".yaml", ".yml")):
        from maquette.training.recipe import load_recipe

        recipe = load_recipe(Path(name))
    else:
        from maquette.experiments.catalogue import recipe_named

        recipe = recipe_named(name)
    return recipe, None
