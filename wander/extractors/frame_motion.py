"""How much changes from one picture to the next, where, and which way: no optical flow, but its simplest statistics.

Of the movement of an edge only the part across it can be seen (the normal flow). It is counted by its direction, and
the change of lightness by its size, in each of 16 cells. Nothing is learned.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wander.extractors._clip import Clip
from wander.extractors._small import SIDE, squares
from wander.extractors._statistics import cielab
from wander.extractors.base import Extractor, ExtractorConfig, Features

GRID, WAYS = 4, 8
FULL = 100.0
"""Lightness of white."""


class MotionConfig(ExtractorConfig):
    """A row compares pictures that are `step` seconds apart."""

    step: float = Field(default=0.2, ge=0.04, le=60)


class FrameMotion(Extractor):
    """A row stands for two pictures; a clip of a single one has no motion."""

    summary: ClassVar[str] = "Change from picture to picture, and its directions, in 16 cells"
    Config = MotionConfig
    side = SIDE

    @property
    def dimension(self) -> int:
        return GRID * GRID * (1 + WAYS)

    def __call__(self, clip: Clip) -> Features | None:
        places = clip.every(self.step)
        if len(places) < 2:
            return None
        light = cielab(squares(clip, places))[..., 0] / FULL
        times = clip.times[places]
        return Features(motion(light), (times[1:] + times[:-1]) / 2)


def motion(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lightness (n, s, s) from 0 to 1 to (n - 1, 16 + 16 * 8): square roots of changes, then of directions."""
    change = np.diff(light, axis=0)
    down, right = np.gradient((light[1:] + light[:-1]) / 2, axis=(1, 2))
    # An edge that moves towards where it is darker leaves light behind: against its gradient times the change.
    way = np.arctan2(-down * change, -right * change) / (2 * np.pi) * WAYS
    strength = np.abs(change) * np.hypot(down, right)
    sector = np.rint(way).astype(np.int64) % WAYS
    votes = np.zeros((*change.shape, WAYS), np.float32)
    np.put_along_axis(votes, sector[..., None], strength[..., None], -1)
    number, cell = len(change), light.shape[1] // GRID

    def pooled(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(values.reshape(number, GRID, cell, GRID, cell, -1).mean((2, 4)).reshape(number, -1))

    parts = [pooled(np.abs(change)[..., None]), pooled(votes)]
    return np.asarray(np.sqrt(np.concatenate(parts, 1)), np.float32)


plugin = FrameMotion
