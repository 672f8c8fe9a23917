"""How many rows a batch should have: learnt from how long batches take. Knows no queue.

More rows are not always faster: beyond some size the intermediate results of a batch no longer fit the caches. A small
graph on a CPU is often fastest, per row, with one to eight rows. Where that size lies depends on graph and machine, and
so it is measured while serving, at no cost before it.
"""

from __future__ import annotations

TRIALS = 3
"""Batches of every size before sizes are compared."""
ROUND = 64
"""One batch in so many tries a size next to the best, for things change."""
WEIGHT = 0.2
"""Of a new measurement against those before."""


class Pace:
    """Sizes are powers of two up to `maximum`, and `maximum`. Not for several threads at once."""

    def __init__(self, maximum: int) -> None:
        self.sizes = sorted({1 << power for power in range(maximum.bit_length())} | {maximum})
        self._seconds: dict[int, float] = {}  # per row
        self._trials = dict.fromkeys(self.sizes, 0)
        self._turn = 0

    @property
    def best(self) -> int:
        """The size with the least time per row, of those that were measured; the largest, if none was."""
        return min(self._seconds, key=self._seconds.__getitem__, default=self.sizes[-1])

    def limit(self, waiting: int) -> int:
        """Rows that the next batch may have, while so many wait."""
        untried = next((size for size in self.sizes if size <= waiting and self._trials[size] < TRIALS), None)
        if untried is not None:
            return untried
        best = self.best
        self._turn += 1
        if self._turn % ROUND == 0:
            beside = self.sizes.index(best) + (1 if self._turn % (2 * ROUND) else -1)
            return self.sizes[max(0, min(beside, len(self.sizes) - 1))]
        return best

    def observe(self, rows: int, seconds: float) -> None:
        """Learns from a batch. One between two sizes counts for the smaller."""
        size = next(size for size in reversed(self.sizes) if size <= rows)
        measured = seconds / rows
        before = self._seconds.get(size)
        # The first runs of a graph at a size are slow, and others may have the machine now and then.
        first = self._trials[size] < TRIALS
        self._trials[size] += 1
        if before is None:
            self._seconds[size] = measured
        elif first:
            self._seconds[size] = min(before, measured)
        else:
            self._seconds[size] = before + WEIGHT * (measured - before)
