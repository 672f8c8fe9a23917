"""Which colours there are in a picture, and in each quarter of it: histograms in CIELAB. Nothing is learned."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from wander.extractors._clip import Clip
from wander.extractors._small import SIDE, squares
from wander.extractors._statistics import TONES, colours
from wander.extractors.base import Extractor, Features

QUARTERS = (1, 2)


class FrameColours(Extractor):
    """Square roots of the shares of 180 colours in the whole picture and in its quarters."""

    summary: ClassVar[str] = "Histograms of colours, of a picture and of its quarters"
    side = SIDE

    @property
    def dimension(self) -> int:
        return int(np.prod(TONES)) * sum(cells * cells for cells in QUARTERS)

    def __call__(self, clip: Clip) -> Features | None:
        places = clip.every(self.step)
        if not len(places):
            return None
        return Features(colours(squares(clip, places), QUARTERS), clip.times[places])


plugin = FrameColours
