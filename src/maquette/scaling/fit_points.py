"""Points to fit a law to: a CSV of finished runs, or a folder of Maquette's own.

A row is (parameters, tokens or flops, loss); every bad one is refused with its line, none is left
out in silence. A folder gives every look at the held-out loss, so that its runs are curves; what a
fit of the surface takes is their ends.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.scaling import units

Array = npt.NDArray[np.float64]
COLUMNS = ("parameters", "tokens", "flops", "loss", "run")
LEAST, MOST = 6, 20_000
COUNTS, LOSSES = (1.0, 1e30), (1e-6, 1e6)
"""bounds of a cell: of parameters, tokens and operations; of a loss"""


@dataclass(frozen=True)
class Points:
    """Measured losses of runs. All arrays are (points,)."""

    parameters: Array
    tokens: Array
    flops: Array
    """operations, 6 N D unless given"""
    loss: Array
    """loss in any unit, above 0"""
    run: npt.NDArray[np.int64]
    """number of the training curve of each point; -1: the end of a run of its own"""
    source: str = "points"
    notes: tuple[str, ...] = ()
    """notes on how the points were read"""

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Points":
        """A selection of the points, by number or by mask."""
        n, d, flops = (array[rows] for array in (self.parameters, self.tokens, self.flops))
        return Points(n, d, flops, self.loss[rows], self.run[rows], self.source, self.notes)

    @property
    def curves(self) -> list[int]:
        """The runs that have more than one point."""
        names, counts = np.unique(self.run[self.run >= 0], return_counts=True)
        return [int(name) for name in names[counts > 1]]

    def ends(self) -> "Points":
        """The last point of every run."""
        last: dict[int, int] = {}
        for i, run in enumerate(self.run):
            if run >= 0 and (run not in last or self.tokens[i] > self.tokens[last[run]]):
                last[int(run)] = i
        return self.take(np.array([r < 0 or last[int(r)] == i for i, r in enumerate(self.run)]))

    def without_highest(self, count: int) -> "Points":
        """All but the `count` points of the highest loss, in their order."""
        if not 0 <= count <= len(self) - LEAST:
            raise WrongUse(
                f"drop is {count} of {len(self)} points: use 0 to {max(0, len(self) - LEAST)}"
            )
        order = np.argsort(-self.loss, kind="stable")
        return self.take(np.sort(order[count:]))


def points_of(
    parameters: npt.ArrayLike,
    tokens: npt.ArrayLike,
    loss: npt.ArrayLike,
    run: npt.ArrayLike | None = None,
    source: str = "points",
) -> Points:
    """Points from arrays (points,), with 6 N D operations."""
    n, d, values = (np.asarray(array, dtype=float) for array in (parameters, tokens, loss))
    runs = np.full(len(values), -1) if run is None else np.asarray(run)
    return checked(Points(n, d, 6 * n * d, values, runs.astype(np.int64), source))


def read_points(source: Path, columns: Mapping[str, str] | None = None) -> Points:
    """The points of a CSV file or of a folder of runs.

    columns: what the file calls `parameters`, `tokens`, `flops`, `loss` and `run`, where it is
    something else, with a factor where it counts in another unit, as in `Size*1e6`. Of tokens and
    flops one is enough: the other follows from 6 N D. Raises WrongUse for a file that cannot be read
    so, with the line and the mend.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise WrongUse(f"{source} does not exist: name a CSV file, or a folder of runs")
    return checked(_from_runs(source) if source.is_dir() else _from_csv(source, columns or {}))


def columns_from(words: str) -> dict[str, str]:
    """`parameters=Model Size*1e6,loss=final loss` as a mapping."""
    columns = {}
    for part in words.split(","):
        name, equals, column = (word.strip() for word in part.partition("="))
        if not equals or not column:
            raise WrongUse(f"columns: '{part}' is not NAME=COLUMN: write loss=COLUMN, for one")
        if name not in COLUMNS:
            raise WrongUse(f"columns: unknown name {name}{did_you_mean(name, COLUMNS)}")
        if name in columns:
            raise WrongUse(f"columns: {name} is named twice: keep one")
        columns[name] = column
    return columns


def checked(points: Points) -> Points:
    """The points, or WrongUse for too few, too many or one size only."""
    where = points.source
    if len(points) < LEAST:
        raise WrongUse(f"{where}: {len(points)} points cannot fix five constants: give six or more")
    if len(points) > MOST:
        raise WrongUse(
            f"{where}: {len(points)} points: keep at most {MOST}, such as the runs' ends"
        )
    if len(np.unique(points.parameters)) == 1:
        raise WrongUse(
            f"{where}: every point has {points.parameters[0]:.4g} parameters: give two sizes or more"
        )
    return points


# CSV


