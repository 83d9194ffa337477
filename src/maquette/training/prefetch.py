"""The batches of the next step, prepared in a thread while a step computes."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from maquette.training.datasets.dataset import Dataset


class Ahead:
    """Prefetches batches, at most one step ahead; a step is known by its first training sample.

    A step's batches are a function of its number, so that prefetching changes only when they are read.
    `with Ahead(dataset, rank, world) as ahead:` waits for the thread at the end.
    """

    def __init__(self, dataset: Dataset, rank: int = 0, world: int = 1) -> None:
        self._dataset, self._rank, self._world = dataset, rank, world
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[Any]]] | None = None

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, sample: int, following: int | None) -> list[Any]:
        """The micro-batches of the step at `sample`; reading of those at `following` begins.

        Raises the errors of reading.
        """
        ahead, self._next = self._next, None
        known = ahead is not None and ahead[0] == sample
        batches = ahead[1].result() if ahead and known else self._read(sample)
        if following is not None:
            self._next = following, self._pool.submit(self._read, following)
        return batches

    def _read(self, sample: int) -> list[Any]:
        return self._dataset.step(sample, self._rank, self._world)
