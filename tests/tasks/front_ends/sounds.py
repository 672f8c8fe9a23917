"""Sound files to read and not to read."""

from __future__ import annotations

import io
import struct
import wave

import av
import numpy as np
from numpy.typing import NDArray

RATE = 16_000
SCALE = {"s16": 2**15 - 1, "flt": 1.0, "fltp": 1.0, "s16p": 2**15 - 1, "s32": 2**31 - 1}


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 220.0) -> NDArray[np.float64]:
    """A tone with overtones that swells and fades, full scale 0.5."""
    time = np.arange(int(seconds * rate)) / rate
    voice = sum(np.sin(2 * np.pi * n * hertz * time) / n for n in range(1, 8))
    return np.asarray(0.2 * voice * np.sin(np.pi * time / seconds))


def wav(samples: NDArray[np.float64], rate: int = RATE, width: int = 2, channels: int = 1) -> bytes:
    """PCM, the same on every channel."""
    file = io.BytesIO()
    scaled = np.repeat(np.clip(samples, -1, 1)[:, None], channels, 1)
    if width == 1:
        data = (128 + 127 * scaled).astype(np.uint8).tobytes()
    elif width == 3:
        data = (scaled * (2**23 - 1)).astype("<i4")[..., None].view(np.uint8)[..., :3].tobytes()
    else:
        data = (scaled * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes()
    with wave.open(file, "wb") as sound:
        sound.setparams((channels, width, rate, 0, "NONE", ""))
        sound.writeframes(data)
    return file.getvalue()


def float_wav(samples: NDArray[np.float32], rate: int = RATE) -> bytes:
    """IEEE floats, whatever they are."""
    data = samples.astype("<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt \x10\0\0\0"
        + head
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )


def encoded(kind: str, codec: str, samples: NDArray[np.float64], rate: int, form: str = "s16") -> bytes:
    """Another container and codec, as the library writes it."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = "mono"
        scaled = (samples * SCALE[form]).astype({"s": np.int16, "f": np.float32}[form[0]])
        for at in range(0, len(scaled), 1 << 20):
            frame = av.AudioFrame.from_ndarray(scaled[None, at : at + (1 << 20)], format=form, layout="mono")
            frame.sample_rate = rate
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return file.getvalue()
