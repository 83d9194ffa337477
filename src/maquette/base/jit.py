"""Loops over arrays at the speed of C: Numba's compiler, with the house's settings.

The machine code is kept beside the source (or in the user's cache where that is not writable), so a
loop is compiled once. Compiled loops give up the interpreter's lock: threads run them side by side.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def jit(function: F) -> F:
    """Compile a function of arrays and numbers at its first call, for the types of that call."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
