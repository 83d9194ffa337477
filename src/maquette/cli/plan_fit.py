"""`maquette plan --from`: the law of a table of runs, by the three approaches side by side."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal, amount

if TYPE_CHECKING:
    from maquette.scaling.approaches import Comparison
    from maquette.scaling.points import Points

TIMES = 10  # the budget that is shown where none is named, over the largest of the points


def fitted(
    arguments: argparse.Namespace, flops: float | None, terminal: Terminal
) -> dict[str, Any]:
    """Fit, show, and say what a budget would buy."""
    from maquette.base.errors import UserError, WrongUse
    from maquette.scaling.approaches import compare
    from maquette.scaling.points import columns_from, read_points

    columns = columns_from(arguments.columns) if arguments.columns else None
    points = read_points(Path(arguments.source), columns)
    found = compare(points, resamples=arguments.resamples, drop=arguments.drop)
    if found.fit is None:
        raise UserError(next(one.reason for one in found.approaches if one.number == 3))
    surface, target = found.fit, flops or TIMES * float(points.flops.max())
    terminal.say(f"{points.source}: {len(points.ends())} runs, {amount(points.parameters.min())} to "
                 f"{amount(points.parameters.max())} parameters, {amount(points.tokens.min())} to "
                 f"{amount(points.tokens.max())} tokens")  # fmt: skip
    _approaches(found, target, terminal)
    intervals = surface.intervals
    constants = surface.law.constants()
    terminal.say()
    terminal.say(f"L(N, D) = E + A / N^alpha + B / D^beta through {surface.points} runs, "
                 f"missed by {surface.error:.2%} (rms)")  # fmt: skip
    rows = [
        [name, f"{value:.4g}", _between(intervals.get(name))] for name, value in constants.items()
    ]
    terminal.table(["", "fitted", "95 % of resamples"], rows)
    n, d = surface.law.best(target)
    result: dict[str, Any] = {
        "flops": target,
        "parameters": n,
        "tokens": d,
        "law": constants | {"name": surface.law.name, "source": surface.law.source},
        "intervals": {name: list(pair) for name, pair in intervals.items()},
        "error": surface.error,
        "points": surface.points,
        "objective": surface.objective,
        "approaches": [_approach(one, target) for one in found.approaches],
        "warnings": list(found.warnings),
    }
    try:
        p = surface.predict(n, d)
    except UserError as error:
        result |= {"loss_predicted": None, "loss_low": None, "loss_high": None}
        result["warnings"].append(str(error))
    else:
        result |= {"loss_predicted": p.loss, "loss_low": p.low, "loss_high": p.high}
        where = "" if p.outside <= 1 else f", {p.outside:.3g} times outside of the points"
        terminal.say(f"at {target:.3g} FLOP: {amount(n)} parameters, {amount(d)} tokens, "
                     f"loss {p.loss:.4g} ({p.low:.4g} to {p.high:.4g}){where}")  # fmt: skip
    for parameters, tokens, loss, residual in surface.outliers:
        terminal.say(f"  far from the rest: {parameters:.4g} parameters, {tokens:.4g} tokens, loss "
                     f"{loss:.4g}, {residual:+.1%}")  # fmt: skip
    for warning in result["warnings"]:
        terminal.say(f"  note: {warning}")
    if arguments.picture:
        _picture(Path(arguments.picture), points, found, terminal)
        result["picture"] = arguments.picture
    if arguments.out:
        raise WrongUse("--out writes the recipe of a budget: leave it out with --from")
    return result


def _approaches(found: "Comparison", target: float, terminal: Terminal) -> None:
    rows = []
    for one, best in found.at(target):
        if one.a is None or best is None:
            rows.append([f"{one.number} {one.name}", "-", "-", "-", "-", "none, see below"])
            continue
        inside = sum(m.interior for m in one.minima)
        minima = f"{inside} of {len(one.minima)} minima inside" if one.minima else "all runs"
        rows.append([f"{one.number} {one.name}", f"{one.a:.3f}", _between(one.interval),
                     amount(best[0]), amount(best[1]), minima])  # fmt: skip
    head = ["approach", "N ~ C^a", "95 %", f"N at {target:.3g}", "D", "from"]
    terminal.table(head, rows)


def _approach(one: Any, target: float) -> dict[str, Any]:
    best = one.best(target)
    return {
        "number": one.number,
        "name": one.name,
        "a": one.a,
        "b": one.b,
        "interval": list(one.interval) if one.interval else None,
        "parameters": best and best[0],
        "tokens": best and best[1],
        "reason": one.reason,
    }


def _between(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.4g} to {pair[1]:.4g}"


def _picture(path: Path, points: "Points", found: "Comparison", terminal: Terminal) -> None:
    from maquette.base.files import write_atomic
    from maquette.workshop.charts import png
    from maquette.workshop.law_chart import fit_chart

    write_atomic(path, png(fit_chart(points, found.fit, found)))
    terminal.say(f"picture: {path}")
