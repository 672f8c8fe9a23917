"""The dynamic batcher: arrays in, arrays out. Knows neither tasks nor HTTP.

It adds no wait of its own: an idle engine takes what is there at once, a busy one lets the queue gather. Each session
has a thread that pulls; a batch is formed at the moment the session is free, from rows of one shape, oldest first, and
rows of bulk work after all others: they fill what room is left. Several sessions share what waits. What has expired,
or whose caller has gone, is dropped then, before it is computed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.pacing import Pace
from serving.tickets import Result, Shape, Ticket, deliver, expire, joined, shape_of
from wander.engines import Session
from wander.errors import DeadlineExceeded, EngineError, NotReady, Overloaded, ServiceError
from wander.signature import Arrays

log = logging.getLogger(__name__)

SHAPES = 256
"""Shapes of which it is remembered how fast batches of them are."""


@dataclass(frozen=True)
class BatchingOptions:
    """Attributes:

    max_batch_size: rows that an engine gets at once.
    max_queue_rows: rows that may wait; more are refused.
    delay: seconds that an idle engine waits for company, for engines that need large batches.
    adaptive: whether batches stay at the size that has turned out to be the fastest per row, see `Pace`.
    """

    max_batch_size: int
    max_queue_rows: int = 4096
    delay: float = 0.0
    adaptive: bool = False


@dataclass
class BatchStats:
    """One batch, for metrics: rows, the waits of its tickets and the time it took, in seconds."""

    rows: int
    waits: list[float]
    seconds: float


@dataclass
class Batcher:
    """The queue of one graph and the sessions that work on it.

    `submit` is called on an event loop; the sessions run in threads of their own.
    """

    sessions: Sequence[Session]
    options: BatchingOptions
    observe: Callable[[BatchStats], None] = lambda _: None
    name: str = "graph"
    _buckets: dict[tuple[bool, Shape], deque[Ticket]] = field(default_factory=dict, init=False)
    _rows: int = field(default=0, init=False)
    _computing: int = field(default=0, init=False)
    _seconds_per_row: float = field(default=0.0, init=False)
    _paces: OrderedDict[Shape, Pace] = field(default_factory=OrderedDict, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._condition = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, args=(session,), name=f"{self.name}-{number}", daemon=True)
            for number, session in enumerate(self.sessions)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queue_rows(self) -> int:
        """Rows that wait now."""
        return self._rows

    def admit(self, rows: int) -> None:
        """Raises Overloaded if so many rows more would not find room in the queue now."""
        if self._rows + rows > self.options.max_queue_rows:
            raise Overloaded(
                f"the queue of {self.name} is full: {self._rows} rows wait and {rows} more exceed "
                f"{self.options.max_queue_rows}",
                # Until a batch was run, nothing is known of the pace.
                retry_after=self._rows * self._seconds_per_row / len(self.sessions) or 1.0,
            )

    async def submit(self, inputs: Arrays, deadline: float | None = None, *, bulk: bool = False) -> Result:
        """Computes rows (n, ..) that fit the graph's signature.

        More rows than a batch should have are split and put together again.

        Args:
            deadline: `time.monotonic()` at which the caller gives up.
            bulk: whether the rows may wait for those of others.

        Raises Overloaded if the queue is full, DeadlineExceeded, NotReady once closed, EngineError.
        """
        rows = len(next(iter(inputs.values())))
        size = self._size(shape_of(inputs))
        if rows <= size:
            return await self._submit([inputs], rows, deadline, bulk)
        chunks = [{name: value[i : i + size] for name, value in inputs.items()} for i in range(0, rows, size)]
        return await self._submit(chunks, rows, deadline, bulk)

    async def _submit(self, chunks: Sequence[Arrays], rows: int, deadline: float | None, bulk: bool) -> Result:
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            raise DeadlineExceeded("the deadline passed before the request could be queued")
        tickets = [
            Ticket(chunk, len(next(iter(chunk.values()))), deadline, bulk, loop, loop.create_future(), now)
            for chunk in chunks
        ]
        with self._condition:
            if self._closed:
                raise NotReady(f"{self.name} is being unloaded")
            self.admit(rows)
            for ticket in tickets:
                self._buckets.setdefault((bulk, shape_of(ticket.inputs)), deque()).append(ticket)
            self._rows += rows
            self._condition.notify(len(tickets))
        # asyncio.timeout does the same, and takes several times as long.
        timer = None if deadline is None else loop.call_later(deadline - now, expire, tickets)
        try:
            results = [await ticket.future for ticket in tickets]
        finally:
            if timer is not None:
                timer.cancel()
            self._forget(tickets)
        return results[0] if len(results) == 1 else joined(results)

    def _forget(self, tickets: list[Ticket]) -> None:
        """Frees the places of tickets whose caller has gone; a session that is at work on one is not stopped."""
        for ticket in tickets:
            if not ticket.future.cancel() and not ticket.future.cancelled():
                ticket.future.exception()  # asyncio reports what nobody has fetched
        if any(ticket.waiting for ticket in tickets):
            with self._condition:
                for ticket in tickets:
                    if ticket.waiting:
                        ticket.waiting = False
                        self._rows -= ticket.rows

    def _work(self, session: Session) -> None:
        batch, _ = self._next()
        while batch is not None:
            began, rows = time.monotonic(), sum(ticket.rows for ticket in batch)
            self._compute(session, batch)
            following, waited = self._next(done=rows)
            if self.options.adaptive and not waited:
                # From one batch to the next: what it takes to get the interpreter back, and to hand out, counts too.
                with self._condition:
                    self._pace(shape_of(batch[0].inputs)).observe(rows, time.monotonic() - began)
            batch = following

    def _next(self, done: int = 0) -> tuple[list[Ticket] | None, bool]:
        """Waits for a batch after one with `done` rows; None once the batcher is closed and nothing waits.

        Returns also whether there was none at once.
        """
        waited = False
        with self._condition:
            self._computing -= done
            while True:
                wait = self._patience()
                if wait == 0 and (batch := self._take()):
                    return batch, waited
                if self._closed and self._rows == 0:
                    return None, waited
                waited = True
                self._condition.wait(wait or None)

    def _patience(self) -> float | None:
        """Seconds for which an idle session still waits for company: 0 to go at once, None for as long as it takes."""
        if self._rows == 0:
            return None
        if self._closed or self.options.delay == 0 or self._rows >= self.options.max_batch_size:
            return 0
        oldest = min(bucket[0].queued_at for bucket in self._buckets.values() if bucket)
        return max(0.0, oldest + self.options.delay - time.monotonic())

    def _take(self) -> list[Ticket]:
        """Rows of the shape that has waited longest, up to the batch size. Drops what nobody waits for any more."""
        now = time.monotonic()
        batch: list[Ticket] = []
        for key in sorted(self._buckets, key=lambda k: self._buckets[k][0].rank):
            bulk, shape = key
            share = self._share()
            limit = self._pace(shape).limit(share) if self.options.adaptive else self.options.max_batch_size
            limit = min(limit, share)
            rows = self._fill(batch, key, 0, limit, now)
            if batch:
                if not bulk and rows < limit and (True, shape) in self._buckets:
                    self._fill(batch, (True, shape), rows, limit, now)
                break
        self._computing += sum(ticket.rows for ticket in batch)
        return batch

    def _share(self) -> int:
        """Rows for one session, if all that wait or are being computed were shared out.

        One that took all that wait would leave the others idle until its answers bring new requests. Where a delay
        gathers rows, batches are to be large.
        """
        if self.options.delay:
            return self._rows
        return min(self._rows, -(-(self._rows + self._computing) // len(self.sessions)))

    def _fill(self, batch: list[Ticket], key: tuple[bool, Shape], rows: int, limit: int, now: float) -> int:
        """Moves tickets to a batch that has so many rows, while they fit. Returns how many it has then."""
        bucket = self._buckets[key]
        while bucket:
            ticket = bucket[0]
            if ticket.waiting and batch and rows + ticket.rows > limit:
                break
            bucket.popleft()
            if not ticket.waiting:
                continue
            ticket.waiting = False
            self._rows -= ticket.rows
            if ticket.deadline is not None and ticket.deadline <= now:
                deliver([ticket], [DeadlineExceeded("the deadline passed in the queue")])
                continue
            rows += ticket.rows
            batch.append(ticket)
        if not bucket:
            del self._buckets[key]
        return rows

    def _pace(self, shape: Shape) -> Pace:
        """What is known of batches of one shape; of those not seen for long, nothing."""
        if (pace := self._paces.get(shape)) is None:
            pace = self._paces[shape] = Pace(self.options.max_batch_size)
            if len(self._paces) > SHAPES:
                self._paces.popitem(last=False)
        self._paces.move_to_end(shape)
        return pace

    def _size(self, shape: Shape) -> int:
        """Rows that one ticket may have."""
        if not self.options.adaptive:
            return self.options.max_batch_size
        with self._condition:
            return self._pace(shape).best

    def _compute(self, session: Session, batch: list[Ticket]) -> None:
        """Runs a batch and hands out its results. If the engine fails on it, every ticket is tried alone."""
        started = time.monotonic()
        outcome = self._run(session, batch)
        if isinstance(outcome, ServiceError):
            # An engine that is elsewhere, and cannot be reached, would not answer them one by one either.
            if len(batch) > 1 and not isinstance(outcome, NotReady | Overloaded):
                for ticket in batch:
                    self._compute(session, [ticket])
            else:
                deliver(batch, [outcome] * len(batch))
            return
        seconds = time.monotonic() - started
        results: list[Result | ServiceError] = []
        row = 0
        for ticket in batch:
            outputs = {name: value[row : row + ticket.rows] for name, value in outcome.items()}
            results.append(Result(outputs, started - ticket.queued_at, seconds))
            row += ticket.rows
        with self._condition:
            self._seconds_per_row += (seconds / row - self._seconds_per_row) / 8
        self.observe(BatchStats(row, [started - ticket.queued_at for ticket in batch], seconds))
        deliver(batch, results)

    def _run(self, session: Session, batch: list[Ticket]) -> dict[str, NDArray[Any]] | ServiceError:
        inputs = batch[0].inputs
        try:
            if len(batch) > 1:
                inputs = {name: np.concatenate([ticket.inputs[name] for ticket in batch]) for name in inputs}
            return session.run(inputs)
        except ServiceError as error:
            return error
        except Exception as error:  # a thread that dies would leave all its callers waiting for ever
            log.exception("%s: the engine raised something that is no EngineError", self.name)
            return EngineError(f"{self.name}: {type(error).__name__} in the engine")

    def close(self, patience: float = 30.0) -> None:
        """Takes no more, computes what waits, and closes the sessions. Blocks for up to `patience` seconds."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        until = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for session in self.sessions:
            session.close()
