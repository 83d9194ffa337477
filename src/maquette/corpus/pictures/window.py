"""Pictures decoded in parallel, a window of them at a time, in their order.

A task is some files and what they will take up decoded; at most two tasks a worker are under way, so
memory holds no more than those, however many pictures follow and however slow the one who waits is.
"""

import hashlib
import itertools
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from maquette.base.errors import UserError
from maquette.base.machine import resident
from maquette.base.processes import kill_workers, no_script, start_workers
from maquette.corpus.document import Skipped
from maquette.corpus.pictures.decode import MOST_BYTES, Crop, NoPicture, decode, too_long
from maquette.corpus.pictures.item import Location, Picture

TASK_PICTURES, TASK_ITEMS = 32, 1024
TASK_BYTES = 8 << 20  # of the files of a task, and of its decoded squares
WORTH = 128  # pictures: fewer are decoded before a second process has started


class Square(NamedTuple):
    """A decoded picture.

    pixels: uint8 (height, width, 3). file, shown: the first 8 bytes of the SHA-256 of the file and of the
    pixels, as numbers. read: bytes of the file. converted: conversions of the picture.
    """

    pixels: bytes
    file: int
    shown: int
    read: int
    converted: list[str]


class _Task(NamedTuple):
    locations: list[Location]
    image_size: int
    crop: Crop


class _Done(NamedTuple):
    """A square for each location, or the reason for none; the process and its peak memory in bytes."""

    made: list[Square | str]
    process: int
    peak: int


Item = Picture | Skipped
_Work = tuple[list[Item], _Task]


class Window:
    """Decodes any number of pictures in parallel. peak: peak memory of the workers in bytes."""

    def __init__(self, image_size: int, crop: Crop, workers: int) -> None:
        self._image_size, self._crop, self._workers = image_size, crop, workers
        self._peaks: dict[int, int] = {}

    @property
    def peak(self) -> int:
        """Sum of the peak memory of all processes, this one included, in bytes."""
        return sum((self._peaks | {os.getpid(): peak()}).values())

    def each(
        self, items: Iterator[Item]
    ) -> Generator[tuple[Picture, Square | str] | Skipped, None, None]:
        """The items in their order, each picture decoded or with the reason why it cannot be.

        Raises UserError when a worker dies.
        """
        tasks = self._tasks(items)
        first = list(itertools.islice(tasks, max(1, WORTH // self._pictures)))
        few = self._workers == 1 or len(first) < max(2, WORTH // self._pictures)
        run = self._here if few else self._side_by_side
        runs = run(itertools.chain(first, tasks))
        for group, done in runs:
            self._peaks[done.process] = max(self._peaks.get(done.process, 0), done.peak)
            made = iter(done.made)
            for item in group:
                yield item if isinstance(item, Skipped) else (item, next(made))

    @property
    def _pictures(self) -> int:
        return max(1, min(TASK_PICTURES, TASK_BYTES // (3 * self._image_size**2)))

    def _tasks(self, source: Iterator[Item]) -> Iterator[_Work]:
        items: list[Item] = []
        locations: list[Location] = []
        held = 0
        for item in source:
            if isinstance(item, Picture):
                locations.append(item.location)
                held += item.location.size
                item = item._replace(
                    location=Location(item.location.size)
                )  # the bytes are the task's alone
            items.append(item)
            full = len(locations) >= self._pictures or held >= TASK_BYTES
            if full or len(items) >= TASK_ITEMS:
                yield items, _Task(locations, self._image_size, self._crop)
                items, locations, held = [], [], 0
        if items:
            yield items, _Task(locations, self._image_size, self._crop)

    def _here(self, tasks: Iterator[_Work]) -> Iterator[tuple[list[Item], _Done]]:
        return ((items, _decode(task)) for items, task in tasks)

    def _side_by_side(self, tasks: Iterator[_Work]) -> Iterator[tuple[list[Item], _Done]]:
        pool = start_workers(self._workers)
        waiting: deque[tuple[list[Item], Future[_Done]]] = deque()
        try:
            for items, task in tasks:
                with no_script():
                    waiting.append((items, pool.submit(_decode, task)))
                if len(waiting) >= 2 * self._workers:
                    items, future = waiting.popleft()
                    yield items, future.result()
            while waiting:
                items, future = waiting.popleft()
                yield items, future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker was killed (out of memory?): run again with fewer --workers"
            ) from error
        except BaseException:
            kill_workers(pool)
            raise
        pool.shutdown()


def _decode(task: _Task) -> _Done:
    with warnings.catch_warnings():  # of damaged tags, and of sizes that `decode` refuses itself
        warnings.simplefilter("ignore")
        made = [_square(location, task) for location in task.locations]
    return _Done(made, os.getpid(), peak())


def _square(location: Location, task: _Task) -> Square | str:
    try:
        if location.size > MOST_BYTES:
            raise NoPicture(too_long())
        data = location.read()
        if len(data) < location.size:
            raise NoPicture("truncated")
        pixels, converted = decode(data, task.image_size, task.crop)
    except NoPicture as error:
        return str(error)
    except OSError as error:
        return error.strerror or "cannot be read"
    raw = pixels.tobytes()
    return Square(raw, _number(data), _number(raw), len(data), converted)


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def peak() -> int:
    """Peak memory of this process in bytes."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resident()
