"""Worker pools for the parts of a build: in this process, in other processes, or on Ray.

Every part is a function of its task alone and writes its result into the build's workspace, so the
engines differ in nothing but time. On Ray the workspace has to be on a disk that all machines see.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

from maquette.base.errors import UserError, need
from maquette.base.processes import kill_workers, no_script, start_workers

Engine = Literal["local", "ray"]
WORTH = 8 << 20  # bytes of text: less is done before a second process has started
Task = TypeVar("Task")
Done = TypeVar("Done")


class Pool:
    """Up to `workers` workers, started with the first task that is worth it."""

    def __init__(self, workers: int, engine: Engine = "local") -> None:
        self.workers, self.engine = workers, engine
        self._processes: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._processes is None:
            return
        if kind is not None:  # what they are at is not waited for: a part is whole or not there
            kill_workers(self._processes)
        self._processes.shutdown(cancel_futures=True)

    def each(
        self, function: Callable[[Task], Done], tasks: Sequence[Task], size: float
    ) -> Iterator[Done]:
        """`function` of every task, in the order of the tasks. size: bytes of text in all of them.

        function: importable by its name, and it needs nothing but the task. What it raises is
        raised here. Raises UserError when a worker dies.
        """
        if self.engine == "ray":
            yield from _on_ray(function, tasks, self.workers)
        elif self.workers == 1 or len(tasks) < 2 or size < WORTH:
            yield from map(function, tasks)
        else:
            yield from self._in_processes(function, tasks)

    def _in_processes(
        self, function: Callable[[Task], Done], tasks: Sequence[Task]
    ) -> Iterator[Done]:
        if self._processes is None:
            self._processes = start_workers(self.workers)
        try:
            with no_script():
                futures = [self._processes.submit(function, task) for task in tasks]
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed (out of memory?): run again with fewer --workers; "
                "what was finished is kept"
            ) from error


def _on_ray(
    function: Callable[[Task], Done], tasks: Sequence[Task], workers: int
) -> Iterator[Done]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network unless it is asked for
    ray: Any = need("ray", "ray")
    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(address="auto", log_to_driver=False)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    remote = ray.remote(num_cpus=1)(function)
    waiting = list(tasks)
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < workers:  # no more than that, wherever Ray may have room
            running.append(remote.remote(waiting.pop(0)))
        try:
            yield ray.get(running.pop(0))
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from error
