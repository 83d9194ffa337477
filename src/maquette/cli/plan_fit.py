"""`maquette plan --from`: the law of a table of runs, by the three approaches side by side."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal, amount

if TYPE_CHECKING:
    from maquette.scaling.approaches import Comparison
    from maquette.scaling.fit_points import Points

FOREIGN = ("out", "device", "price", "law", "corpus", "utilisation", "inference_tokens",
           "vocabulary", "context", "hours", "minutes")  # fmt: skip
LARGEST = 1e30
MOST_RESAMPLES = 10_000


def fitted(
    arguments: argparse.Namespace, flops: float | None, terminal: Terminal
) -> dict[str, Any]:
    """Fit, show, and say what a budget would buy."""
    from maquette.base.errors import UserError
    from maquette.scaling.approaches import TIMES, compare
    from maquette.scaling.fit_points import columns_from, read_points

    _refuse(arguments, flops)
    columns = columns_from(arguments.columns) if arguments.columns else None
    points = read_points(Path(arguments.source), columns)
    target = TIMES * float(points.flops.max()) if flops is None else flops
    comparison = compare(points, resamples=arguments.resamples, drop=arguments.drop, flops=target)
    if comparison.fit is None:
        raise UserError(
            next(approach.reason for approach in comparison.approaches if approach.number == 3)
        )
    surface, third = comparison.fit, comparison.approaches[2]
    n, d = surface.law.best(target)  # where A or B is 0 there is nothing to show
    terminal.say(f"{points.source}: {len(points.ends())} runs, {amount(points.parameters.min())} to "
                 f"{amount(points.parameters.max())} parameters, {amount(points.tokens.min())} to "
                 f"{amount(points.tokens.max())} tokens")  # fmt: skip
    _approaches(comparison, target, terminal)
    intervals = surface.intervals
    constants = surface.law.constants()
    terminal.say()
    terminal.say(f"L(N, D) = E + A / N^alpha + B / D^beta through {surface.points} runs, "
                 f"missed by {surface.error:.2%} (rms)")  # fmt: skip
    rows = [
        [name, f"{value:.4g}", _between(intervals.get(name))] for name, value in constants.items()
    ]
    terminal.table(["", "fitted", "95 % of resamples"], rows)
    split = third.best(target)
    result: dict[str, Any] = {
        "flops": target,
        "parameters": split and split[0],
        "tokens": split and split[1],
        "law": constants | {"name": surface.law.name, "source": surface.law.source},
        "intervals": {name: list(pair) for name, pair in intervals.items()},
        "error": surface.error,
        "points": surface.points,
        "objective": surface.objective,
        "approaches": [_approach(approach, target) for approach in comparison.approaches],
        "loss_predicted": None,
        "loss_low": None,
        "loss_high": None,
        "outside": split and surface.extrapolates(*split),
        "warnings": [*points.notes, *comparison.warnings],
    }
    try:
        p = surface.predict(n, d) if split else None
    except UserError as error:
        p = None
        result["warnings"].append(str(error))
    if split is None:
        terminal.say(f"at {target:.3g} FLOP: these runs do not determine the surface's best split")
    if p is not None:
        result |= {"loss_predicted": p.loss, "loss_low": p.low, "loss_high": p.high}
        result["warnings"] += [p.warning] if p.warning else []
        where = "" if p.outside <= 1 else f", {p.outside:.3g} times outside of the points"
        terminal.say(f"at {target:.3g} FLOP: {amount(n)} parameters, {amount(d)} tokens, "
                     f"loss {p.loss:.4g} ({p.low:.4g} to {p.high:.4g}){where}")  # fmt: skip
    for parameters, tokens, loss, residual in surface.outliers:
        terminal.say(f"  far from the rest: {parameters:.4g} parameters, {tokens:.4g} tokens, loss "
                     f"{loss:.4g}, {residual:+.1%}")  # fmt: skip
    for warning in result["warnings"]:
        terminal.say(f"  note: {warning}")
    if arguments.picture:
        _picture(Path(arguments.picture), points, comparison, terminal)
        result["picture"] = arguments.picture
    return result


def _refuse(arguments: argparse.Namespace, flops: float | None) -> None:
    """WrongUse for what a fit cannot take, before anything is read."""
    from maquette.base.errors import WrongUse

    options = [name for name in FOREIGN if getattr(arguments, name) is not None]
    options += ["devices"] if arguments.devices != 1 else []
    words = ["--" + name.replace("_", "-") for name in options]
    words += [f"the recipe {arguments.recipe}"] if arguments.recipe is not None else []
    if words:
        belong = "belongs" if len(words) == 1 else "belong"
        raise WrongUse(
            f"--from fits a law to runs: leave out {' and '.join(words)}, which {belong} to a budget"
        )
    if flops is not None and not 1 <= flops <= LARGEST:
        raise WrongUse(f"flops is {flops:g}: use 1 to {LARGEST:g} operations")
    if not 0 <= arguments.resamples <= MOST_RESAMPLES:
        raise WrongUse(f"resamples is {arguments.resamples}: use 0 to {MOST_RESAMPLES}")
    if arguments.drop < 0:
        raise WrongUse(f"drop is {arguments.drop}: use 0 or more")


def _approaches(comparison: "Comparison", target: float, terminal: Terminal) -> None:
    rows = []
    for approach, best in comparison.at(target):
        if approach.a is None or best is None:
            rows.append(
                [f"{approach.number} {approach.name}", "-", "-", "-", "-", "none, see below"]
            )
            continue
        inside = sum(m.interior for m in approach.minima)
        minima = (
            f"{inside} of {len(approach.minima)} minima inside" if approach.minima else "all runs"
        )
        rows.append([f"{approach.number} {approach.name}", f"{approach.a:.3f}", _between(approach.interval),
                     amount(best[0]), amount(best[1]), minima])  # fmt: skip
    head = ["approach", "N ~ C^a", "95 %", f"N at {target:.3g}", "D", "from"]
    terminal.table(head, rows)


def _approach(approach: Any, target: float) -> dict[str, Any]:
    best = approach.best(target)
    return {
        "number": approach.number,
        "name": approach.name,
        "a": approach.a,
        "b": approach.b,
        "interval": list(approach.interval) if approach.interval else None,
        "parameters": best and best[0],
        "tokens": best and best[1],
        "reason": approach.reason,
    }


def _between(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.4g} to {pair[1]:.4g}"


def _picture(path: Path, points: "Points", comparison: "Comparison", terminal: Terminal) -> None:
    from maquette.base.files import write_atomic
    from maquette.workshop.charts import png
    from maquette.workshop.law_chart import fit_chart

    write_atomic(path, png(fit_chart(points, comparison.fit, comparison)))
    terminal.say(f"picture: {path}")
