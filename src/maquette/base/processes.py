"""Processes that work for the one that started them, and end with it."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import ModuleType

_SWAP = threading.RLock()


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent does die, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before the request
        os.kill(os.getpid(), signal.SIGKILL)


def start_workers(workers: int) -> ProcessPoolExecutor:
    """Fresh interpreters that end with this process and leave Ctrl-C to it.

    Submit inside `no_script`, so that they do not run the user's script again.
    """
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """End them at once, whatever they are at."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def no_script() -> Iterator[None]:
    """Hide the script this process runs from workers that start: a worker needs none."""
    with _SWAP:  # a second thread would take the empty one for the script, and leave it there
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _begin(parent: int) -> None:
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
