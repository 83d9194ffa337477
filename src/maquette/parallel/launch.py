"""Start the ranks of a run on this machine, and see that all of them end.

Each rank is a fresh interpreter that is told its number by the environment variables that torchrun
sets, so `maquette train` under torchrun (or a cluster's launcher) is one rank of the same program.
On one machine the ranks meet in a file (`group.MEETING`), not at a port: a port that was free when it
was looked for may be another program's when it is opened. A rank that dies takes the others with it;
ranks die with their launcher; SIGTERM and Ctrl-C reach every rank, which save and leave.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from maquette.base.errors import UserError
from maquette.base.machine import cores
from maquette.parallel.group import MEETING

GRACE_SECONDS = 60.0  # for the others to leave after one has failed


def launched() -> bool:
    """Whether this process is a launched rank."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def launch(command: Sequence[str], ranks: int) -> int:
    """Run `command` as `ranks` processes; returns the first exit code that is not 0.

    Only rank 0 writes to standard output. Raises UserError when a rank dies of a signal.
    """
    with tempfile.TemporaryDirectory(prefix="maquette-") as folder:
        return _launch(command, ranks, Path(folder) / "meeting")


def environment(rank: int, world: int, meeting: Path) -> dict[str, str]:
    """Environment variables of a rank of `world`; ranks meet in the file `meeting`, which must not exist."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        MEETING: str(meeting),
    }


def _launch(command: Sequence[str], ranks: int, meeting: Path) -> int:
    threads = str(max(1, cores() // ranks))
    processes = []
    for rank in range(ranks):
        variables = environment(rank, ranks, meeting) | {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            "MAQUETTE_LAUNCHER": str(os.getpid()),
        }
        processes.append(
            subprocess.Popen(
                command,
                env=os.environ | variables,
                stdout=None if rank == 0 else subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C comes through this process, once
            )
        )

    def forward(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        first = _wait(processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in processes:
            process.kill()
    if first is None:
        return 0
    code = processes[first].returncode
    if code < 0:
        raise UserError(
            f"rank {first} was killed ({signal.Signals(-code).name}): continue with --resume"
        )
    return code


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all ranks; returns the first that failed, after which the others are stopped."""
    first: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        failed = [rank for rank, process in enumerate(processes) if process.poll()]
        if failed and first is None:
            first = failed[0]
            deadline = time.monotonic() + GRACE_SECONDS
            for process in processes:
                process.terminate()
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    return failed[0] if first is None and failed else first
