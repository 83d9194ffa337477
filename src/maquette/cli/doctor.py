"""Check this machine: cores, memory, precision, measured peaks, compiler, optional parts.

example: maquette doctor
         maquette doctor --refresh
"""

import argparse
import importlib.util
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal, amount

if TYPE_CHECKING:
    from maquette.base.machine import Machine

EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "transformers": "dev"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--refresh", action="store_true", help="measure again")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from maquette.base.files import home
    from maquette.base.machine import measure
    from maquette.nn.native import compiler

    terminal = Terminal(arguments.json)
    m = measure(refresh=arguments.refresh)
    ratio = m.bf16_flops / m.fp32_flops
    choice = "bf16 pays" if m.bf16 else "fp32 is as good"
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    rows = [
        ["device", f"{m.processor} ({m.device})"],
        ["cores", f"{m.cores}, {m.threads} threads"],
        ["memory", f"{m.memory / 2**30:.1f} GiB"],
        ["torch", m.torch],
        ["fp32 products", amount(m.fp32_flops, "FLOP/s")],
        ["bf16 products", f"{amount(m.bf16_flops, 'FLOP/s')}, {ratio:.1f} x fp32: {choice}"],
        ["memory reads", amount(m.bandwidth, "B/s")],
        *_rates(m),
        ["GPU", m.processor if m.device == "cuda" else "none that torch can use"],
        ["compiler", compiler() or "none: install g++, or training runs uncompiled"],
        ["home", str(home())],
    ]
    for name, value in rows:
        terminal.say(f"  {name:<14} {value}")
    for name in missing:
        terminal.say(f"  {name:<14} not installed: pip install 'maquette[{EXTRAS[name]}]'")
    return asdict(m) | {"bf16": m.bf16, "compiler": compiler(), "missing": missing}


def _rates(machine: "Machine") -> list[list[str]]:
    """What the planner's time is made of: speeds of a step's parts."""
    r = machine.rates
    if r is None:
        return []
    products = r.products[machine.precision]
    small, wide, cached, memory = products[0], products[-1], r.stream[2], r.stream[-1]
    widest = max(r.attention[machine.precision])
    curve = dict(r.attention[machine.precision][widest])
    speeds = ", ".join(f"{amount(curve[n], 'FLOP/s')} at {n:,.0f}" for n in sorted(curve)[1::2])
    return [
        ["products", f"{amount(small[1], 'FLOP/s')} in {machine.precision} at {small[0]:.0f} wide, "
                     f"{amount(wide[1], 'FLOP/s')} at {wide[0]:.0f} and as long as a step's"],
        ["attention", f"{speeds} positions, heads of {widest}, not compiled"],
        ["streams", f"{amount(cached[1], 'B/s')} in cache, {amount(memory[1], 'B/s')} in memory"],
        ["exponentials", amount(r.exponential[machine.precision], "numbers/s")],
        ["an operation", f"{1e6 * r.operation:.1f} us besides its work"],
    ]  # fmt: skip
