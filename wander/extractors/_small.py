"""Pictures of a clip as the statistics take them: squares of one small size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wander.extractors._clip import Clip

SIDE = 64


def squares(clip: Clip, places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The pictures at `places`, whatever their proportions, as (n, SIDE, SIDE, 3)."""
    return resized(clip, places, (SIDE, SIDE))


def resized(clip: Clip, places: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The pictures at `places` as (n, height, width, 3)."""
    height, width = size
    shrunk = (Image.fromarray(clip.pictures[p]).resize((width, height), Image.Resampling.BILINEAR) for p in places)
    return np.stack([np.asarray(picture) for picture in shrunk])
