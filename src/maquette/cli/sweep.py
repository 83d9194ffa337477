"""Tune a recipe on a narrow proxy, and write the recipe of the large model with what was found.

The proxy is the recipe at --width: fewer heads of the same size, the same rules. By default the
learning rate is swept, in steps of 2 around the recipe's; --over FIELD=a,b,c or FIELD=low..high
names others, and may come several times. Fields given as --FIELD VALUE hold for both models. A
sweep that was cut off goes on when the same is asked for again.

example: maquette sweep tiny --width 32 --steps 60
         maquette sweep my.yaml --width 128 --over optimiser.learning_rate=0.001..0.03
                  --over optimiser.beta2=0.95,0.99 --trials 27 --out tuned.yaml
"""

import argparse
import math
from pathlib import Path
from typing import Any

from maquette.base.errors import WrongUse
from maquette.cli.fields import with_flags
from maquette.cli.terminal import Terminal

TAKES_FIELDS = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "maquette sweep RECIPE --width W [OPTION ...] [--FIELD VALUE ...]"
    parser.add_argument("--recipe", help="RECIPE comes first: a name, or a .yaml file")
    parser.add_argument("--width", type=int, help="of the proxy: a multiple of the head size")
    parser.add_argument("--depth", type=int, help="of the proxy (default: the recipe's)")
    parser.add_argument("--over", action="append", default=[], metavar="FIELD=VALUES",
                        help="a,b,c or low..high (default: the learning rate, in steps of 2)")  # fmt: skip
    parser.add_argument("--trials", type=int, help="points tried (default: all; of ranges 16)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each point (default: 1)")
    parser.add_argument("--steps", type=int, help="of the proxy (default: the recipe's)")
    parser.add_argument("--halving", type=int, default=3,
                        help="of over 12 points, one in so many goes on: 2 or 3 (default: 3)")  # fmt: skip
    parser.add_argument("--run", help="folder of the trials (default: runs/sweep-RECIPE)")
    parser.add_argument("--out", help="the large model's recipe (default: recipe.yaml in --run)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.experiments.catalogue import recipe_named
    from maquette.training.recipe import language
    from maquette.workshop.sweep import sweep, transferred
    from maquette.workshop.sweep_plan import make_plan

    terminal = Terminal(arguments.json)
    if not arguments.recipe:
        raise WrongUse("name a recipe: tiny is one, maquette systems lists more")
    if arguments.width is None:
        raise WrongUse("say how wide the proxy is: --width 64, say")
    recipe = with_flags(language(recipe_named(arguments.recipe)), arguments.fields)
    plan = make_plan(
        recipe,
        arguments.width,
        arguments.over,
        depth=arguments.depth,
        trials=arguments.trials,
        seeds=arguments.seeds,
        steps=arguments.steps,
        eta=arguments.halving,
    )
    folder = Path(arguments.run or f"runs/sweep-{recipe.name}").expanduser()
    result = sweep(plan, folder, terminal.say)
    names = [axis.name for axis in plan.axes]
    terminal.table(
        [*names, "steps", "loss", "seeds"],
        [
            [*(_short(t.point[n]) for n in names), f"{t.steps:,}", _loss(t.loss),
             " ".join(map(_loss, t.losses))]
            for t in result.trials
        ],
    )  # fmt: skip
    if result.optimum is not None:
        for line in _flatness(names[0], result.optimum):
            terminal.say(line)
    for warning in result.warnings:
        terminal.say(f"note: {warning}")
    out = Path(arguments.out).expanduser() if arguments.out else folder / "recipe.yaml"
    large = transferred(plan, result) if math.isfinite(result.best.loss) else None
    if large is not None:
        large.save(out)
        shape = f"width {recipe.model.width}, depth {recipe.model.depth}"
        terminal.say(f"the large model ({shape}) takes the same values: {out}")
        terminal.say(f"try: maquette train {out}")
    picture = _picture(plan, result, folder)
    best: dict[str, Any] = {
        "values": result.best.point,
        "loss": _finite(result.best.loss),
        "steps": result.best.steps,
        "width": plan.width,
    }
    optimum = result.optimum
    if optimum is not None:
        best |= {
            "optimum": optimum.value,
            "off": [_finite(x) for x in optimum.off],
            "good": list(optimum.good),
            "edge": bool(optimum.edge),
        }
    return {
        "best": best,
        "transferred": result.values if large is not None else None,
        "recipe": str(out) if large is not None else None,
        "run": str(folder),
        "picture": picture,
        "warnings": list(result.warnings),
        "trials": [
            {"values": t.point, "steps": t.steps, "loss": _finite(t.loss)} for t in result.trials
        ],
    }


def _flatness(name: str, optimum: Any) -> list[str]:
    left, right = (f"{x:.3f}" if math.isfinite(x) else "no trial" for x in optimum.off)
    low, high = optimum.good
    low_open, high_open = (
        ("or less " if optimum.open[0] else ""),
        (" or more" if optimum.open[1] else ""),
    )
    return [
        f"  best {name}: {optimum.value:.3g}; one point lower costs {left}, one higher {right}",
        f"  within 1 % of the best loss: {low:.3g} {low_open}to {high:.3g}{high_open}",
    ]


def _picture(plan: Any, result: Any, folder: Path) -> str | None:
    from maquette.base.files import write_atomic
    from maquette.workshop.charts import png
    from maquette.workshop.sweep import PICTURE
    from maquette.workshop.sweep_chart import sweep_chart

    if not math.isfinite(result.best.loss):
        return None
    write_atomic(folder / PICTURE, png(sweep_chart(plan, result)))
    return str(folder / PICTURE)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "diverged"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
