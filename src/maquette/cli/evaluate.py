"""Loss, perplexity and bits per byte: of a run's held-out text by component, or of any text file.

example: maquette eval runs/first
         maquette eval runs/first --text README.md
"""

import argparse
from pathlib import Path
from typing import Any

from maquette.cli.terminal import Terminal


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--text", help="score this file instead of the held-out documents")
    parser.add_argument("--corpus", help="score another corpus' held-out documents")
    parser.add_argument("--bytes", type=int, help="score about so many bytes (default: all)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    from maquette.workshop.load import load

    terminal = Terminal(arguments.json)
    loaded = load(arguments.run)
    if arguments.text:
        scores = {"text": loaded.score_text(Path(arguments.text))}
    else:
        with terminal.stages() as progress:
            scores = loaded.score_heldout(
                arguments.corpus,
                arguments.bytes,
                lambda done, total: progress("scoring", done, total),
            )
    terminal.table(
        ["text", "bits/byte", "loss", "perplexity", "tokens", "bytes"],
        [
            [
                name,
                f"{s.bits_per_byte:.4f}",
                f"{s.loss:.4f}",
                f"{s.to_dict()['perplexity']:.2f}",
                f"{s.tokens:,}",
                f"{s.bytes:,}",
            ]
            for name, s in scores.items()
        ],
    )
    tasks = {name: score.to_dict() for name, score in scores.items()}
    whole = tasks.get("text") or tasks["all"]
    return {"run": arguments.run, "tasks": tasks} | whole
