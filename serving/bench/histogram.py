"""Latencies in an HDR histogram: three significant digits, mergeable, in the encoding that other tools read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST, DIGITS = 1, 3_600_000_000, 3
"""Microseconds: up to an hour."""
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def name(percent: float) -> str:
    """`p99.9`"""
    return f"p{percent:g}"


def record(latencies: NDArray[np.int64], interval_ns: float | None = None) -> Any:
    """A histogram of nanoseconds, in microseconds.

    Args:
        interval_ns: corrects for coordinated omission: for every latency beyond it, those are added that requests sent
            at this interval meanwhile would have had.
    """
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(LOWEST, HIGHEST, DIGITS)
    microseconds = np.clip(np.rint(latencies / 1000).astype(np.int64), LOWEST, HIGHEST)
    values, counts = np.unique(microseconds, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if interval_ns is None:
            histogram.record_value(value, count)
        else:
            histogram.record_corrected_value(value, max(LOWEST, round(interval_ns / 1000)), count)
    return histogram


def percentiles_ms(histogram: Any) -> dict[str, float | None]:
    """`{"p50": .., .., "max": ..}`; None where nothing was recorded."""
    if not histogram.get_total_count():
        return dict.fromkeys([*map(name, PERCENTILES), "max"])
    found: dict[str, float | None] = {name(p): histogram.get_value_at_percentile(p) / 1000 for p in PERCENTILES}
    return {**found, "max": histogram.get_max_value() / 1000}


def encoded(histogram: Any) -> str:
    """HdrHistogram V2, compressed, base64."""
    return str(histogram.encode().decode("ascii"))


def decoded(text: str) -> Any:
    from hdrh.histogram import HdrHistogram

    return HdrHistogram.decode(text)


def bins_ms(histogram: Any) -> tuple[list[float], list[int]]:
    """(milliseconds, count) of every value that was recorded, ascending."""
    values, counts = [], []
    for item in histogram.get_recorded_iterator():
        values.append(item.value_iterated_to / 1000)
        counts.append(item.count_added_in_this_iter_step)
    return values, counts
