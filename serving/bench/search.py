"""The highest rate that a case stands: doubling or halving first, then halving the gap. Knows no server."""

from __future__ import annotations

import math
from collections.abc import Callable

TRIES = 8
"""Of doubling or halving, and again of closing in."""
GAP = 1.05
"""Two rates that are closer than this are one."""


def highest(start: float, meets: Callable[[float], bool]) -> float | None:
    """The highest rate found that meets, within `GAP` of one that does not; None if even the lowest tried does not.

    Args:
        start: a rate from which to look. meets: tries one; assumed true below some rate and false above.
    """
    low: float | None = None
    high: float | None = None
    rate = start
    for _ in range(TRIES):
        if meets(rate):
            low = rate
            rate *= 2
        else:
            high = rate
            rate /= 2
        if low is not None and high is not None:
            break
    if low is None or high is None:
        return low
    for _ in range(TRIES):
        if high / low <= GAP:
            break
        middle = math.sqrt(low * high)
        if meets(middle):
            low = middle
        else:
            high = middle
    return low


def confirmed(rate: float, meets: Callable[[float], bool], step: float = 0.93, tries: int = 6) -> float | None:
    """That rate, or a lower one that meets in a longer measurement: lower by a step, then two, four, and so on, since a
    machine that has become slower than it was while searching can be so by any amount."""
    for _ in range(tries):
        if meets(rate):
            return rate
        rate *= step
        step *= step
    return None
