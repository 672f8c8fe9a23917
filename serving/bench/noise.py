"""How sure a figure is: intervals of a mean over windows, the rule of stability, and ratios by bootstrap.

Knows only lists of numbers. Windows that follow each other are alike, so that an interval from one turn is too narrow
for what another day would say; see docs/benchmarking.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
       2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045)  # fmt: skip
"""Two-sided 95 % quantiles of Student's t for 1, 2, .. degrees of freedom."""
NORMAL95 = 1.960
RESAMPLES = 10_000


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, as a share of the mean; infinite if nothing can be said."""
    if len(values) < 2 or (mean := float(np.mean(values))) <= 0:
        return math.inf
    freedom = len(values) - 1
    t = T95[freedom - 1] if freedom <= len(T95) else NORMAL95
    return t * float(np.std(values, ddof=1)) / math.sqrt(len(values)) / mean


@dataclass(frozen=True)
class Rule:
    """Stable is what has at least so many windows, and intervals of throughput and p99 within these shares of the mean.

    `most` windows are the cap, after which it is not.
    """

    throughput: float = 0.05
    p99: float = 0.10
    least: int = 5
    most: int = 20

    def holds(self, throughput: Sequence[float], p99: Sequence[float]) -> bool:
        enough = min(len(throughput), len(p99)) >= self.least
        return enough and half_width(throughput) <= self.throughput and half_width(p99) <= self.p99


@dataclass(frozen=True)
class Ratio:
    """How many times A's mean B's is, and between which bounds."""

    value: float
    low: float
    high: float

    def beyond(self, tolerance: float) -> bool:
        """Whether it differs from 1 by more than its own noise, and by more than a tolerance (0.05 is 5 %)."""
        return (self.low > 1 or self.high < 1) and abs(self.value - 1) > tolerance


def ratio(a: Sequence[float], b: Sequence[float], comparisons: int = 1, seed: int = 0) -> Ratio | None:
    """Mean of B over mean of A, with the 95 % interval of a bootstrap over their windows.

    Args:
        comparisons: how many are made together; the interval widens so that all of them hold with 95 %.

    None where there are fewer than three windows on a side, or nothing but zeros.
    """
    if min(len(a), len(b)) < 3 or not np.mean(a) > 0:
        return None
    random = np.random.default_rng(seed)

    def means(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        found: np.ndarray[tuple[int], np.dtype[np.float64]] = random.choice(
            np.asarray(values, np.float64), (RESAMPLES, len(values))
        ).mean(axis=1)
        return found

    below = means(a)
    ratios = means(b)[below > 0] / below[below > 0]
    tail = 0.025 / comparisons
    low, high = np.quantile(ratios, (tail, 1 - tail))
    return Ratio(float(np.mean(b) / np.mean(a)), float(low), float(high))
