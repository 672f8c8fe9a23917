"""Video files made by code, small and the same every time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 44_100
CODECS = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "avi": "mpeg4", "webm": "libvpx-vp9"}


def pictures(number: int, height: int = 48, width: int = 64) -> Iterator[NDArray[np.uint8]]:
    """A white square that moves to the right over a ground that shades from red to blue."""
    x = np.linspace(0, 255, width)
    ground = np.stack([np.broadcast_to(c, (height, width)) for c in (255 - x, x * 0 + 40, x)], -1).astype(np.uint8)
    for n in range(number):
        picture = ground.copy()
        left = n * (width - 8) // max(1, number - 1)
        picture[height // 3 : height // 3 + 8, left : left + 8] = 255
        yield picture


def video(
    number: int = 20,
    *,
    kind: str = "mp4",
    codec: str | None = None,
    fps: int | Fraction = 10,
    size: tuple[int, int] = (48, 64),
    tone: float | None = None,
    seconds: float | None = None,
    options: dict[str, str] | None = None,
    frames: Iterator[NDArray[np.uint8]] | None = None,
) -> bytes:
    """A file of `number` pictures, with a tone of so many hertz if asked for. With number 0 the tone is alone.

    The tone lasts as long as the pictures, at least one second, if `seconds` do not say how long.
    """
    with tempfile.TemporaryDirectory() as scratch:  # some options of FFmpeg want to read again what they wrote
        path = Path(scratch) / "video"
        _write(
            path, number, kind, codec, fps, size, tone, seconds or max(1.0, float(number / fps)), options or {}, frames
        )
        return path.read_bytes()


def _write(
    path: Path,
    number: int,
    kind: str,
    codec: str | None,
    fps: int | Fraction,
    size: tuple[int, int],
    tone: float | None,
    seconds: float,
    options: dict[str, str],
    frames: Iterator[NDArray[np.uint8]] | None,
) -> None:
    with av.open(str(path), "w", format=kind, options=options) as out:
        sight: Any = None
        if number:
            sight = out.add_stream(codec or CODECS[kind], rate=fps)
            sight.width, sight.height, sight.pix_fmt = size[1], size[0], "yuv420p"
            sight.options = {"threads": "1"}
        sound: Any = out.add_stream("aac", rate=RATE, layout="mono") if tone is not None else None
        for picture in (frames or pictures(number, *size)) if number else ():
            out.mux(sight.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if sight is not None:
            out.mux(sight.encode(None))
        if sound is not None:
            wave = np.sin(2 * np.pi * (tone or 0) * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)
            for at in range(0, len(wave) - 1023, 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, at : at + 1024] / 2, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
                out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
