"""Ctrl-C and SIGTERM: one KeyboardInterrupt, and never amid an import or a compilation.

Libraries swallow an interrupt that reaches them while they are imported, or turn it into an error of
their own; LLVM's callbacks drop it. It waits for the end of these instead; a second one does not. Code in C
and Rust may still make an error of its own of one: `raised` tells that there was one.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WAIT = 0.02  # seconds between two looks whether the import is over
DEAF = {"importlib", "_frozen_importlib", "_frozen_importlib_external", "llvmlite", "numba"}
"""packages whose code drops an interrupt"""

_raised: list[int] = []
"""numbers of the raised signals"""


def raised() -> bool:
    """Whether an interrupt was raised since `heard` was entered."""
    return bool(_raised)


def ctrl_c() -> bool:
    """Whether the last interrupt was Ctrl-C, which is then taken as dealt with."""
    if _raised and _raised[-1] == signal.SIGTERM:
        return False
    _raised.clear()
    return True


@contextmanager
def heard() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise KeyboardInterrupt in the main thread."""
    _raised.clear()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {n: signal.signal(n, _asked) for n in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _asked(number: int, frame: FrameType | None) -> None:
    second = number != signal.SIGALRM and signal.getitimer(signal.ITIMER_REAL)[1] > 0
    if _deaf(frame) and not second:
        signal.setitimer(signal.ITIMER_REAL, WAIT, WAIT)
        return
    _raised.append(number)
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise KeyboardInterrupt


def _deaf(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in DEAF:
            return True
        frame = frame.f_back
    return False
