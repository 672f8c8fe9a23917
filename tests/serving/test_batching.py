"""The batcher, with engines that are held busy by a gate. Nothing here measures time; only order and cause count."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.batching import Batcher, BatchingOptions, BatchStats
from serving.tickets import Result
from tests.serving.building import PATIENCE
from wander.engines.fake import FakeSession
from wander.errors import DeadlineExceeded, EngineError, NotReady, Overloaded, ServiceError
from wander.signature import Arrays, Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", dims=("batch", "length")),),
    outputs=(TensorSpec(name="y", dtype="float64", dims=("batch", 1)),),
)
NEVER = 3600.0
"""Seconds: a delay that no test lives to see."""


class Probe(FakeSession):
    """Says what it computes. `entered` is released by every batch that begins."""

    def __init__(self) -> None:
        super().__init__(SIGNATURE)
        self.entered = threading.Semaphore(0)
        self.seen: list[list[float]] = []
        self.bugs: set[float] = set()
        self.away: ServiceError | None = None

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        marks = inputs["x"][:, 0].tolist()
        self.seen.append(marks)
        self.entered.release()
        if self.bugs & set(marks):
            raise ZeroDivisionError("a bug of the engine")
        if self.away is not None and marks != [0]:
            raise self.away
        return super()._run(inputs)

    @property
    def rows(self) -> list[float]:
        return [mark for batch in self.seen for mark in batch]


@contextmanager
def batching(max_batch_size: int = 8, sessions: int = 1, **options: Any) -> Iterator[tuple[Batcher, list[Probe]]]:
    probes = [Probe() for _ in range(sessions)]
    batcher = Batcher(probes, BatchingOptions(max_batch_size, **options), name="model/graph")
    try:
        yield batcher, probes
    finally:
        for probe in probes:
            probe.gate.set()
        batcher.close(PATIENCE)


def rows(*marks: float, length: int = 1) -> dict[str, NDArray[Any]]:
    """One row a mark."""
    return {"x": np.repeat(np.asarray(marks, np.float32)[:, None], length, 1)}


def marks_of(result: Result) -> list[float]:
    return result.outputs["y"][:, 0].tolist()


async def queued(batcher: Batcher, *requests: dict[str, NDArray[Any]], **more: Any) -> list[asyncio.Task[Result]]:
    """Submits requests in order; they stand in the queue when this returns."""
    tasks = [asyncio.create_task(batcher.submit(request, **more)) for request in requests]
    await asyncio.sleep(0)
    return tasks


async def entering(probe: Probe) -> None:
    assert await asyncio.to_thread(probe.entered.acquire, timeout=PATIENCE)


@asynccontextmanager
async def busy(batcher: Batcher, probe: Probe) -> AsyncIterator[asyncio.Task[Result]]:
    """Inside, the only engine is at work on a row 0; it goes on when the block ends."""
    probe.gate.clear()
    while probe.entered.acquire(blocking=False):  # batches before this one would make it seem begun
        pass
    (plug,) = await queued(batcher, rows(0))
    await entering(probe)
    yield plug
    assert not plug.done()
    probe.gate.set()
    assert marks_of(await plug) == [0]


def run(test: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await test

    asyncio.run(limited())


def test_idle_engine_takes_a_lone_row_at_once() -> None:
    async def test() -> None:
        with batching(max_batch_size=8) as (batcher, [probe]):
            probe.gate.clear()
            (task,) = await queued(batcher, rows(1))
            await entering(probe)  # though seven more would fit, and none has come
            assert batcher.queue_rows == 0
            probe.gate.set()
            assert marks_of(await task) == [1]

    run(test())


@pytest.mark.parametrize(("waiting", "batches"), [(5, [1, 5]), (8, [1, 8]), (9, [1, 8, 1]), (20, [1, 8, 8, 4])])
def test_busy_engine_lets_the_queue_gather(waiting: int, batches: list[int]) -> None:
    async def test() -> None:
        with batching(max_batch_size=8) as (batcher, [probe]):
            async with busy(batcher, probe):
                tasks = await queued(batcher, *(rows(i + 1) for i in range(waiting)))
                assert batcher.queue_rows == waiting
            assert [marks_of(await task) for task in tasks] == [[i + 1] for i in range(waiting)]
            assert probe.batches == batches
            assert probe.rows == sorted(probe.rows)  # first in, first out
            assert batcher.queue_rows == 0

    run(test())


def test_requests_that_do_not_fit_together_stay_in_order() -> None:
    async def test() -> None:
        with batching(max_batch_size=4) as (batcher, [probe]):
            async with busy(batcher, probe):
                tasks = await queued(batcher, rows(1, 2, 3), rows(4, 5), rows(6))
            assert [marks_of(await task) for task in tasks] == [[1, 2, 3], [4, 5], [6]]
            assert probe.seen == [[0], [1, 2, 3], [4, 5, 6]]

    run(test())


def test_batches_hold_one_shape_and_the_oldest_goes_first() -> None:
    async def test() -> None:
        with batching() as (batcher, [probe]):
            async with busy(batcher, probe):
                tasks = await queued(batcher, *(rows(i, length=2 + i % 2) for i in range(1, 7)))
            assert [marks_of(await task) for task in tasks] == [[i] for i in range(1, 7)]
            assert probe.seen == [[0], [1, 3, 5], [2, 4, 6]]

    run(test())


def test_bulk_waits_for_all_others_and_fills_what_room_is_left() -> None:
    async def test() -> None:
        with batching(max_batch_size=4) as (batcher, [probe]):
            async with busy(batcher, probe):
                tasks = await queued(batcher, *(rows(mark) for mark in (1, 2, 3)), bulk=True)
                tasks += await queued(batcher, rows(4, length=2), bulk=True)
                tasks += await queued(batcher, rows(5), rows(6, length=2), rows(7))
            await asyncio.gather(*tasks)
            assert probe.seen == [[0], [5, 7, 1, 2], [6, 4], [3]]

    run(test())


def test_retry_after_tells_how_long_the_queue_will_take() -> None:
    async def test() -> None:
        with batching(max_batch_size=1, max_queue_rows=2) as (batcher, [probe]):
            probe.delay = 0.02
            for mark in range(20):
                await batcher.submit(rows(mark))
            async with busy(batcher, probe):
                waiting = await queued(batcher, rows(1), rows(2))
                with pytest.raises(Overloaded) as caught:
                    await batcher.submit(rows(3))
                assert caught.value.retry_after >= 2 * 0.02 * 0.9  # two rows wait, and the mean nears a row's time
            await asyncio.gather(*waiting)

    run(test())


def test_many_rows_of_one_caller_are_split_and_joined() -> None:
    async def test() -> None:
        with batching(max_batch_size=4) as (batcher, [probe]):
            result = await batcher.submit(rows(*range(10)))
            assert marks_of(result) == list(range(10))
            assert probe.batches == [4, 4, 2]
            assert result.queued >= 0
            assert result.inference > 0

    run(test())


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=25),
    pauses=st.sets(st.integers(0, 24)),
    lengths=st.lists(st.integers(1, 3), min_size=25, max_size=25),
    max_batch_size=st.integers(1, 6),
    sessions=st.integers(1, 3),
)
def test_every_row_is_computed_once_and_answered_with_its_own(
    sizes: list[int], pauses: set[int], lengths: list[int], max_batch_size: int, sessions: int
) -> None:
    async def test() -> None:
        with batching(max_batch_size, sessions) as (batcher, probes):
            wanted, tasks = [], []
            for number, (size, length) in enumerate(zip(sizes, lengths, strict=False)):
                marks = [float(100 * number + row) for row in range(size)]
                wanted.append(marks)
                tasks += await queued(batcher, rows(*marks, length=length))
                if number in pauses:
                    await tasks[-1]
            assert [marks_of(result) for result in await asyncio.gather(*tasks)] == wanted
            computed = [mark for probe in probes for mark in probe.rows]
            assert sorted(computed) == [mark for marks in wanted for mark in marks]
            assert max(size for probe in probes for size in probe.batches) <= max_batch_size
            assert batcher.queue_rows == 0

    run(test())


def test_deadline_passes_in_the_queue_of_a_busy_engine() -> None:
    async def test() -> None:
        with batching() as (batcher, [probe]):
            async with busy(batcher, probe) as plug:
                (late,) = await queued(batcher, rows(1), deadline=time.monotonic() + 0.02)
                (patient,) = await queued(batcher, rows(2), deadline=time.monotonic() + NEVER)
                with pytest.raises(DeadlineExceeded):
                    await late
                assert not plug.done()
                assert batcher.queue_rows == 1
            assert marks_of(await patient) == [2]
            assert probe.rows == [0, 2]

    run(test())


def test_expired_row_is_dropped_when_the_batch_forms() -> None:
    """Also if its caller's loop is too busy to notice that the time is up."""

    async def test() -> None:
        with batching() as (batcher, [probe]):
            async with busy(batcher, probe) as plug:
                deadline = time.monotonic() + 0.01
                (late,) = await queued(batcher, rows(1), deadline=deadline)
                tasks = await queued(batcher, rows(2))
                while time.monotonic() <= deadline:
                    time.sleep(0.001)
                assert not plug.done()
                probe.gate.set()
                assert probe.entered.acquire(timeout=PATIENCE)  # blocks the loop until row 2 is at the engine
            assert marks_of(await tasks[0]) == [2]
            with pytest.raises(DeadlineExceeded):
                await late
            assert probe.rows == [0, 2]

    run(test())


