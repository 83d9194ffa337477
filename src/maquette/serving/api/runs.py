"""The runs that are served: loaded when they are asked for, within a budget of memory.

Where a run does not fit beside the others, the least recently used of those that nobody uses are unloaded.
A run whose files have changed is read again, one whose files are gone is refused; the others go on.
"""

import asyncio
import gc
import itertools
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from maquette.base.errors import UserError, WrongUse, did_you_mean
from maquette.serving.api.errors import ApiError
from maquette.serving.api.run import Opened, Run, TextModel
from maquette.serving.api.worker import Worker
from maquette.serving.engine import Engine

T = TypeVar("T")
Version = tuple[tuple[int, int, int], ...]
LOG = logging.getLogger("maquette.serve")
BUSY = 5.0  # seconds after which to try again, where all memory is in use
WAITING = 16  # jobs of a picture run that may wait


class Jobs:
    """One thread for the jobs of a run, one after the other; so many may wait."""

    def __init__(self, most: int = WAITING) -> None:
        self._most, self._waiting = most, 0
        self._pool = ThreadPoolExecutor(1, "jobs")

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives. Raises ApiError where too many wait."""
        if self._waiting >= self._most:
            message = f"{self._most} requests wait for this run already: try again"
            raise ApiError(429, message, code="queue_full", retry_after=BUSY)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread after the job that it does."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Loaded:
    """A run in memory. worker: owns the engine of a language model."""

    def __init__(self, run: Run, opened: Opened, version: Version, worker: Worker | None) -> None:
        self.run, self.opened, self.version, self.worker = run, opened, version, worker
        self.users, self.used = 0, 0
        self.jobs = Jobs()

    @property
    def text(self) -> tuple[TextModel, Worker]:
        """The language model and the thread that runs it, of a run of text."""
        assert isinstance(self.opened, TextModel) and self.worker is not None
        return self.opened, self.worker

    @property
    def sound(self) -> bool:
        """Whether it can answer: the thread of its engine has not ended."""
        return self.worker is None or not self.worker.ended

    def close(self) -> None:
        """End the threads."""
        self.jobs.close()
        if self.worker is not None:
            self.worker.close()


class Runs:
    """See the file's docstring.

    memory: bytes of all models and caches together; None: no limit. engine: makes the engine of a model.
    cache: bytes of an engine's cache. unread: see `Worker`. Raises WrongUse for two runs of one
    name, or one that cannot fit.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        engine: Callable[[TextModel], Engine],
        memory: int | None = None,
        cache: int = 0,
        unread: int = 4096,
    ) -> None:
        self._unread = unread
        self._runs = {run.name: run for run in runs}
        self._engine, self._memory, self._cache = engine, memory, cache
        self._loaded: dict[str, Loaded] = {}
        self._left: set[Loaded] = set()  # unloaded for others, and still used
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lock: asyncio.Lock = asyncio.Lock()
        self._clock = itertools.count(1)
        if len(self._runs) < len(runs):
            names = [run.name for run in runs]
            twice = next(name for name in names if names.count(name) > 1)
            raise WrongUse(f"two runs are called {twice}: rename the folder of one")
        for run in runs:
            if memory is not None and self._need(run) > memory:
                raise WrongUse(
                    f"{run.name} takes {self._need(run):,} bytes, and --memory is {memory:,}: raise it"
                )

    def __iter__(self) -> Any:
        return iter(self._runs.values())

    def find(self, name: str) -> Run:
        """The run of a name. Raises ApiError (404) where there is none."""
        if name not in self._runs:
            raise ApiError(
                404,
                f"there is no model {name}{did_you_mean(name, self._runs)}",
                code="model_not_found",
                param="model",
            )
        return self._runs[name]

    def live(self) -> dict[str, int]:
        """Number of requests in the engine of each run in memory."""
        workers = ((name, loaded.worker) for name, loaded in self._loaded.items())
        return {name: len(worker) for name, worker in workers if worker is not None}

    def loaded(self, name: str) -> Loaded | None:
        """The run of a name, where it is in memory."""
        return self._loaded.get(name)

    async def lease(self, run: Run) -> Loaded:
        """The run in memory, which is not unloaded before `release`. Raises ApiError.

        A run that is being loaded is loaded to its end, whether or not it is still waited for.
        """
        try:
            version = await asyncio.to_thread(lambda: run.version)
        except OSError as error:
            await self._forget(run)
            raise ApiError(
                404, f"the files of {run.name} are no longer there", code="model_not_found"
            ) from error
        known = self._loaded.get(run.name)
        if known is not None and known.version == version and known.sound:
            return self._used(known)
        await self._lock.acquire()
        preparing = self._start(self._prepared(run, version))
        preparing.add_done_callback(lambda _: self._lock.release())
        try:
            return await asyncio.shield(preparing)
        except asyncio.CancelledError:
            preparing.add_done_callback(self._give_back)
            raise

    def release(self, loaded: Loaded) -> None:
        """Give a lease back."""
        loaded.users -= 1
        if not loaded.users and loaded in self._left:  # replaced or gone meanwhile
            self._start(self._end(loaded))

    async def close(self) -> None:
        """Unload every run, once nobody uses it any more."""
        async with self._lock:  # after the one that is being loaded
            for loaded in list(self._loaded.values()):
                del self._loaded[loaded.run.name]
                await asyncio.to_thread(loaded.close)
            for loaded in list(self._left):
                await self._end(loaded)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """A task that nobody cancels, kept until its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _used(self, loaded: Loaded) -> Loaded:
        loaded.users += 1
        loaded.used = next(self._clock)
        return loaded

    def _give_back(self, preparing: "asyncio.Task[Loaded]") -> None:
        """Give back the lease of a client that has gone."""
        if not preparing.cancelled() and preparing.exception() is None:
            self.release(preparing.result())

    async def _prepared(self, run: Run, version: Version) -> Loaded:
        """The run in memory with one user more; called with the lock."""
        known = self._loaded.get(run.name)
        if known is not None and not (known.version == version and known.sound):
            await self._drop(known)
            known = None
        return self._used(known or await self._load(run, version))

    async def _load(self, run: Run, version: Version) -> Loaded:
        await self._make_room(run)
        try:
            loaded = await asyncio.to_thread(self._opened, run, version)
        except (UserError, OSError) as error:
            LOG.error("%s cannot be opened: %s", run.name, error)
            message = f"{run.name} cannot be opened: the server's log says why"
            raise ApiError(503, message, code="model_unavailable") from error
        self._loaded[run.name] = loaded
        return loaded

    def _opened(self, run: Run, version: Version) -> Loaded:
        opened = run.load()
        worker = None
        if isinstance(opened, TextModel):
            worker = Worker(self._engine(opened), run.name, self._unread)
        return Loaded(run, opened, version, worker)

    async def _make_room(self, run: Run) -> None:
        """Unload runs until one more fits. Raises ApiError where those in use leave no room."""
        if self._memory is None:
            return
        while (free := self._free()) < self._need(run):
            idle = [one for one in self._loaded.values() if not one.users]
            if free + sum(self._need(one.run) for one in idle) < self._need(run):
                message = f"the memory for {run.name} is in use by other runs: try again"
                raise ApiError(503, message, code="memory_in_use", retry_after=BUSY)
            await self._drop(min(idle, key=_last_use))
        await asyncio.to_thread(gc.collect)  # models with adapters hold themselves

    def _free(self) -> int:
        """Bytes of the budget that no run in memory takes, of those that others replace included."""
        assert self._memory is not None
        held = [*self._loaded.values(), *self._left]
        return self._memory - sum(self._need(one.run) for one in held)

    def _need(self, run: Run) -> int:
        return run.memory + (self._cache if run.kind == "text" else 0)

    async def _forget(self, run: Run) -> None:
        async with self._lock:
            if (known := self._loaded.get(run.name)) is not None:
                await self._drop(known)

    async def _drop(self, loaded: Loaded) -> None:
        """Unload a run now, or when the last of its users has left."""
        del self._loaded[loaded.run.name]
        self._left.add(loaded)
        if not loaded.users:
            await asyncio.shield(self._start(self._end(loaded)))

    async def _end(self, loaded: Loaded) -> None:
        """Close a run that has left."""
        await asyncio.to_thread(loaded.close)
        self._left.discard(loaded)


def _last_use(loaded: Loaded) -> int:
    return loaded.used


def wrong_kind(run: Run, wanted: str) -> ApiError:
    """The error of a run that cannot do what it is asked for."""
    return ApiError(
        400, f"{run.name} is a run of {run.kind}, and this takes one of {wanted}",
        code="wrong_kind", param="model",
    )  # fmt: skip
