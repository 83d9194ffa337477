"""Units of a table of runs: checks of plausible numbers, and the factors of column names.

Tables of runs say parameters in millions and tokens in billions. Read as counts, a law fits them as
well as any, and means nothing. So magnitudes that no run has are refused with what to write,
`--columns parameters=Size*1e6`, and a column whose name says a unit is noted.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from maquette.base.errors import WrongUse

Array = npt.NDArray[np.float64]
SMALLEST = {"parameters": 1e3, "tokens": 1e4}
"""least parameters and tokens of the largest run of a table; smaller models have learned no text"""
RATIO = (1e-4, 1e6)
"""bounds of a table's median tokens per parameter"""
USUAL = {"parameters": 1e6, "tokens": 1e9, "flops": 1e18}
"""usual units, asked about where the column's name has none"""
WORDS = {
    1e3: ("k", "thousand", "thousands", "kilo"),
    1e6: ("m", "mm", "mio", "million", "millions", "mega"),
    1e9: ("b", "bn", "g", "billion", "billions", "giga"),
    1e12: ("t", "tn", "trillion", "trillions", "tera"),
}
FLOPS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24,
         "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21, "yotta": 1e24}  # fmt: skip
DAY = 24 * 3600.0


def column_and_factor(called: str, header: Sequence[str]) -> tuple[str, float | None]:
    """`Size*1e6` as its column and factor; None where none is given.

    A column of exactly that name comes first. Raises WrongUse for a factor that is none.
    """
    if called in header or "*" not in called:
        return called, None
    column, _, number = called.rpartition("*")
    try:
        factor = float(number)
    except ValueError:
        return called, None
    if not 0 < factor < 1e40:
        raise WrongUse(f"columns: {called}: use a factor above 0, such as *1e6")
    return column.strip(), factor


def unit_of(name: str, column: str) -> float | None:
    """The factor that a column's name says, as in `tokens (B)`, `params_M` or `PFLOPs`; None: none."""
    parts = [part for part in re.split(r"[^a-z0-9.]+", column.lower()) if part]
    if name == "flops":
        days = DAY if any(re.search("days?$", part) for part in parts) else 1.0
        for part in parts:
            match = re.fullmatch(r"([a-z]*?)-?fl?op?s?(s|/s|ds?|days?)?|(pf)", part)
            prefix = "p" if part == "pf" else match[1] if match else ""
            if prefix in FLOPS:
                return FLOPS[prefix] * days
            if re.fullmatch(r"1e\d+", part):
                return float(part)
        return None
    last = re.search(r"(?<=[a-z])([KMBGT])$", column.strip())  # paramsM
    named = [part for i, part in enumerate(parts) if i or len(part) > 2]  # B alone is a name
    for part in [*named, *([last[1].lower()] if last else [])]:
        for factor, words in WORDS.items():
            if part in words:
                return factor
    return None


def ask(where: str, columns: Mapping[str, tuple[str, float | None]], n: Array, d: Array) -> None:
    """Raise WrongUse for numbers that no runs have, unless each column's factor was given.

    columns: by our names, what the table calls them and the factor that was given. n, d: (rows,)
    parameters and tokens, factors applied.
    """
    if not len(n):
        return
    odd = [
        name for name, array in (("parameters", n), ("tokens", d)) if array.max() < SMALLEST[name]
    ]
    ratio = float(np.median(d / n))
    if not odd and not _within(ratio):
        odd = ["parameters" if ratio > RATIO[1] else "tokens"]
    odd = ["flops" if name == "tokens" and "tokens" not in columns else name for name in odd]
    asked = [name for name in odd if columns[name][1] is None]
    if not asked:
        return
    factors = {
        name: unit
        for name, (column, factor) in columns.items()
        if name in USUAL and factor is None and (unit := unit_of(name, column)) is not None
    }
    units = {name: USUAL[name] for name in asked} | factors
    if "flops" not in units:  # is the other column in such units, too?
        more = ratio * units.get("tokens", 1.0) / units.get("parameters", 1.0)
        for name in {"parameters", "tokens"} - set(units) if not _within(more) else ():
            if columns.get(name, ("", 1.0))[1] is None:
                units[name] = USUAL[name]
    parts = []
    for name, (column, factor) in columns.items():
        unit = units.get(name, factor)
        if unit is not None or column != name:
            parts.append(f"{name}={column}" + (f"*{_short(unit)}" if unit is not None else ""))
    raise WrongUse(
        f"{where}: models of up to {n.max():.4g} parameters on up to {d.max():.4g} tokens are none of "
        f"language: in which units are they? Say it with --columns '{','.join(parts)}', or *1 for counts"
    )


def _within(ratio: float) -> bool:
    return RATIO[0] <= ratio <= RATIO[1]


def _short(number: float) -> str:
    """A number as text: 1e9."""
    return f"{number:g}".replace("e+0", "e").replace("e+", "e")


def notes(columns: Mapping[str, tuple[str, float | None]]) -> tuple[str, ...]:
    """Notes on columns whose name has a unit that was not applied."""
    lines = []
    for name, (column, factor) in columns.items():
        unit = unit_of(name, column) if name in USUAL and factor is None else None
        if unit is not None:
            lines.append(
                f"the column '{column}' is read as a count; if it is in units of {_short(unit)}, say "
                f"--columns '{name}={column}*{_short(unit)}'"
            )
    return tuple(lines)
