"""A recording to log-mel features: windows, a mel bank, decibels; then its sounding part, levelled, a few frames a row.

A frame is 25 ms under a Hann window every 20 ms; its 512-point power spectrum goes through 40 triangles between 50 and
7,600 Hz, evenly spaced on the HTK mel scale, into decibels (0 dB: a power of 1). The defaults are those of the RAVDESS
log-mel sequences. Frames are told from the loudest one on, so that the gain of a microphone does not count.
"""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wander.errors import BundleError, InputError, TooLarge
from wander.signature import TensorSpec
from wander.tasks.front_ends._sound import SoundLimits, load_sound
from wander.tasks.front_ends._summary import summary, summary_width
from wander.tasks.front_ends.base import FrontEnd, FrontEndOptions, Label, Rows, fitted

Frames = NDArray[np.float32]
View = Literal["bands", "changes", "contour", "summary"]

QUIETEST = 1e-10
"""Power below which there is nothing: -100 dB."""
CHUNK = 2000
"""Frames that are transformed at once."""
LOW, HIGH = 0.2, 0.7
"""Shares of the bands that count as low (harmonics of a voice), and from which they count as high (hiss)."""
CONTOUR = 6
EXAMPLE_RATE, EXAMPLE_SECONDS = 8_000, 0.4


