"""Measure your own scaling law: a family of small models, its frontier, a prediction beyond it.

Several sizes are trained at several budgets; of each budget the best size is read off a parabola, and
the losses there make the frontier that is extended. Killed, it goes on where it was. Afterwards
`maquette plan --corpus CORPUS` counts with it in place of the published laws.

example: maquette plan ladder --budget 10
         maquette plan ladder --budget 30 --corpus corpus/mine --out ladders/mine --verify
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal, amount


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", type=float, default=10.0, metavar="MINUTES",
                        help="time for the whole ladder (default: 10)")  # fmt: skip
    parser.add_argument(
        "--corpus", default="bytes", help="a corpus folder or name (default: bytes)"
    )
    parser.add_argument("--out", help="its folder (default: ladders/CORPUS)")
    parser.add_argument("--verify", action="store_true",
                        help="train the predicted larger run, too, outside the budget")  # fmt: skip
    parser.add_argument("--workers", type=int, help="runs at a time (default: as many as cores)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse
    from maquette.corpus.text.named import open_corpus
    from maquette.scaling.user_law import keep
    from maquette.workshop.ladder import run_ladder

    terminal = Terminal(arguments.json)
    if arguments.workers is not None and not 1 <= arguments.workers <= 1024:
        raise WrongUse(f"workers is {arguments.workers}: use 1 to 1024")
    out = Path(arguments.out or Path("ladders") / Path(arguments.corpus).name).expanduser()
    result = run_ladder(
        arguments.budget,
        arguments.corpus,
        out,
        verify=arguments.verify,
        workers=arguments.workers,
        say=terminal.say,
    )
    head = ["budget, FLOP", "best size", "tokens", "loss", "bits per byte", ""]
    rows = [
        [f"{b['flops']:.3g}", f"{b['parameters']:,}", f"{b['tokens']:,}", f"{b['loss']:.4f}",
         f"{b['bits_per_byte']:.4f}", f"{b['edge']} size" if b["edge"] else ""]
        for b in result["budgets"]
    ]  # fmt: skip
    terminal.table(head, rows)
    if "prediction" in result:
        a, slope = result["exponents"]["a"], result["exponents"]["loss"]
        drawn = result["exponents_95"]
        ends = f" ({drawn['a'][0]:.3f} to {drawn['a'][1]:.3f})" if drawn else ""
        terminal.say(f"N ~ C^{a:.3f}{ends}, D ~ C^{1 - a:.3f}, "
                     f"loss ~ C^{slope:.3f}")  # fmt: skip
        p = result["prediction"]
        terminal.say(f"predicted at {p['flops']:.3g} FLOP, {p['times']:.3g} times the largest: "
                     f"{amount(p['parameters'])} parameters, {amount(p['tokens'])} tokens, loss "
                     f"{p['loss']:.4f} ({p['low']:.4f} to {p['high']:.4f})")  # fmt: skip
        keep(out, open_corpus(arguments.corpus).hash)
    if "outcome" in result:
        o = result["outcome"]
        inside = o["predicted"]["low"] <= o["loss"] <= o["predicted"]["high"]
        terminal.say(f"trained: loss {o['loss']:.4f} for {o['predicted']['loss']:.4f}, "
                     f"{o['error']:+.2%}, {'inside' if inside else 'outside'} the interval")  # fmt: skip
    for warning in result["warnings"]:
        terminal.say(f"  note: {warning}")
    terminal.say(f"ladder: {result['path']}, picture: {result['picture']}")
    return result