def test_deadline_that_has_passed_is_never_queued() -> None:
    async def test() -> None:
        with batching() as (batcher, [probe]):
            with pytest.raises(DeadlineExceeded):
                await batcher.submit(rows(1), time.monotonic() - 1)
            assert probe.batches == []

    run(test())


def test_cancelled_caller_is_never_computed_and_frees_its_place() -> None:
    async def test() -> None:
        with batching(max_queue_rows=3) as (batcher, [probe]):
            async with busy(batcher, probe):
                gone, stays = await queued(batcher, rows(1, 2), rows(3))
                gone.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gone
                assert batcher.queue_rows == 1
                (after,) = await queued(batcher, rows(4, 5))
            assert marks_of(await stays) == [3]
            assert marks_of(await after) == [4, 5]
            assert probe.rows == [0, 3, 4, 5]

    run(test())


def test_caller_that_leaves_during_its_batch_harms_nobody() -> None:
    async def test() -> None:
        with batching() as (batcher, [probe]):
            probe.gate.clear()
            (gone,) = await queued(batcher, rows(1))
            await entering(probe)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            probe.gate.set()
            assert marks_of(await batcher.submit(rows(2))) == [2]

    run(test())


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_full_queue_refuses_with_the_numbers(size: int) -> None:
    async def test() -> None:
        with batching(max_batch_size=4, max_queue_rows=3) as (batcher, [probe]):
            async with busy(batcher, probe):
                waiting = await queued(batcher, rows(1), rows(2), rows(3))
                with pytest.raises(Overloaded, match=re.escape(f"3 rows wait and {size} more exceed 3")) as caught:
                    await batcher.submit(rows(*range(size)))
                assert caught.value.retry_after > 0
                assert batcher.queue_rows == 3
            await asyncio.gather(*waiting)
            assert marks_of(await batcher.submit(rows(4))) == [4]
            assert probe.rows == [0, 1, 2, 3, 4]

    run(test())


