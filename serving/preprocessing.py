"""Items become tensors in threads, away from the event loop. Knows no model, no queue and no metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from wander.errors import DeadlineExceeded, Overloaded
from wander.tasks.base import Calls, Item, Operation

MAX_SLOW = 32
"""Items that take seconds to read that may wait at once, in memory as they came."""


class Preprocessing:
    """Items that take seconds to read, as videos, have a thread of their own: nobody else waits for them.

    Both ways answer what the operation made of the item, and the seconds that it took, without the wait for a thread.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="preprocess")
        self._slow = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocess-slow")
        self._slow_items = 0

    def run(self, operation: Operation, item: Item) -> asyncio.Future[tuple[Calls, float]]:
        """An item that takes milliseconds. Raises InputError that names the field."""
        return _timed(self._pool, lambda: operation.preprocess(item))

    async def run_slowly(self, operation: Operation, item: Item, deadline: float) -> tuple[Calls, float]:
        """An item that takes seconds; these wait for each other.

        Raises Overloaded if too many wait, DeadlineExceeded for an item whose turn comes too late, and InputError.
        """
        if self._slow_items >= MAX_SLOW:
            raise Overloaded(f"{MAX_SLOW} files that take long to read are waiting already; try again later")

        def preprocess() -> Calls:
            if time.monotonic() > deadline:
                raise DeadlineExceeded("the deadline passed while other files were read")
            return operation.preprocess(item)

        self._slow_items += 1
        try:
            return await _timed(self._slow, preprocess)
        finally:
            self._slow_items -= 1

    def close(self) -> None:
        for pool in (self._pool, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)


def _timed(pool: ThreadPoolExecutor, preprocess: Callable[[], Calls]) -> asyncio.Future[tuple[Calls, float]]:
    def call() -> tuple[Calls, float]:
        started = time.monotonic()
        return preprocess(), time.monotonic() - started

    return asyncio.get_running_loop().run_in_executor(pool, call)
