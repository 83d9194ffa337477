"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent does die, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before the request
        os.kill(os.getpid(), signal.SIGKILL)
