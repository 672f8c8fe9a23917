"""Batches find the size that is fastest per row, and find it again when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pacing import ROUND, Pace
from tests.serving.test_batching import batching, rows, run

CACHE = 4
"""Rows up to which a made-up graph takes a millisecond and a bit more for each; beyond, each takes two."""


def cached(size: int) -> float:
    return 1e-3 + 0.5e-3 * size if size <= CACHE else 2e-3 * size


def crowded(pace: Pace, seconds: Callable[[int], float], batches: int) -> list[int]:
    """Sizes of batches while there is always more to do than fits."""
    sizes = []
    for _ in range(batches):
        size = pace.limit(waiting=10_000)
        pace.observe(size, seconds(size))
        sizes.append(size)
    return sizes


def test_every_size_is_tried_and_the_fastest_is_kept() -> None:
    pace = Pace(32)
    sizes = crowded(pace, cached, 200)
    assert set(sizes[:18]) == {1, 2, 4, 8, 16, 32}
    assert sizes[18:].count(CACHE) >= 0.95 * len(sizes[18:])
    assert pace.best == CACHE


@given(st.integers(1, 100), st.integers(1, 200))
def test_limit_is_a_size_that_is_allowed(maximum: int, waiting: int) -> None:
    pace = Pace(maximum)
    for _ in range(60):
        limit = pace.limit(waiting)
        assert 1 <= limit <= maximum
        pace.observe(min(limit, waiting), 1e-3)


def test_without_measurements_the_largest_counts_as_best() -> None:
    assert Pace(24).best == 24


def test_change_is_noticed() -> None:
    pace = Pace(8)
    crowded(pace, lambda size: 1e-3 * size**1.5, 100)
    assert pace.best == 1
    crowded(pace, lambda _: 1e-3, 60 * ROUND)  # now a batch takes the same whatever its size
    assert pace.best == 8


def test_one_slow_first_run_decides_nothing() -> None:
    pace = Pace(2)
    pace.observe(2, 5.0)
    for _ in range(3):
        pace.observe(1, 1e-3)
        pace.observe(2, 1e-3)
    assert pace.best == 2


@pytest.mark.parametrize("adaptive", [True, False])
def test_batcher_follows_what_it_learns(adaptive: bool) -> None:
    """The engine is slow beyond two rows; a caller with many rows has them cut to what is fast, too."""

    async def test() -> None:
        with batching(max_batch_size=8, adaptive=adaptive) as (batcher, [probe]):
            original = probe._run

            def slow(inputs: Any) -> Any:
                probe.delay = 0.002 if len(inputs["x"]) <= 2 else 0.05
                return original(inputs)

            probe._run = slow  # type: ignore[method-assign]
            for _ in range(6):
                await asyncio.gather(*(batcher.submit(rows(mark)) for mark in range(40)))
            before = len(probe.seen)
            answer = await batcher.submit({"x": np.arange(16, dtype=np.float32)[:, None]})
            assert answer.outputs["y"][:, 0].tolist() == list(range(16))
            sizes = [len(batch) for batch in probe.seen[before:]]
            if adaptive:
                assert sum(size <= 2 for size in sizes) >= 0.7 * len(sizes)  # now and then another size is tried
            else:
                assert sizes == [8, 8]

    run(test())
