"""Levelled log-mel frames of a whole recording as one row of statistics. Knows no options and no file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]

THIRDS = 3
LOUD = 0.6
"""Share of the frames that are quieter than those in which harmonics are looked for."""
SHARES = (10, 50, 90)


def summary(levelled: Frames, slopes: Frames, contour: Frames) -> Frames:
    """One row of `summary_width` numbers: of every band its level (mean, deviation, median, 90th percentile), its mean
    in each third, its slopes (deviation, mean size) and, where it is loud, its step to the next band (mean,
    deviation); of the contour mean, deviation and percentiles; and the logarithm of the number of frames."""
    mean = levelled.mean(1)
    loud = levelled[mean >= np.quantile(mean, LOUD)]
    steps = np.diff(loud, axis=1)
    thirds = [part.mean(0) if len(part) else levelled.mean(0) for part in np.array_split(levelled, THIRDS)]
    parts = (
        *(levelled.mean(0), levelled.std(0), *np.percentile(levelled, (50, 90), axis=0)),
        *thirds,
        *(slopes.std(0), np.abs(slopes).mean(0)),
        *(steps.mean(0), steps.std(0)),
        *(contour.mean(0), contour.std(0), *np.percentile(contour, SHARES, axis=0)),
        np.log([len(levelled)]),
    )
    return np.concatenate(parts).astype(np.float32)[None]


def summary_width(bands: int, contour: int) -> int:
    """Numbers of a summary of so many bands and columns of a contour."""
    return (4 + THIRDS + 2) * bands + 2 * (bands - 1) + (2 + len(SHARES)) * contour + 1
