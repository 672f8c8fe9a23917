"""How loud each pitch is and how much that changes: statistics of a log-mel spectrogram. No VGGish: nothing is learned.

25 ms windows every 10 ms, 64 bands from 125 to 7,500 Hz; a row is their means and deviations over `step` seconds.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field

from wander.extractors._clip import RATE, Clip
from wander.extractors.base import Extractor, ExtractorConfig, Features

BANDS, LOW, HIGH = 64, 125.0, 7500.0
WINDOW, HOP, POINTS = 400, 160, 512
FLOOR = 1e-5
"""Added to the energy of a band, so that silence is not minus infinity."""
CHUNK = 4096
"""Windows at once."""


class LogmelConfig(ExtractorConfig):
    """A row stands for `step` seconds."""

    step: float = Field(default=0.96, ge=0.04, le=60)


class SoundLogmel(Extractor):
    """A clip that is shorter than one window, or has no sound, lacks this expert."""

    summary: ClassVar[str] = "Means and deviations of 64 log-mel bands of the sound"
    reads = "sound"
    Config = LogmelConfig

    @property
    def dimension(self) -> int:
        return 2 * BANDS

    def __call__(self, clip: Clip) -> Features | None:
        if len(clip.sound) < WINDOW:
            return None
        bands = logmel(clip.sound)
        each = max(1, round(self.step * RATE / HOP))
        parts = [bands[at : at + each] for at in range(0, len(bands), each)]
        if len(parts) > 1 and len(parts[-1]) < each / 2:
            parts.pop()
        rows = np.stack([np.concatenate([part.mean(0), part.std(0)]) for part in parts])
        return Features(rows.astype(np.float32), (np.arange(len(rows)) + 0.5) * each * HOP / RATE)


def logmel(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples at `RATE` to (windows, BANDS)."""
    windows = sliding_window_view(sound, WINDOW)[::HOP]
    hann = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    found = []
    for at in range(0, len(windows), CHUNK):
        spectrum = np.abs(np.fft.rfft(windows[at : at + CHUNK] * hann, POINTS)) ** 2
        found.append(np.log(spectrum @ mel_bands() + FLOOR))
    return np.concatenate(found).astype(np.float32)


def mel_bands() -> NDArray[np.float64]:
    """Triangles (bins, BANDS), evenly spaced in mel."""
    edges = np.linspace(_mel(LOW), _mel(HIGH), BANDS + 2)
    places = _mel(np.arange(POINTS // 2 + 1) * RATE / POINTS)[:, None]
    rising, falling = (places - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - places) / np.diff(edges)[1:]
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def _mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(np.asarray(hertz) / 700))


plugin = SoundLogmel