def test_poisoned_row_fails_alone() -> None:
    async def test() -> None:
        with batching() as (batcher, [probe]):
            probe.poison = lambda mark: mark == 3
            async with busy(batcher, probe):
                tasks = await queued(batcher, rows(1), rows(2, 3), rows(4))
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[1], EngineError)
            assert [marks_of(result) for result in results if isinstance(result, Result)] == [[1], [4]]

    run(test())


@pytest.mark.parametrize("error", [NotReady("its node has gone", 3), Overloaded("its queue is full", 3)])
def test_engine_that_is_not_there_is_asked_once_for_all(error: ServiceError) -> None:
    """Row by row it would not be there either, and every caller would wait for the others' turns."""

    async def test() -> None:
        with batching() as (batcher, [probe]):
            probe.away = error
            async with busy(batcher, probe):
                tasks = await queued(batcher, rows(1), rows(2, 3), rows(4))
            assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 3
            assert probe.seen == [[0], [1, 2, 3, 4]]

    run(test())


def test_bug_of_the_engine_is_an_engine_error_and_the_thread_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        with batching() as (batcher, [probe]):
            probe.bugs = {1.0}
            with pytest.raises(EngineError):
                await batcher.submit(rows(1))
            assert marks_of(await batcher.submit(rows(2))) == [2]

    run(test())
    assert "ZeroDivisionError" in caplog.text


def test_no_failure_of_a_split_request_is_left_behind() -> None:
    """asyncio complains of exceptions that nobody fetched; a request of two pieces that both fail has two."""
    complaints: list[dict[str, Any]] = []

    async def both_pieces_fail() -> None:
        with batching(max_batch_size=1, sessions=2) as (batcher, probes):
            for probe in probes:
                probe.poison = lambda _: True
                probe.gate.clear()
            (task,) = await queued(batcher, rows(1, 2))
            for probe in probes:
                await entering(probe)
            for probe in probes:
                probe.gate.set()
            batcher.close(PATIENCE)  # blocks the loop until both have failed
            with pytest.raises(EngineError):
                await task

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await both_pieces_fail()
        await asyncio.sleep(0)  # the loop lets go of them
        gc.collect()

    run(test())
    assert complaints == []


