"""Train a recipe: a name from the catalogue (maquette systems lists them), or a YAML file.

Every field of the recipe is a flag, as in --steps 200 --model.width 128; --fields lists them. The
run is a directory that can be read at any moment; Ctrl-C and SIGTERM save and leave, and a run
that was killed goes on with --resume, bit for bit as if nothing had happened.

example: maquette train tiny --run runs/first --steps 100
         maquette train tiny --run runs/first --resume
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maquette.base.errors import UserError, WrongUse
from maquette.cli.fields import show_fields, with_flags
from maquette.cli.terminal import Terminal, TrainingProgress

TAKES_FIELDS = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "maquette train RECIPE [--run DIR] [--resume] [--fields] [--FIELD VALUE ...]"
    parser.add_argument("--recipe", help="RECIPE comes first: a name, or a .yaml file")
    parser.add_argument("--run", help="the run's directory (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on with the run")
    parser.add_argument(
        "--fields", dest="list", action="store_true", help="list the recipe's fields, and stop"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    from maquette.experiments.catalogue import recipe_named
    from maquette.training.length import lengths_of
    from maquette.training.run import RECIPE, RunDirectory, free_name
    from maquette.workshop.forecast import compared
    from maquette.workshop.kinds import workshop_kind
    from maquette.workshop.report import write_report
    from maquette.workshop.train import train

    terminal = Terminal(arguments.json)
    recipe = recipe_named(arguments.recipe) if arguments.recipe else None
    if arguments.list:
        show_fields(recipe or recipe_named("tiny"))
        return None
    path = Path(arguments.run).expanduser() if arguments.run else None
    if arguments.resume:
        if path is None:
            raise WrongUse("say which run to resume: --run DIR")
        if (path / RECIPE).exists():
            own = RunDirectory(path).recipe()
            if recipe is not None and recipe.name != own.name:
                raise WrongUse(f"{path} is a run of {own.name}, not of {recipe.name}")
            if recipe is not None and arguments.recipe.endswith((".yaml", ".yml")):
                terminal.say(f"going on with {path / RECIPE}, not with {arguments.recipe}")
            recipe = own
    if recipe is None:
        raise WrongUse("name a recipe: tiny is one, maquette systems lists more")
    recipe = with_flags(recipe, arguments.fields)
    path = path or free_name(Path("runs"), recipe.name)
    with terminal.stages() as progress:
        outcome = train(
            recipe,
            path,
            resume=arguments.resume,
            observer=TrainingProgress(terminal),
            progress=progress,
            planned=_planned(arguments.recipe),
        )
    if not outcome.finished:
        raise UserError(
            f"stopped at step {outcome.step}, saved: go on with maquette train --resume --run {path}"
        )
    report, kind = None, workshop_kind(recipe.data.kind)
    if RunDirectory(path).recipe().watch.report:
        kind.finish(path)
        report = write_report(path)
    forecast = compared(RunDirectory(path)) or {"compared": []}
    terminal.table(
        ["", "planned", "happened"], [list(row.values()) for row in forecast["compared"]]
    )
    terminal.say(f"trained: {path}" + (f", report: {report}" if report else ""))
    terminal.say(f"try: {kind.next_command(recipe, path)}")
    found_out = asdict(outcome)
    changes = [asdict(change) for change in lengths_of(path).changes]
    found_out = {name.replace("tokens", recipe.unit): v for name, v in found_out.items()}
    return (
        {"run": str(path), "report": report and str(report)}
        | found_out
        | {"length_changes": changes}
    )


def _planned(name: str | None) -> dict[str, Any]:
    """The forecast that `maquette plan --out` kept beside the recipe."""
    if name is None or not name.endswith((".yaml", ".yml")) or not Path(name).is_file():
        return {}
    from maquette.training.recipe import load_plan

    return load_plan(Path(name))
