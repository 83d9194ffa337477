"""Output for the user: lines, tables, bars; results alone where it is no terminal.

With --json, words go to standard error, so that the last line of standard output is the object.
Bars are drawn on a terminal only.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maquette.models.base import Model


class Terminal:
    """The output of a command."""

    def __init__(self, as_json: bool) -> None:
        self.file: IO[str] = sys.stderr if as_json else sys.stdout
        self._bars: Any = None

    def say(self, text: str = "") -> None:
        """Print a line."""
        print(text, file=self.file, flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table, numbers aligned to the right."""
        if not rows:
            return
        cells = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
        numeric = [all(_number(row[i]) for row in cells) for i in range(len(head))]
        for row in [list(head), *cells]:
            parts = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ]
            self.say("  " + "  ".join(parts).rstrip())

    @contextmanager
    def stages(self, counts: bool = False) -> Iterator[Callable[[str, float, float | None], None]]:
        """A progress function (stage, done, total) that draws a bar for each stage.

        Of bytes; with `counts`, of things that are counted.
        """
        if not sys.stderr.isatty():
            yield lambda stage, done, total: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn() if counts else DownloadColumn(),
            TimeElapsedColumn(),
        )
        tasks: dict[str, Any] = {}
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            self._bars = bars

            def update(stage: str, done: float, total: float | None) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield update

    def end_stages(self) -> None:
        """Remove the progress bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


class TrainingProgress:
    """The observer that shows a run: one moving line on a terminal, a line per evaluation elsewhere."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._live = sys.stderr.isatty()
        self._steps = 0
        self._first = 0
        self._began = 0.0

    def start(self, step: int, steps: int) -> None:
        self._terminal.end_stages()
        self._steps, self._first, self._began = steps, step, time.monotonic()
        if step:
            self._terminal.say(f"going on from step {step} of {steps}")

    def step(self, record: dict[str, Any]) -> None:
        done = record["step"] - self._first
        left = (time.monotonic() - self._began) / max(1, done) * (self._steps - record["step"])
        text = (
            f"step {record['step']}/{self._steps}  loss {record['loss']:.3f}  "
            f"{self._speed(record)}  "
            f"{'at least ' * (record['flops_utilisation'] >= 1)}"
            f"{100 * record['flops_utilisation']:.0f} % of peak  "
            f"{record['memory'] / 2**30:.1f} GiB  {clock(left)} left"
        )
        heldout = record.get("heldout_loss")
        if heldout is not None:
            text += f"  held out {heldout:.3f}"
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            if heldout is not None or record["step"] == self._steps:
                print(file=sys.stderr)
        elif heldout is not None:
            self._terminal.say(text)

    def _speed(self, record: dict[str, Any]) -> str:
        (name,) = (name for name in record if name.endswith("_per_second"))
        return f"{record[name]:,.0f} {name.removesuffix('_per_second')}/s"

    def sample(self, step: int, model: "Model") -> None:
        pass

    def say(self, message: str) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr)
        self._terminal.say(message)


def clock(seconds: float) -> str:
    """1:05 or 2:03:04."""
    whole = round(max(0.0, seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def amount(number: float, unit: str = "") -> str:
    """12.3 M, 4.5 G ..."""
    for factor, prefix in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g}{prefix}{unit}"
    return f"{number:.3g} {unit}".rstrip()


def _number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace(" ", "")[:1].isdigit()
