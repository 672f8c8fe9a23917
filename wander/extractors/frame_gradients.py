"""Which way the edges of a picture run, in cells of several sizes: histograms of gradients. Nothing is learned."""

from __future__ import annotations

from typing import ClassVar

from wander.extractors._clip import Clip
from wander.extractors._small import SIDE, squares
from wander.extractors._statistics import ANGLES, CELLS, gradients
from wander.extractors.base import Extractor, Features


class FrameGradients(Extractor):
    """Nine orientations in 64, 16 and 4 cells and in the whole picture."""

    summary: ClassVar[str] = "Histograms of the orientations of edges, in cells of several sizes"
    side = SIDE

    @property
    def dimension(self) -> int:
        return ANGLES * sum((SIDE // size) ** 2 for size in (*CELLS, SIDE))

    def __call__(self, clip: Clip) -> Features | None:
        places = clip.every(self.step)
        if not len(places):
            return None
        return Features(gradients(squares(clip, places)), clip.times[places])


plugin = FrameGradients
