"""What an adaptation of a language model prints at its end, by whatever method."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maquette.cli.terminal import Terminal

if TYPE_CHECKING:
    from maquette.workshop.adapt_text import AdaptedText
    from maquette.workshop.adapted import Adaptation

BITS = "bits per byte of the base's own text"


def show_adapted(
    done: "Adaptation", terminal: Terminal, rows: Sequence[Sequence[str]] = ()
) -> None:
    """What was trained, what held-out data say before and after, minutes and memory.

    rows: the method's own, each a name and what it was before and after.
    """
    what = done.method if done.method == done.adapter else f"{done.method}, {done.adapter}"
    terminal.say(f"{what}: {done.counted}")
    table = [[done.metric, f"{done.before:.4f}", f"{done.after:.4f}"]]
    if done.own is not None:
        table.append([BITS, *(f"{score.bits_per_byte:.4f}" for score in done.own)])
    terminal.table(["", "before", "after"], [*table, *rows])
    memory = f"{done.memory / 2**20:,.0f} MiB at the most"
    terminal.say(f"adapted: {done.path} in {done.seconds / 60:.1f} minutes, {memory}")


def losses(done: "AdaptedText") -> list[list[str]]:
    """Rows of `show_adapted`: the losses of held-out answers or text, and of the base's own text."""
    texts = [("loss of what is held out, in nats a token", done.scores)]
    if done.own is not None:
        texts.append(("loss of the base's own text, in nats a token", done.own))
    return [[name, *(f"{score.loss:.4f}" for score in scores)] for name, scores in texts]
