"""Errors that a user can act on: one line that says what is wrong and how to mend it.

The command line prints a `UserError` as that one line and exits with its code; every other
exception is a defect of Maquette and keeps its traceback.
"""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Iterable
from decimal import Decimal
from types import ModuleType


class UserError(ValueError):
    """Something outside the program is wrong: the message says what, and what to do about it."""

    exit_code = 1


class WrongUse(UserError):
    """The command or the recipe asks for something that cannot be: exit code 2."""

    exit_code = 2


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`: did you mean 'width'?`, or a list of what exists when nothing is near."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f": did you mean '{near[0]}'?"
    shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
    return f": choose from {shown}" if names else ""


def need(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or say in one line which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise UserError(
            f"{package} is not installed: run pip install 'maquette[{extra}]'"
        ) from error


MOST_SEED = 2**64 - 1  # what torch takes


def check_numbers(fields: object, prefix: str = "", most_seed: int = MOST_SEED) -> None:
    """Raise WrongUse for a field of a dataclass, or of a dataclass in it, that is nan or infinite.

    A field called `seed` is a whole number from 0 to most_seed.
    """
    for f in dataclasses.fields(fields):  # type: ignore[arg-type]
        value, name = getattr(fields, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{name}.", most_seed)
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise WrongUse(f"{name} is {number}: use a number")
        if f.name == "seed" and isinstance(value, int) and not 0 <= value <= most_seed:
            raise WrongUse(f"{name} is {plain(value)}: use 0 to {most_seed}")


MOST_COUNT = 10**15
"""largest count of a run: steps, tokens, widths ..."""


def within(fields: object, least: float, most: float, *names: str) -> None:
    """Raise WrongUse for a named field outside [least, most]; None is left alone.

    most: infinity for no limit, which still refuses infinity itself, no number, and whole numbers
    beyond `MOST_COUNT`.
    """
    for name in names:
        value = getattr(fields, name)
        if value is None:
            continue
        open_end = most == math.inf
        limit = MOST_COUNT if open_end and isinstance(value, int) else most
        if not least <= value <= limit or not math.isfinite(value):
            wanted = f"at least {plain(least)}" if open_end else f"{plain(least)} to {plain(most)}"
            if open_end and value > least:
                wanted = f"a number that is finite, {wanted}"
                if isinstance(value, int):
                    wanted = f"{plain(least)} to {plain(MOST_COUNT)}"
            raise WrongUse(f"{name} is {plain(value)}: use {wanted}")


def plain(number: float) -> str:
    """A number in full where that is short."""
    if not isinstance(number, int):
        return f"{number:g}"
    return str(number) if abs(number) < 10**20 else f"{Decimal(number).normalize():.6g}"
