"""adapt compare: every method on the same data, in one table and one picture."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maquette.cli.terminal import Terminal, TrainingProgress

if TYPE_CHECKING:
    from maquette.adaptation.recipes import AdaptOptions


def compare_methods(
    arguments: argparse.Namespace, options: "AdaptOptions", path: Path, terminal: Terminal
) -> dict[str, Any]:
    """The table of `workshop.adapt_compare`, the recommendation, and `comparison.png` in the folder."""
    from maquette.base.files import write_atomic
    from maquette.cli.corpus_examples import fields_of
    from maquette.workshop.adapt_compare import TEXT_METHODS, compare, forgotten
    from maquette.workshop.charts import png
    from maquette.workshop.compare_chart import compare_chart

    chosen = [m for m in arguments.methods.split(",") if m] if arguments.methods else TEXT_METHODS
    with terminal.stages() as progress:
        found = compare(
            Path(arguments.base),
            arguments.data,
            path,
            options,
            chosen,
            fields=fields_of(arguments.fields),
            template=arguments.template,
            resume=arguments.resume,
            observer=lambda method: TrainingProgress(terminal),
            progress=progress,
            say=terminal.say,
        )
    rows = []
    for one in found.methods:
        error = one["stderr_after"]
        share = one["trained_parameters"] / one["base_parameters"]
        rows.append([
            one["method"],
            f"{one['metric_after']:.4f}" + (f" ± {1.96 * error:.4f}" if error is not None else ""),
            f"{one['trained_parameters']:,} ({100 * share:.2f} %)",
            f"{one['minutes']:.1f}",
            f"{one['peak_memory'] / 2**20:,.0f}",
            f"{forgotten(one):+.4f}" if one["forgetting"] else "not known",
        ])  # fmt: skip
    best = found.methods[0]
    terminal.say(f"{best['metric']}: {best['metric_before']:.4f} before")
    terminal.table(
        [
            "method",
            "after, 95 %",
            "trained parameters",
            "minutes",
            "MiB",
            "forgotten, bits per byte",
        ],
        rows,
    )
    picture = path / "comparison.png"
    write_atomic(picture, png(compare_chart(found)))
    terminal.say(f"recommended: {found.recommended}: {found.why}")
    terminal.say(f"runs, comparison.json and {picture.name}: {path}")
    return found.to_dict() | {"picture": str(picture)}