def _from_csv(path: Path, columns: Mapping[str, str]) -> Points:
    lines = _lines(path)
    if not lines:
        raise WrongUse(f"{path} is empty: write a header such as parameters,tokens,loss and rows")
    header = [cell.strip() for cell in lines[0][1]]
    called = {k: units.column_and_factor(v, header) for k, v in columns.items()}
    indices = _column_indices(path, header, {k: column for k, (column, _) in called.items()})
    factors = {k: (header[i], called.get(k, ("", None))[1]) for k, i in indices.items()}
    table: dict[str, list[float]] = {name: [] for name in indices if name != "run"}
    runs: list[str] = []
    for number, cells in lines[1:]:
        if len(cells) != len(lines[0][1]):
            raise WrongUse(
                f"{path}, line {number}: {len(cells)} cells under {len(lines[0][1])} columns: "
                f"complete it, or quote the cells that hold a comma"
            )
        for name, values in table.items():
            bounds = LOSSES if name == "loss" else (0.0, COUNTS[1])
            column, factor = factors[name]
            factor = 1.0 if factor is None else factor
            values.append(_number(path, number, column, cells[indices[name]], bounds, factor))
        if "run" in indices:
            runs.append(cells[indices["run"]].strip())
    numbers = [number for number, _ in lines[1:]]
    n, loss = np.array(table["parameters"]), np.array(table["loss"])
    tokens = np.array(table["tokens"]) if "tokens" in table else np.array(table["flops"]) / 6 / n
    flops = np.array(table["flops"]) if "flops" in table else 6 * n * tokens
    units.ask(str(path), factors, n, tokens)
    counts = {factors[name][0]: np.array(table[name]) for name in table if name != "loss"}
    counts |= {"tokens (flops / 6 / parameters)": tokens, "flops (6 N D)": flops}
    for name, array in counts.items():
        wrong = np.flatnonzero((array < COUNTS[0]) | (array > COUNTS[1]))
        if len(wrong):
            raise WrongUse(
                f"{path}, line {numbers[wrong[0]]}: {name} is {array[wrong[0]]:.3g}: it has to be "
                f"{_range(COUNTS)}: mend the row, or take it out"
            )
    names = {name: i for i, name in enumerate(dict.fromkeys(runs))}
    run = np.array([names[r] for r in runs]) if runs else np.full(len(n), -1)
    return Points(n, tokens, flops, loss, run.astype(np.int64), str(path), units.notes(factors))


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except UnicodeDecodeError as error:
        raise WrongUse(f"{path} is not UTF-8 text: save it as a CSV in UTF-8") from error
    except csv.Error as error:
        raise WrongUse(
            f"{path}, line {reader.line_num}: {error}: mend it, or save it anew"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _column_indices(path: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, int]:
    """The index of each of our columns."""
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise WrongUse(f"{path}, line 1: two columns are called '{twice[0]}': rename one")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise WrongUse(f"{path}, line 1: cells are not separated by commas: save it as a CSV")
    indices = {}
    for name in COLUMNS:
        called = columns.get(name, name)
        if called in header:
            indices[name] = header.index(called)
        elif name in columns or name in ("parameters", "loss"):
            raise WrongUse(_missing(path, name, called, header))
    if "tokens" not in indices and "flops" not in indices:
        raise WrongUse(_missing(path, "tokens", "tokens' or 'flops", header))
    return indices


def _missing(path: Path, name: str, called: str, header: list[str]) -> str:
    there = did_you_mean(called, [cell for cell in header if cell])
    return f"{path}, line 1: no column '{called}'{there} (say which: --columns {name}=COLUMN)"


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}"


def _number(
    path: Path, line: int, column: str, cell: str, bounds: tuple[float, float], factor: float
) -> float:
    """A number above 0 and within its bounds, times a factor, or what is wrong with it."""
    where = f"{path}, line {line}: {column} is {cell.strip() or 'empty'}"
    try:
        value = float(cell)
    except ValueError as error:
        raise WrongUse(f"{where}: write a plain number such as 70000000 or 7e7") from error
    if not math.isfinite(value):
        raise WrongUse(f"{where}: take the row out, or mend it")
    if value <= 0:
        raise WrongUse(f"{where}: it has to be above 0")
    if not bounds[0] <= value * factor <= bounds[1]:
        wanted = LOSSES if bounds == LOSSES else COUNTS
        raise WrongUse(f"{where}: it has to be {_range(wanted)}: mend the row, or take it out")
    return value * factor


# Runs


def _from_runs(folder: Path) -> Points:
    from maquette.training.run import RECIPE, RunDirectory  # brings torch

    runs = [RunDirectory(path.parent) for path in sorted(folder.rglob(RECIPE))]
    if not runs:
        raise WrongUse(f"{folder} holds no runs (no {RECIPE}): name a folder of run directories")
    rows: list[tuple[float, float, float, int]] = []
    for number, run in enumerate(runs):
        size = run.recipe().model.parameters()
        looks = [r for r in run.records() if "heldout_loss" in r]
        if not looks:
            raise WrongUse(
                f"{run.path} has no held-out loss: train it further, or move it out of {folder}"
            )
        for look in looks:
            value = look["heldout_loss"]
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise WrongUse(
                    f"{run.path}, step {look['step']}: the held-out loss is {value}: "
                    f"move the run out of {folder}"
                )
            rows.append((size, look["tokens"], value, number))
    n, d, loss, number_of = np.array(rows, dtype=float).T
    return Points(n, d, 6 * n * d, loss, number_of.astype(np.int64), str(folder))
