"""Log-mel recordings as training material: the same words through other throats, rooms and microphones.

Knows no model: decibels (frames, bands) in, decibels out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Decibels = NDArray[np.float32]

COLOUR_POINTS = 4
"""Places along the bands between which a change of colour is a straight line."""


class Changes(BaseModel):
    """How much a recording is changed.

    Attributes:
        stretch: longest and, inversely, shortest relative duration.
        bands: most bands by which the spectrum is moved, up or down.
        colour_db: deviation of the gain of a part of the spectrum.
        noise_db: range of how far below the loudest frame noise is added.
        cut: most frames that are lost at the start.
        masked: share of the frames, and of the bands, that a mask may take; two masks each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stretch: float = Field(default=1.25, ge=1)
    bands: float = Field(default=1.5, ge=0)
    colour_db: float = Field(default=3.0, ge=0)
    noise_db: tuple[float, float] = (45.0, 80.0)
    cut: int = Field(default=8, ge=0)
    masked: float = Field(default=0.15, ge=0, lt=1)


def changed(decibels: Decibels, how: Changes, floor_db: float, rng: np.random.Generator) -> Decibels:
    """A recording as it might have been; its level does not count, and masks are at the floor below the loudest."""
    x: NDArray[Any] = decibels
    if rng.random() < 0.9:
        x = stretched(x, float(np.exp(rng.uniform(-1, 1) * np.log(how.stretch))))
    if rng.random() < 0.7:
        x = moved(x, rng.uniform(-how.bands, how.bands))
    if rng.random() < 0.5:
        x = x + _line(rng, how.colour_db, x.shape[1])
    loudest = float(10 * np.log10(np.power(10, x / 10).sum(1).max()))
    if rng.random() < 0.5:
        noise = loudest - rng.uniform(*how.noise_db) + _line(rng, how.colour_db, x.shape[1])
        x = 10 * np.log10(np.power(10, x / 10) + np.power(10, noise / 10))
    x = x.astype(np.float32)
    for _ in range(2):
        for axis in (0, 1):
            size = x.shape[axis]
            width = int(rng.integers(0, int(how.masked * size) + 1))
            at = int(rng.integers(0, size - width + 1))
            x[(slice(at, at + width), slice(None)) if axis == 0 else (slice(None), slice(at, at + width))] = (
                loudest - floor_db
            )
    return x


def stretched(decibels: Decibels, ratio: float) -> Decibels:
    """The frames at another pace, between them straight lines."""
    frames = len(decibels)
    return _between(decibels, np.linspace(0, frames - 1, max(2, round(frames * ratio))))


def moved(decibels: Decibels, bands: float) -> Decibels:
    """The spectrum moved up by so many bands; the ends are continued."""
    size = decibels.shape[1]
    return np.ascontiguousarray(_between(decibels.T, (np.arange(size) - bands).clip(0, size - 1)).T)


def _between(rows: NDArray[np.float32], places: NDArray[np.float64]) -> Decibels:
    below = places.astype(np.int64).clip(0, len(rows) - 2)
    share = (places - below)[:, None]
    return np.asarray(rows[below] * (1 - share) + rows[below + 1] * share, np.float32)


def _line(rng: np.random.Generator, deviation: float, bands: int) -> NDArray[np.float64]:
    points = np.linspace(0, bands - 1, COLOUR_POINTS)
    return np.interp(np.arange(bands), points, rng.normal(0, deviation, COLOUR_POINTS))
