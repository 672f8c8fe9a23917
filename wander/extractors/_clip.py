"""Video files from strangers to a few small pictures and mono sound, with PyAV.

What a file is, is told by its first bytes, and only that one reader of FFmpeg is tried: others open further files and
addresses that a file names (playlists do). Of the codecs only those are run that people's videos have. Everything is
decoded picture by picture, and nothing larger than a limit is kept or begun.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wander.errors import InputError, TooLarge, UnsupportedMedia
from wander.extractors._limits import VideoLimits

if TYPE_CHECKING:
    import av

SEND = "send an MP4, MOV, WebM, MKV or AVI video"
RATE = 16_000
"""Samples of sound a second."""
PACKET = 20_000
"""What a packet counts for in decoded pixels, whatever comes out of it."""
SHORT = 0.1
"""Share of its length that a file may lack at its end, or one second."""


@dataclass(frozen=True)
class Wanted:
    """What is kept of a file.

    Attributes:
        step: seconds between pictures; None for none.
        side: shorter side of the pictures; smaller ones are left as they are.
        sound: whether sound is wanted.
    """

    step: float | None
    side: int
    sound: bool


@dataclass(frozen=True)
class Clip:
    """A video as it is left after decoding.

    Attributes:
        pictures: (n, h, w, 3) uint8 RGB, upright; n is 0 for a file without pictures, or if none are wanted.
        times: (n), seconds from the first picture.
        sound: (samples) float32 mono at `RATE`, from -1 to 1; empty without sound.
    """

    pictures: NDArray[np.uint8]
    times: NDArray[np.float64]
    sound: NDArray[np.float32]

    def every(self, step: float) -> NDArray[np.int64]:
        """Numbers of pictures that are at least so many seconds apart; the first one always."""
        kept: list[int] = []
        for place, time in enumerate(self.times.tolist()):
            if not kept or time >= self.times[kept[-1]] + step - 1e-6:
                kept.append(place)
        return np.array(kept, np.int64)


def read_clip(data: object, wanted: Wanted, limits: VideoLimits | None = None, field: str = "video") -> Clip:
    """Decodes a file.

    Raises, always naming `field`: TooLarge for one beyond the limits, UnsupportedMedia for a kind of file or codec that
    is known but not read, InputError for everything else that is not a whole video.
    """
    import av

    limits = limits or VideoLimits()
    if not isinstance(data, bytes | bytearray | memoryview) or not len(data):
        raise InputError(f"{field} holds no bytes of a video file; {SEND}", field)
    if len(data) > limits.max_bytes:
        raise TooLarge(f"{field} has {len(data)} bytes, more than {limits.max_bytes}; cut or compress it", field)
    kind = _kind(bytes(data[:1024]), field)
    options = {"max_pixels": str(limits.max_pixels), "protocol_whitelist": "file"}
    try:
        with av.open(io.BytesIO(data), "r", format=kind, options=options, metadata_errors="ignore") as container:
            return _Decoding(container, wanted, limits, field).clip()
    except InputError:
        raise
    except Exception as error:
        # A decoder may raise anything at all on a damaged file.
        raise InputError(f"{field} is truncated, damaged or no ordinary video; save it anew", field) from error


class _Decoding:
    """One pass over an open file."""

    def __init__(self, container: av.container.InputContainer, wanted: Wanted, limits: VideoLimits, field: str) -> None:
        self.container, self.wanted, self.limits, self.field = container, wanted, limits, field
        self.work = 0
        self.pictures: list[NDArray[np.uint8]] = []
        self.times: list[float] = []
        self.first: float | None = None
        self.reached = 0.0
        self.start: float | None = None
        self.end = 0.0
        self.sound: list[NDArray[np.float32]] = []
        self.heard = 0

    def clip(self) -> Clip:
        video = self._video() if self.wanted.step is not None else None
        audio = next(iter(self.container.streams.audio), None) if self.wanted.sound else None
        if video is None and audio is None:
            raise InputError(
                f"{self.field} has no moving pictures{' or sound' * self.wanted.sound}; {SEND}", self.field
            )
        length = self._prepare(video, audio)
        keep = self._sampling(length)
        resampler: Any = None
        # Sound is gone through even if nobody wants it: it may be what goes on to the end of the file.
        streams = [stream for stream in self.container.streams if stream is video or stream.type == "audio"]
        for packet in self.container.demux(streams):
            self._spend(PACKET)
            self._reach(packet)
            if packet.stream is video:
                for frame in packet.decode():
                    self._see(frame, keep)
            elif packet.stream is audio:
                for frame in packet.decode():
                    resampler = resampler or _resampler()
                    self._hear(resampler.resample(frame))
        if resampler is not None:
            self._hear(resampler.resample(None))
        if video is not None and not self.pictures:
            raise InputError(f"{self.field} has no picture that can be decoded; save it anew", self.field)
        reached = self.reached - (self.first or 0.0)
        if length - reached > max(1.0, SHORT * length):
            raise InputError(
                f"{self.field} ends after {reached:.1f} of its {length:.1f} seconds: it is truncated; send it whole",
                self.field,
            )
        none = np.zeros((0, 1, 1, 3), np.uint8)
        return Clip(
            np.stack(self.pictures) if self.pictures else none,
            np.array(self.times, np.float64),
            np.concatenate(self.sound) if self.sound else np.zeros(0, np.float32),
        )

    def _video(self) -> Any:
        """The stream of moving pictures; a cover is none."""
        import av

        cover = av.stream.Disposition.attached_pic
        return next((s for s in self.container.streams.video if not s.disposition & cover), None)

    def _prepare(self, video: Any, audio: Any) -> float:
        """Checks what the file says of itself, before anything is decoded. Gives its seconds, 0 if it does not say."""
        for stream, codecs in ((video, _PICTURES), (audio, _SOUNDS)):
            if stream is None:
                continue
            name = stream.codec_context.codec.name if stream.codec_context is not None else "none"
            if not re.fullmatch(codecs, name):
                raise UnsupportedMedia(
                    f"{self.field} has the rare codec {name}; {SEND} with H.264, VP9 or AV1", self.field
                )
            stream.codec_context.thread_count = 1
        if video is not None:
            self._measure(video.codec_context.width, video.codec_context.height)
            video.codec_context.options = {"max_pixels": str(self.limits.max_pixels)}
        known = [float(s.duration * s.time_base) for s in self.container.streams if s.duration and s.time_base]
        if self.container.duration:
            known = [self.container.duration / 1e6]
        length = max(known, default=0.0)
        self._check_length(length)
        return length

    def _sampling(self, length: float) -> float:
        """Seconds between the pictures that are kept."""
        return max(self.wanted.step or 0.0, length / self.limits.max_pictures)

    def _reach(self, packet: Any) -> None:
        if packet.pts is not None and packet.time_base is not None:
            begins, lasts = (float(value * packet.time_base) for value in (packet.pts, packet.duration or 0))
            self.first = begins if self.first is None else min(self.first, begins)
            self.reached = max(self.reached, begins + lasts)

    def _see(self, frame: Any, step: float) -> None:
        self._spend(frame.width * frame.height)
        self._measure(frame.width, frame.height)
        stamp = frame.time if frame.time is not None else self.end
        self.start = stamp if self.start is None else self.start
        time = stamp - self.start
        self.end = max(self.end, time + float((frame.duration or 0) * (frame.time_base or 0)))
        self._check_length(self.end)
        if self.times and (time < self.times[-1] + step - 1e-6 or len(self.times) >= self.limits.max_pictures):
            return
        picture = self._picture(frame)
        if self.pictures and picture.shape != self.pictures[0].shape:
            raise InputError(f"{self.field} changes its size on the way; save it anew in one size", self.field)
        self.times.append(time)
        self.pictures.append(picture)

    def _picture(self, frame: Any) -> NDArray[np.uint8]:
        shorter = min(frame.width, frame.height)
        scale = min(1.0, self.wanted.side / shorter)
        width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
        turned = int(getattr(frame, "rotation", 0)) // 90 % 4
        array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        return np.ascontiguousarray(np.rot90(array, turned))

    def _hear(self, frames: list[Any]) -> None:
        for frame in frames:
            samples = frame.to_ndarray().reshape(-1).astype(np.float32)
            self.heard += len(samples)
            self._check_length(self.heard / RATE)
            self.sound.append(samples)

    def _spend(self, pixels: int) -> None:
        self.work += pixels
        if self.work > self.limits.max_decoded_pixels:
            raise TooLarge(
                f"{self.field} has more than {self.limits.max_decoded_pixels / 1e6:.0f} million pixels in all its "
                "pictures; shorten it, or make it smaller",
                self.field,
            )

    def _measure(self, width: int, height: int) -> None:
        if width * height > self.limits.max_pixels:
            raise TooLarge(f"{self.field} is {width} x {height} pixels, more than {self.limits.max_pixels}", self.field)
        if min(width, height) < 1 or max(width, height) > self.limits.max_aspect * min(width, height):
            raise InputError(f"{self.field} is {width} x {height} pixels, which is no picture; crop it", self.field)

    def _check_length(self, seconds: float) -> None:
        if seconds > self.limits.max_seconds:
            raise TooLarge(
                f"{self.field} is {seconds:.0f} seconds long, more than {self.limits.max_seconds:g}; cut it", self.field
            )


def _resampler() -> Any:
    import av

    return av.AudioResampler(format="flt", layout="mono", rate=RATE)


def _kind(start: bytes, field: str) -> str:
    """The reader for a file, by its first bytes alone. Raises UnsupportedMedia, and InputError for what is no video."""
    for name, magic in _REFUSED.items():
        if re.match(magic, start, re.DOTALL):
            raise UnsupportedMedia(f"{field} is {name}; {SEND}", field)
    for kind, magic in _ACCEPTED.items():
        if re.match(magic, start, re.DOTALL):
            return kind
    raise InputError(f"{field} is not a video; {SEND}", field)


_ACCEPTED = {
    "mov": rb"....(ftyp|moov|mdat|wide|free|skip)",
    "matroska": rb"\x1aE\xdf\xa3",
    "avi": rb"RIFF....AVI ",
}
"""FFmpeg's name of a reader -> first bytes of its files."""
_REFUSED = {
    "a HEIC or AVIF picture": rb"....ftyp(heic|heix|mif1|msf1|avif|avis)",
    "a picture": rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*",
    "a sound": rb"RIFF....WAVE|OggS|ID3|fLaC|\xff[\xfb\xf3\xf2\xf1\xf9]|....ftypM4A",
    "a playlist, HTML or XML": rb"#EXTM3U|\[playlist\]|ffconcat|v=0\r?\n|(\xef\xbb\xbf)?\s*<[!?a-zA-Z]",
    "an FLV, WMV or MPEG program stream": rb"FLV\x01|\x30\x26\xb2\x75|\0\0\x01[\xb3\xba]",
    "an MPEG transport stream": rb"G.{187}G",
    "a document or an archive": rb"%PDF|%!PS|PK[\x03\x05\x07]|\x1f\x8b|7z\xbc\xaf|Rar!",
}
_PICTURES = (
    r"h264|hevc|av1|libdav1d|libaom-av1|vp8|vp9|libvpx|libvpx-vp9|"
    r"mpeg4|msmpeg4.*|mpeg[12]video|mjpeg|h263|wmv[12]"
)
_SOUNDS = r"aac|mp3|mp3float|mp2|mp2float|ac3|opus|libopus|vorbis|libvorbis|flac|alac|pcm_.*"
"""Patterns of FFmpeg's names of decoders."""
