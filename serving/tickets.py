"""What waits in a queue: rows of one caller and the promise of their results. Knows no queue and no engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.errors import DeadlineExceeded, ServiceError
from wander.signature import Arrays

log = logging.getLogger(__name__)

Shape = tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]


@dataclass(frozen=True)
class Result:
    """Outputs (rows, ..) and how long the rows waited and were computed, in seconds."""

    outputs: dict[str, NDArray[Any]]
    queued: float
    inference: float


@dataclass(eq=False)
class Ticket:
    """Rows of one caller. `rows` of them count against the queue while `waiting`."""

    inputs: Arrays
    rows: int
    deadline: float | None
    bulk: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Result]
    queued_at: float
    waiting: bool = True

    @property
    def rank(self) -> tuple[bool, float]:
        """Who is served first."""
        return self.bulk, self.queued_at


def shape_of(inputs: Arrays) -> Shape:
    """What rows must have in common to be computed together."""
    return tuple((value.shape[1:], value.dtype) for value in inputs.values())


def expire(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        if not ticket.future.done():
            ticket.future.set_exception(DeadlineExceeded("the deadline passed before the answer was there"))


def deliver(tickets: Sequence[Ticket], results: Sequence[Result | ServiceError]) -> None:
    """Hands results to the loops of their callers, from any thread; one hop a loop."""
    waiting: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Result], Result | ServiceError]]] = {}
    for ticket, result in zip(tickets, results, strict=True):
        waiting.setdefault(ticket.loop, []).append((ticket.future, result))
    for loop, pairs in waiting.items():
        try:
            loop.call_soon_threadsafe(_resolve, pairs)
        except RuntimeError:
            log.debug("the event loop of %d callers is closed", len(pairs))


def _resolve(pairs: list[tuple[asyncio.Future[Result], Result | ServiceError]]) -> None:
    for future, result in pairs:
        if future.done():
            continue
        if isinstance(result, ServiceError):
            future.set_exception(result)
        else:
            future.set_result(result)


def joined(results: list[Result]) -> Result:
    """The pieces of one caller's batch, in order; the wait is that of the first, the times add up."""
    outputs = {name: np.concatenate([result.outputs[name] for result in results]) for name in results[0].outputs}
    return Result(outputs, results[0].queued, sum(result.inference for result in results))
