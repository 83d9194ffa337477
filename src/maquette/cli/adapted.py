"""What an adaptation of a language model prints at its end."""

from pathlib import Path
from typing import TYPE_CHECKING

from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.workshop.adapt_text import AdaptedText


def show_adapted(done: "AdaptedText", path: Path, terminal: Terminal) -> None:
    """What was trained, what held-out text costs before and after, minutes and memory."""
    terminal.say(f"{done.method}: {done.counted}")
    rows = [(done.metric, done.before, done.after)]
    if done.own_before is not None and done.own_after is not None:
        rows.append(("the same of the base's own text", done.own_before, done.own_after))
    terminal.table(
        ["", "before", "after", "loss before", "loss after"],
        [
            [name, *(f"{s.bits_per_byte:.4f}" for s in scores), *(f"{s.loss:.4f}" for s in scores)]
            for name, *scores in rows
        ],
    )
    memory = f"{done.memory / 2**20:,.0f} MiB at the most"
    terminal.say(f"adapted: {path} in {done.seconds / 60:.1f} minutes of training, {memory}")
