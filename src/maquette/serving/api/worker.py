"""The thread that owns an engine, and the way from it to coroutines.

Coroutines submit requests and await steps; the thread steps the engine. What a client has not read yet waits
in a buffer of bounded size: where that is full, its request is cancelled, and the others go on. A request
that is cancelled has left the engine before the next step. Where a step fails, the requests in the engine
fail; where the engine cannot be emptied after that, its thread ends, and `Runs` opens the run anew.
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from maquette.base.errors import UserError
from maquette.serving.api.errors import ApiError, internal
from maquette.serving.engine import Engine
from maquette.serving.request import Full, Request, Step

T = TypeVar("T")
LOG = logging.getLogger("maquette.serve")
RETRY_AFTER = 1.0  # seconds, where the queue is full


class Stream:
    """The steps of some requests that were submitted together, read in the event loop.

    room: number of steps that may wait to be read.
    """

    def __init__(self, worker: "Worker", count: int, room: int) -> None:
        self._worker, self._room = worker, room
        self.loop = asyncio.get_running_loop()
        self._steps: deque[tuple[int, Step]] = deque()
        self._ready = asyncio.Event()
        self._error: ApiError | None = None
        self._left = count
        self.ids: list[int] = []
        """numbers of the requests in the engine, known to its thread"""

    async def __aiter__(self) -> AsyncIterator[tuple[int, Step]]:
        """The steps, each with the number of its request among those submitted. Raises ApiError."""
        while self._left:
            while not self._steps:
                if self._error is not None:
                    raise self._error
                self._ready.clear()
                await self._ready.wait()
            number, step = self._steps.popleft()
            self._left -= step.finish is not None
            yield number, step

    def cancel(self) -> None:
        """Take the requests out of the engine, where they are not finished."""
        if self._left:
            self._worker.post(lambda: self._worker.drop(self))

    def put(self, steps: Sequence[tuple[int, Step]]) -> None:
        """Take steps of the engine; called in the event loop."""
        if self._error is not None:
            return
        if len(self._steps) + len(steps) > self._room:
            self.fail(ApiError(408, "the answer was not read fast enough", code="slow_client"))
            self.cancel()
            return
        self._steps.extend(steps)
        self._ready.set()

    def fail(self, error: ApiError) -> None:
        """End with an error, after the steps that have come; called in the event loop."""
        self._error = self._error or error
        self._ready.set()

    def post(self, function: Callable[..., None], *given: Any) -> None:
        """Call a function in the event loop, from another thread."""
        _post(self.loop, function, *given)


@dataclass(frozen=True)
class _Job:
    """What the thread is to do. fail: called instead where the thread has ended."""

    run: Callable[[], None]
    fail: Callable[[ApiError], None] = lambda error: None


class Worker:
    """A thread that owns an engine. room: number of steps of a request that may wait to be read."""

    def __init__(self, engine: Engine, name: str, room: int = 4096) -> None:
        self.engine, self._room = engine, room
        self._posts: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._posting = threading.Lock()  # no job is put after the thread has ended
        self._gone: ApiError | None = None  # why the thread has ended
        self._calls: deque[_Job] = deque()  # the thread's own
        self._streams: dict[int, tuple[Stream, int]] = {}  # the thread's own
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Number of requests in the engine."""
        return 0 if self.ended else len(self.engine)

    @property
    def ended(self) -> bool:
        """Whether the thread has ended, so that every request fails."""
        return self._gone is not None

    async def submit(self, requests: Sequence[Request]) -> Stream:
        """Submit requests, all of them or none.

        Raises ApiError where the queue is full, and WrongUse for a request that can never be answered.
        """
        stream = Stream(self, len(requests), self._room * len(requests))
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def submit() -> None:
            try:
                for number, request in enumerate(requests):
                    identity = self.engine.submit(request)
                    stream.ids.append(identity)
                    self._streams[identity] = stream, number
                stream.post(_resolve, taken, None)
            except BaseException as error:
                try:
                    self.drop(stream)
                finally:
                    stream.post(_reject, taken, _refusal(error))

        self.post(submit, lambda error: stream.post(_reject, taken, error))
        try:
            await taken
        except asyncio.CancelledError:
            stream.cancel()
            raise
        return stream

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives that runs in the thread, between two steps of the engine."""
        loop = asyncio.get_running_loop()
        given: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            if given.cancelled():
                return
            try:
                result = function()
            except BaseException as error:
                _post(loop, _reject, given, error)
            else:
                _post(loop, _resolve, given, result)

        def fail(error: ApiError) -> None:
            _post(loop, _reject, given, error)

        self.post(lambda: self._calls.append(_Job(call, fail)), fail)
        return await given

    def post(
        self, run: Callable[[], None], fail: Callable[[ApiError], None] = lambda error: None
    ) -> None:
        """Run a short job in the thread before the next step, or fail where the thread has ended."""
        with self._posting:
            if self._gone is None:
                self._posts.put(_Job(run, fail))
                return
        fail(self._gone)

    def drop(self, stream: Stream) -> None:
        """Take a stream's requests out of the engine; called in the thread."""
        for identity in stream.ids:
            self._streams.pop(identity, None)
        try:
            for identity in stream.ids:
                self.engine.cancel(identity)
        except Exception:
            LOG.exception("a request could not be cancelled")
            self._clear()

    def close(self) -> None:
        """End the thread after the step that it is in; what is not finished fails."""
        self._posts.put(None)
        self._thread.join()

    def _run(self) -> None:
        gone = internal()
        try:
            while self._admitted():
                if self._calls:
                    self._calls.popleft().run()
                if len(self.engine):
                    self._step()
            gone = ApiError(503, "the server is shutting down", code="shutting_down")
        except BaseException:
            LOG.exception("the engine's thread has ended")
        finally:
            self._end(gone)

    def _end(self, gone: ApiError) -> None:
        """Fail all that waits for the thread, and what will come."""
        with self._posting:
            self._gone = gone
        self._fail_all(gone)
        while not self._posts.empty():
            if (job := self._posts.get()) is not None:
                self._calls.append(job)
        for job in self._calls:
            job.fail(gone)
        self._calls.clear()

    def _admitted(self) -> bool:
        """Run what was posted, waiting where nothing else is to do; returns whether to go on."""
        wait = not (self._calls or len(self.engine))
        while True:
            try:
                job = self._posts.get(block=wait)
            except queue.Empty:
                return True
            if job is None:
                return False
            job.run()
            wait = not (self._calls or len(self.engine))

    def _step(self) -> None:
        try:
            steps = self.engine.step()
        except Exception:
            LOG.exception("a step of the engine failed")
            self._clear()
            return
        parts: dict[Stream, list[tuple[int, Step]]] = {}
        for step in steps:
            known = self._streams.get(step.request)
            if known is not None:
                parts.setdefault(known[0], []).append((known[1], step))
                if step.finish is not None:
                    del self._streams[step.request]
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Stream, list[tuple[int, Step]]]]] = {}
        for stream, own in parts.items():
            loops.setdefault(stream.loop, []).append((stream, own))
        for loop, given in loops.items():  # woken once a step, not once a row
            _post(loop, _put_all, given)

    def _clear(self) -> None:
        """Fail every request, and empty the engine, whose state is not known."""
        self._fail_all(internal())
        self.engine.clear()

    def _fail_all(self, error: ApiError) -> None:
        for stream in {stream for stream, _ in self._streams.values()}:
            stream.post(stream.fail, error)
        self._streams.clear()


def _refusal(error: BaseException) -> BaseException:
    """What a request that could not be submitted is told."""
    if isinstance(error, Full):
        return ApiError(429, str(error), code="queue_full", retry_after=RETRY_AFTER)
    if not isinstance(error, UserError):
        LOG.error("a request could not be submitted", exc_info=error)
        return internal()
    return error


def _post(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *given: Any) -> None:
    """Call a function in an event loop, from another thread; nothing where it is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *given)


def _put_all(given: "Sequence[tuple[Stream, Sequence[tuple[int, Step]]]]") -> None:
    for stream, steps in given:
        stream.put(steps)


def _resolve(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _reject(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