def test_close_computes_what_waits_and_refuses_what_comes() -> None:
    async def test() -> None:
        with batching(max_batch_size=2) as (batcher, [probe]):
            async with busy(batcher, probe):
                waiting = await queued(batcher, rows(1), rows(2), rows(3))
                closing = asyncio.create_task(asyncio.to_thread(batcher.close, PATIENCE))
                refused = None
                while refused is None:  # `close` needs a moment to begin
                    (late,) = await queued(batcher, rows(4))
                    refused = late.exception() if late.done() else None
                    waiting += [late] * (refused is None)
                assert isinstance(refused, NotReady)
                assert not closing.done()
                assert not probe.closed
            results = await asyncio.gather(*waiting)
            assert [marks_of(result) for result in results[:3]] == [[1], [2], [3]]
            await closing
            assert probe.closed
            with pytest.raises(NotReady):
                await batcher.submit(rows(5))

    run(test())


def test_close_does_not_wait_for_ever() -> None:
    async def test() -> None:
        with batching() as (batcher, [probe]):
            async with busy(batcher, probe):
                await asyncio.to_thread(batcher.close, 0.01)
                assert probe.closed

    run(test())


def test_all_sessions_work_at_the_same_time() -> None:
    async def test() -> None:
        with batching(max_batch_size=1, sessions=2) as (batcher, probes):
            for probe in probes:
                probe.gate.clear()
            tasks = await queued(batcher, rows(1), rows(2))
            for probe in probes:
                await entering(probe)
            for probe in probes:
                probe.gate.set()
            assert [marks_of(await task) for task in tasks] == [[1], [2]]
            assert [probe.batches for probe in probes] == [[1], [1]]

    run(test())


def test_sessions_share_what_waits() -> None:
    async def test() -> None:
        with batching(max_batch_size=8, sessions=2) as (batcher, probes):
            for probe in probes:
                probe.gate.clear()
            plugs = await queued(batcher, rows(0), rows(0))
            for probe in probes:
                await entering(probe)
            tasks = await queued(batcher, *(rows(mark) for mark in range(1, 7)))
            first, second = probes
            first.gate.set()  # it takes half of what waits and of the row that the other computes: 4 of 7
            await entering(first)
            second.gate.set()
            await asyncio.gather(*plugs, *tasks)
            assert first.batches[1] == 4
            assert sorted(first.rows + second.rows) == [0, 0, 1, 2, 3, 4, 5, 6]

    run(test())


def test_delay_gathers_until_the_batch_is_full() -> None:
    async def test() -> None:
        with batching(max_batch_size=3, delay=NEVER) as (batcher, [probe]):
            tasks = await queued(batcher, rows(1), rows(2))
            assert batcher.queue_rows == 2
            tasks += await queued(batcher, rows(3))
            assert [marks_of(await task) for task in tasks] == [[1], [2], [3]]
            assert probe.batches == [3]

    run(test())


def test_delay_ends() -> None:
    async def test() -> None:
        with batching(max_batch_size=3, delay=0.01) as (batcher, [probe]):
            assert marks_of(await batcher.submit(rows(1))) == [1]
            assert probe.batches == [1]

    run(test())


def test_delay_does_not_hold_a_closing_batcher() -> None:
    async def test() -> None:
        with batching(max_batch_size=3, delay=NEVER) as (batcher, _):
            (task,) = await queued(batcher, rows(1))
            await asyncio.to_thread(batcher.close, PATIENCE)
            assert marks_of(await task) == [1]

    run(test())


def test_batches_are_observed() -> None:
    seen: list[BatchStats] = []

    async def test() -> None:
        with batching(max_batch_size=4) as (batcher, [probe]):
            batcher.observe = seen.append
            async with busy(batcher, probe):
                tasks = await queued(batcher, rows(1, 2), rows(3))
            await asyncio.gather(*tasks)

    run(test())
    assert [(batch.rows, len(batch.waits)) for batch in seen] == [(1, 1), (3, 2)]
    assert all(batch.seconds >= 0 and min(batch.waits) >= 0 for batch in seen)


def test_two_event_loops_share_a_batcher() -> None:
    with batching() as (batcher, [_]):
        answers: dict[int, list[float]] = {}

        def ask(number: int) -> None:
            answers[number] = marks_of(asyncio.run(batcher.submit(rows(number))))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == {number: [number] for number in range(4)}
