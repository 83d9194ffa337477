"""What to train with a budget: size, tokens, shape, expected loss, and the reason for each.

The budget is --flops, or --hours (or --minutes) on a --device; without a device it is this
machine, at its measured peak.

example: maquette plan --flops 5.88e23
         maquette plan --device H100 --devices 8 --hours 24
         maquette plan --minutes 10
"""

import argparse
from typing import Any

from maquette.cli.terminal import Terminal, clock


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flops", type=float, help="operations to spend")
    parser.add_argument("--device", help="a device by name, such as H100")
    parser.add_argument("--devices", type=int, default=1, help="how many (default: 1)")
    parser.add_argument("--hours", type=float, help="time to spend")
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--utilisation", type=float, default=0.4,
                        help="fraction of the peak that training reaches (default: 0.4)")  # fmt: skip
    parser.add_argument(
        "--law", default="besiroglu", help="besiroglu, hoffmann or hoffmann-unrounded"
    )
    parser.add_argument("--vocabulary", type=int, default=32768, help="symbols (default: 32768)")
    parser.add_argument("--context", type=int, default=1024, help="positions (default: 1024)")
    parser.add_argument("--corpus", help="a corpus folder: its vocabulary and its tokens count")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.base.errors import WrongUse
    from maquette.base.machine import measure
    from maquette.scaling.plan import budget, make_plan
    from maquette.workshop.corpora import open_corpus

    terminal = Terminal(arguments.json)
    hours = arguments.hours
    if arguments.minutes is not None:
        if hours is not None:
            raise WrongUse("give --hours or --minutes, not both")
        hours = arguments.minutes / 60
    here = measure() if arguments.device is None else None
    flops, seconds, reason = budget(
        here,
        flops=arguments.flops,
        device=arguments.device,
        devices=arguments.devices,
        hours=hours,
        utilisation=arguments.utilisation,
    )
    corpus = open_corpus(arguments.corpus) if arguments.corpus else None
    plan = make_plan(
        flops,
        seconds=seconds,
        reason=reason,
        law_name=arguments.law,
        vocabulary=corpus.vocabulary if corpus else arguments.vocabulary,
        context=arguments.context,
        corpus_tokens=len(corpus.train) if corpus else None,
    )
    for what, explanation in plan.why:
        terminal.say(f"  {what:<11} {explanation}")
    if plan.seconds is not None and (hours is not None or arguments.device is not None):
        terminal.say(f"  {'time':<11} {clock(plan.seconds)}")
    for warning in plan.warnings:
        terminal.say(f"  note: {warning}")
    return {
        "flops": plan.flops,
        "parameters": plan.parameters,
        "tokens": plan.tokens,
        "batch_tokens": plan.batch_tokens,
        "loss_predicted": plan.loss_predicted,
        "law": plan.law.constants() | {"name": plan.law.name, "source": plan.law.source},
        "width": plan.model.width,
        "depth": plan.model.depth,
        "seconds": plan.seconds,
        "why": dict(plan.why),
        "warnings": plan.warnings,
    }
