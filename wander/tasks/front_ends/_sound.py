"""Sound files from strangers to mono samples, with PyAV and numpy.

Only the kinds listed here are opened, each by its own demuxer: the library would guess others from the first bytes,
and some of them (playlists) name files and addresses to be read.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wander.errors import InputError, MissingDependency, TooLarge, UnsupportedMedia

if TYPE_CHECKING:
    from av.container import InputContainer

SEND = "send a WAV, FLAC, MP3, Ogg, WebM, M4A or AIFF file"
RATES = (4_000, 384_000)
"""Samples a second that are read."""
PROBING = {"probesize": str(1 << 20), "analyzeduration": "500000"}
"""How many bytes and microseconds of a file the library looks at, and perhaps decodes, before it opens it."""

_KINDS = {
    "wav": rb"RIFF....WAVE|RF64....WAVE",
    "flac": rb"fLaC",
    "ogg": rb"OggS",
    "matroska": rb"\x1aE\xdf\xa3",
    "mov": rb"....ftyp",
    "aiff": rb"FORM....AIF[FC]",
    "mp3": rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]",
}
"""Name of a demuxer -> first bytes of its files."""
_FULL_SCALE = {"u1": 128.0, "i2": 2.0**15, "i4": 2.0**31, "i8": 2.0**63, "f4": 1.0, "f8": 1.0}


class SoundLimits(BaseModel):
    """What is accepted.

    Attributes:
        max_bytes: size of the file.
        max_seconds: of sound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=20 << 20, ge=1)
    max_seconds: float = Field(default=60, gt=0)


def load_sound(data: object, rate: int, limits: SoundLimits, field: str = "audio") -> NDArray[np.float32]:
    """The first sound track of a file as samples (n), full scale ±1, channels averaged, `rate` a second.

    Raises, always naming `field`: TooLarge for a file beyond the limits, UnsupportedMedia for none of the kinds that
    are read, InputError for what is no whole sound file.
    """
    if not isinstance(data, bytes | bytearray | memoryview) or not len(data):
        raise InputError(f"{field} holds no bytes of a sound file; {SEND}", field)
    if len(data) > limits.max_bytes:
        raise TooLarge(f"{field} has {len(data)} bytes, more than {limits.max_bytes}; shorten it", field)
    data = bytes(data)
    kind = next((kind for kind, magic in _KINDS.items() if re.match(magic, data, re.DOTALL)), None)
    if kind is None:
        raise UnsupportedMedia(f"{field} is no sound file that is read here; {SEND}", field)
    try:
        import av
    except ImportError as error:
        raise MissingDependency("sound files need PyAV; install it with: pip install 'wander[serve]'") from error
    try:
        with av.open(io.BytesIO(data), "r", format=kind, options=PROBING, metadata_errors="ignore") as container:
            parts = list(_samples(container, rate, limits, field))
    except InputError:
        raise
    except Exception as error:
        # A decoder may raise anything at all on a damaged file.
        raise InputError(f"{field} is truncated, damaged or no ordinary {kind} file; save it anew", field) from error
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if not samples.size:
        raise InputError(f"{field} holds no sound; record it anew", field)
    if not np.isfinite(samples).all():
        raise InputError(f"{field} holds samples that are not finite; save it anew", field)
    return samples


def _samples(container: InputContainer, rate: int, limits: SoundLimits, field: str) -> Iterator[NDArray[np.float32]]:
    import av

    if not container.streams.audio:
        raise InputError(f"{field} has no sound track; {SEND}", field)
    stream = container.streams.audio[0]
    stream.codec_context.thread_type = "NONE"
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    seconds, source = 0.0, 0
    for frame in container.decode(stream):
        if not RATES[0] <= frame.sample_rate <= RATES[1]:
            raise InputError(f"{field} has {frame.sample_rate} samples a second, not {RATES[0]} to {RATES[1]}", field)
        if source not in (0, frame.sample_rate):
            raise InputError(f"{field} changes its sample rate; save it anew", field)
        source = frame.sample_rate
        seconds += frame.samples / source
        if seconds > limits.max_seconds:
            raise TooLarge(f"{field} is longer than {limits.max_seconds:g} seconds; cut it", field)
        mono = _mono(frame)
        if source == rate:
            yield mono
            continue
        single = av.AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
        single.sample_rate = source
        yield from (resampled.to_ndarray()[0] for resampled in resampler.resample(single))
    if source not in (0, rate):
        yield from (resampled.to_ndarray()[0] for resampled in resampler.resample(None))


def _mono(frame: Any) -> NDArray[np.float32]:
    """The mean over the channels; any number of them, which the library's own mixing does not know how to weigh."""
    values = frame.to_ndarray()
    values = values.reshape(-1, frame.layout.nb_channels) if frame.format.is_packed else values.T
    scale = _FULL_SCALE[values.dtype.str[1:]]
    mono = values.astype(np.float64).mean(1) / scale
    if values.dtype.kind == "u":
        mono -= 1
    return np.asarray(mono, np.float32)