class LogmelOptions(FrontEndOptions):
    """Attributes:
    rate: of the samples; every recording is brought to it.
    window, hop, fft: in samples.
    bands, low_hz, high_hz: of the mel bank.
    trim_db: frames at both ends that are so much quieter than the loudest one are cut off.
    floor_db: what is so much quieter than the loudest frame is nothing.
    silence_db: a recording whose loudest frame has less power is refused as silent.
    frames: that one row holds. A recording with more sounding frames than the rows of the input hold is read where it
        is loudest.
    views: input -> what its rows hold. `bands`: the levelled frames. `changes`: their slopes over five frames.
        `contour`: of every frame its mean level, its centre among the bands, the levels of low and high bands, the
        strongest low band and the level of the strongest band. `summary`: one row, statistics of all sounding frames.
        The field itself is one of the inputs, and no summary.
    limits: on the file.
    """

    kind: Literal["logmel"] = "logmel"
    rate: int = Field(default=16_000, ge=8_000, le=48_000)
    window: int = Field(default=400, ge=16)
    hop: int = Field(default=320, ge=16)
    fft: int = Field(default=512, ge=16, le=8192)
    bands: int = Field(default=40, ge=8, le=256)
    low_hz: float = Field(default=50, ge=0)
    high_hz: float = Field(default=7_600, gt=0)
    trim_db: float = Field(default=40, gt=0)
    floor_db: float = Field(default=60, gt=0)
    silence_db: float = -45
    frames: int = Field(default=4, ge=1)
    views: dict[str, View] = Field(min_length=1)
    limits: SoundLimits = SoundLimits()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.window > self.fft:
            raise ValueError(f"window {self.window} is more than fft {self.fft}")
        if not self.low_hz < self.high_hz <= self.rate / 2:
            raise ValueError("low_hz, high_hz and half of rate must ascend")
        return self

    def width(self, view: View) -> int:
        """D of an input that shows this view."""
        if view == "summary":
            return summary_width(self.bands, CONTOUR)
        return self.frames * (CONTOUR if view == "contour" else self.bands)

    @property
    def sequences(self) -> dict[str, View]:
        """The inputs whose rows follow each other."""
        return {name: view for name, view in self.views.items() if view != "summary"}

    @cached_property
    def bank(self) -> NDArray[np.float64]:
        """The triangles (fft / 2 + 1, bands)."""
        low_mel, high_mel = _mel(np.array([self.low_hz, self.high_hz]))
        edges = _hertz(np.linspace(low_mel, high_mel, self.bands + 2))
        bins = np.arange(self.fft // 2 + 1) * self.rate / self.fft
        low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        triangles = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
        return np.ascontiguousarray(triangles.clip(0).T)

    def log_mel(self, samples: NDArray[np.float32]) -> Frames:
        """Samples (n), at least a window of them, to decibels (frames, bands); what does not fill a window is left."""
        starts = np.arange(0, len(samples) - self.window + 1, self.hop)
        hann = np.hanning(self.window)
        parts = []
        for at in range(0, len(starts), CHUNK):
            windows = samples[starts[at : at + CHUNK, None] + np.arange(self.window)] * hann
            power = np.square(np.abs(np.fft.rfft(windows, self.fft))) @ self.bank
            parts.append(10 * np.log10(power.clip(QUIETEST)).astype(np.float32))
        return np.concatenate(parts)

    def sounding(self, decibels: Frames, field: str = "audio") -> tuple[Frames, int]:
        """The frames between the first and the last sounding one, levelled (-floor_db and up); and where they begin.

        Raises InputError for a recording that is silent.
        """
        loudness = 10 * np.log10(np.power(10.0, decibels / 10.0, dtype=np.float64).sum(1))
        peak = float(loudness.max())
        if peak < self.silence_db:
            raise InputError(f"{field} is silent; record it anew, closer to the microphone", field)
        loud = np.flatnonzero(loudness > peak - self.trim_db)
        levelled = decibels[loud[0] : loud[-1] + 1] - np.float32(peak)
        return levelled.clip(-self.floor_db).astype(np.float32), int(loud[0])

    def rows(self, levelled: Frames, length: int) -> tuple[dict[str, Frames], int]:
        """Levelled frames to rows (n, D) of every input, n at most `length`; and the frame with which they begin."""
        start = loudest(levelled, length * self.frames)
        part = levelled[start : start + length * self.frames]
        filled = np.full((-(-len(part) // self.frames) * self.frames, self.bands), -self.floor_db, np.float32)
        filled[: len(part)] = part
        views = {"bands": filled, "changes": slopes(filled), "contour": self.contour(filled)}
        rows = len(filled) // self.frames
        found = {name: np.ascontiguousarray(views[view].reshape(rows, -1)) for name, view in self.sequences.items()}
        for name in self.views.keys() - self.sequences.keys():
            found[name] = summary(levelled, slopes(levelled), self.contour(levelled))
        return found, start

    def contour(self, levelled: Frames) -> Frames:
        """Six numbers a frame; see `views`."""
        weight = np.power(10.0, levelled / 20.0, dtype=np.float32)
        place = np.arange(self.bands, dtype=np.float32) / (self.bands - 1)
        low, high = round(LOW * self.bands), round(HIGH * self.bands)
        centre = (weight * place).sum(1) / weight.sum(1)
        columns = (
            levelled.mean(1),
            centre,
            levelled[:, :low].mean(1),
            levelled[:, high:].mean(1),
            levelled[:, : self.bands - high].argmax(1) / self.bands,
            levelled.max(1),
        )
        return np.stack(columns, 1).astype(np.float32)

    def silence(self) -> dict[str, list[float]]:
        """Of every sequence the row of a recording that has ended, for `preprocessing.padding` of a manifest."""
        frames = np.full((self.frames, self.bands), -self.floor_db, np.float32)
        rows = self.rows(frames, 1)[0]
        return {name: rows[name][0].astype(np.float64).tolist() for name in self.sequences}


class Logmel(FrontEnd):
    """Reads a sound file, or `{"logmel": decibels (frames, bands)}` that was computed elsewhere."""

    Options = LogmelOptions
    uploads: ClassVar[bool] = True

    def __init__(self, options: LogmelOptions, field: str, inputs: Mapping[str, TensorSpec], folder: Path) -> None:
        self.options, self.field = options, field
        lengths = {name: fitted(inputs, name, options.width(view)) for name, view in options.views.items()}
        if field not in options.sequences:
            raise BundleError(f"preprocessing.front_ends.{field}.views: {field} itself must be a sequence")
        self.length = min(lengths[name] for name in options.sequences)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.options.views)

    def reads(self, value: object) -> bool:
        return isinstance(value, bytes | Mapping)

    def __call__(self, raw: Any) -> dict[str, Rows]:
        options = self.options
        levelled, first = options.sounding(self._decibels(raw), self.field)
        rows, start = options.rows(levelled, self.length)
        step = options.hop / options.rate
        begins = (first + start + options.frames * np.arange(len(rows[self.field]))) * step
        labels: list[Label] = [(round(t, 3), round(t + options.frames * step, 3)) for t in begins.tolist()]
        whole: list[Label] = [(round(first * step, 3), round((first + len(levelled)) * step, 3))]
        return {name: Rows(array, labels if name in options.sequences else whole) for name, array in rows.items()}

    def _decibels(self, raw: Any) -> Frames:
        options, field = self.options, self.field
        if isinstance(raw, Mapping):
            return self._computed(raw)
        samples = load_sound(raw, options.rate, options.limits, field)
        if len(samples) < options.window + options.frames * options.hop:
            raise InputError(f"{field} is {len(samples) / options.rate:.3f} seconds, too short to be heard", field)
        return options.log_mel(samples)

    def _computed(self, raw: Mapping[str, Any]) -> Frames:
        field, bands = self.field, self.options.bands
        most = int(self.options.limits.max_seconds * self.options.rate / self.options.hop)
        if set(raw) != {"logmel"}:
            raise InputError(f"{field} must be a sound file, or an object with the field logmel alone", field)
        try:
            array = np.asarray(raw["logmel"])
        except ValueError as error:
            raise InputError(f"{field}.logmel must be rows of equal length", field) from error
        if array.ndim != 2 or array.shape[1] != bands or not len(array) or array.dtype.kind not in "fiu":
            raise InputError(f"{field}.logmel must be rows of {bands} decibels", field)
        if len(array) > most:
            raise TooLarge(f"{field}.logmel has {len(array)} frames, more than {most}; cut it", field)
        if not (np.abs(array) < 1000).all():  # also what is not finite
            raise InputError(f"{field}.logmel holds a number that is no decibel", field)
        return array.astype(np.float32)

    def schema(self) -> dict[str, Any]:
        most = self.options.limits.max_seconds
        frame = {
            "type": "array",
            "items": {"type": "number"},
            **dict.fromkeys(("minItems", "maxItems"), self.options.bands),
        }
        file = {"type": "string", "contentEncoding": "base64", "description": f"a sound file, at most {most:g} seconds"}
        frames = {"type": "array", "items": frame, "minItems": 1}
        computed = {
            "type": "object",
            "properties": {"logmel": frames},
            "required": ["logmel"],
            "additionalProperties": False,
            "description": f"decibels, a frame every {1000 * self.options.hop / self.options.rate:g} ms",
        }
        return {"anyOf": [file, computed]}

    def example(self, features: Mapping[str, NDArray[Any]]) -> str:
        """A short tone that falls, as a WAV file: no sound can be made of features."""
        time = np.arange(int(EXAMPLE_RATE * EXAMPLE_SECONDS)) / EXAMPLE_RATE
        phase = 2 * np.pi * (220 * time - 120 * np.square(time))
        tone = sum(np.sin(n * phase) / n for n in range(1, 6)) * np.sin(np.pi * time / EXAMPLE_SECONDS)
        file = io.BytesIO()
        with wave.open(file, "wb") as sound:
            sound.setparams((1, 1, EXAMPLE_RATE, 0, "NONE", ""))
            sound.writeframes((128 + 50 * tone).astype(np.uint8).tobytes())
        return base64.b64encode(file.getvalue()).decode()


def loudest(levelled: Frames, most: int) -> int:
    """Where the loudest stretch of `most` frames begins; 0 if there are not more."""
    if len(levelled) <= most:
        return 0
    total = np.concatenate([[0.0], levelled.mean(1, dtype=np.float64).cumsum()])
    return int((total[most:] - total[:-most]).argmax())


def slopes(levelled: Frames) -> Frames:
    """The regression slope of every band over five frames, decibels a frame; the ends are continued."""
    wide = np.pad(levelled, ((2, 2), (0, 0)), mode="edge")
    return ((2 * (wide[4:] - wide[:-4]) + wide[3:-1] - wide[1:-3]) / 10).astype(np.float32)


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(2595 * np.log10(1 + hertz / 700))


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(700 * (np.power(10, mel / 2595) - 1))


plugin = Logmel
