"""Video files as strangers send them, made by code: whole ones of many kinds, damaged ones, bombs and other files."""

from __future__ import annotations

import functools
import io
import struct
import wave
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tests.extractors.making import video
from tests.hostile import Case
from wander.errors import InputError, TooLarge, UnsupportedMedia

TWO_HOURS = 7200


@functools.cache
def hostile_videos() -> list[Case]:
    """All cases. The largest file has a few MB, and all of them are made within some seconds."""
    return [*_whole(), *_damaged(), *_bombs(), *_without_pictures(), *_other_files()]


def _whole() -> Iterator[Case]:
    for kind in ("mp4", "mov", "matroska", "webm", "avi"):
        yield Case(f"{kind} as it is saved", video(kind=kind), "ok")
    yield Case("MP4 with sound", video(tone=440), "ok")
    yield Case("MP4 whose index comes first", _fast(), "ok")
    yield Case("MP4 in fragments", video(options={"movflags": "frag_keyframe+empty_moov"}), "ok")
    yield Case("MPEG-4 in MP4", video(codec="mpeg4"), "ok")
    yield Case("MP4 of one picture", video(1), "ok")
    yield Case("MP4 of 62 x 46", video(size=(46, 62)), "ok")
    yield Case("MP4 with garbage behind it", video() + bytes(range(256)) * 400, "ok")
    yield Case("4 minutes of one picture a second", video(240, fps=1), "ok", "as much is kept as of a short one")
    yield Case("3,000 pictures at 250 a second", video(3000, fps=250, size=(16, 16)), "ok")


def _damaged() -> Iterator[Case]:
    for share in (0.02, 0.3, 0.6, 0.95):
        data = video()
        yield Case(f"MP4 cut after {share:.0%}", data[: max(12, int(share * len(data)))], InputError)
    long = {"MP4 whose index comes first": _fast(60), "mkv": video(60, kind="matroska"), "avi": video(60, kind="avi")}
    for name, data in long.items():
        yield Case(f"{name}, cut in half", data[: len(data) // 2], InputError)
    whole = video()
    at = whole.index(b"mdat")
    yield Case("MP4 with zeros for pictures", _fill(whole, at + 4, whole.index(b"moov") - 8), InputError)
    yield Case("MP4 with zeros for an index", _fill(whole, whole.index(b"moov") + 8, len(whole)), InputError)
    yield Case("MP4 without a track", whole[:at] + b"mdat" + bytes(100), InputError)
    yield Case("MP4 of a header alone", whole[:32], InputError)
    moved = bytearray(whole)
    place = whole.index(b"stco") + 12
    moved[place : place + 4] = struct.pack(">I", 2**31)
    yield Case("MP4 whose pictures are elsewhere", bytes(moved), InputError, "2 GB behind its end")
    yield Case("Matroska of a header alone", video(kind="matroska")[:60], InputError)
    yield Case("AVI of a header alone", video(kind="avi")[:60], InputError)


def _bombs() -> Iterator[Case]:
    yield Case("two hours", _stretched(TWO_HOURS), TooLarge, "two pictures, two hours apart")
    lies = _stretched(TWO_HOURS, kind="matroska")
    place = lies.index(b"\x44\x89\x88") + 3
    lies = lies[:place] + struct.pack(">d", 2000.0) + lies[place + 8 :]
    yield Case("two hours that claim two seconds", lies, TooLarge)
    yield Case("two hours of one picture a minute", video(120, fps=Fraction(1, 60)), TooLarge)
    honest = _flat(4096, 4096)
    yield Case("4,096 x 4,096", honest, TooLarge)
    lying = bytearray(honest)
    place = honest.index(b"avc1", honest.index(b"stsd")) + 28
    lying[place : place + 4] = struct.pack(">HH", 64, 64)
    yield Case("4,096 x 4,096 that claims 64 x 64", bytes(lying), TooLarge)
    small = bytearray(video())
    place = small.index(b"avc1", small.index(b"stsd")) + 28
    small[place : place + 4] = b"\xff" * 4
    yield Case("64 x 48 that claims 65,535 x 65,535", bytes(small), "ok", "the pictures themselves say better")
    yield Case("1,600 x 16", video(3, size=(16, 1600)), InputError, "too narrow a strip")
    table = bytearray(video())
    place = table.index(b"stts") + 8
    table[place : place + 12] = struct.pack(">III", 1, 2**32 - 1, 1)
    yield Case("MP4 of 4 billion pictures by its table", bytes(table), InputError)
    boxes = b"".join(struct.pack(">I4s", 8 + 8 * (5000 - n), b"moov") for n in range(5000))
    yield Case("MP4 nested 5,000 deep", video()[:32] + boxes, InputError)
    many = struct.pack(">I4s", 8, b"free") * 500_000
    yield Case("MP4 of 500,000 empty boxes", video()[:32] + many, InputError)


def _without_pictures() -> Iterator[Case]:
    yield Case("MP4 of sound alone", video(0, tone=440), InputError)
    yield Case("MP4 without any picture", _empty(), InputError)
    yield Case("Matroska of sound alone", video(0, kind="matroska", tone=440), InputError)
    yield Case("FFV1 in Matroska", video(kind="matroska", codec="ffv1"), UnsupportedMedia, "a rare codec")
    yield Case("raw pictures in AVI", video(3, kind="avi", codec="rawvideo"), UnsupportedMedia)


def _other_files() -> Iterator[Case]:
    yield Case("nothing", b"", InputError)
    yield Case("one byte", b"\0", InputError)
    yield Case("text that is named .mp4", b"a dog runs along a beach", InputError)
    yield Case("random bytes", np.random.default_rng(0).bytes(100_000), InputError)
    yield Case("zeros", bytes(10_000), InputError)
    yield Case("JSON", b'{"experts": {}}', InputError)
    sound = io.BytesIO()
    with wave.open(sound, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(1000))
    others = {
        "HLS playlist of a file here": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        "HLS playlist of an address": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n",
        "list of files to join": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "SDP": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n",
        "DASH": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/</BaseURL></MPD>',
        "HTML": b"<!DOCTYPE html><html><video src=x></html>",
        "WAV": sound.getvalue(),
        "MP3": b"ID3\x04\0\0\0\0\0\0" + b"\xff\xfb\x90\x00" + bytes(400),
        "M4A": b"\0\0\0\x20ftypM4A " + bytes(30),
        "Ogg": b"OggS" + bytes(40),
        "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(30),
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(30),
        "GIF": b"GIF89a" + bytes(30),
        "HEIC": b"\0\0\0\x18ftypheic" + bytes(30),
        "FLV": video(kind="flv", codec="flv1"),
        "MPEG-TS": video(kind="mpegts", codec="mpeg2video", fps=25),
        "MPEG program stream": video(kind="mpeg", codec="mpeg2video", fps=25),
        "WMV": video(kind="asf", codec="wmv2"),
        "PDF": b"%PDF-1.7\n1 0 obj",
        "ZIP": b"PK\x03\x04" + bytes(30),
    }
    for name, data in others.items():
        yield Case(name, data, UnsupportedMedia)


def _fast(number: int = 20) -> bytes:
    return video(number, options={"movflags": "faststart"})


def _fill(data: bytes, start: int, end: int) -> bytes:
    return data[:start] + bytes(end - start) + data[end:]


def _flat(width: int, height: int) -> bytes:
    frames: Iterator[NDArray[np.uint8]] = iter([np.zeros((height, width, 3), np.uint8)])
    return video(1, size=(height, width), frames=frames)


def _stretched(seconds: int, kind: str = "mp4") -> bytes:
    """Two pictures, so many seconds apart."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as out:
        sight: Any = out.add_stream("mpeg4", rate=10)
        sight.width, sight.height, sight.pix_fmt = 64, 48, "yuv420p"
        for second in (0, seconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), format="rgb24")
            frame.pts, frame.time_base = second * 10, Fraction(1, 10)
            out.mux(sight.encode(frame))
        out.mux(sight.encode(None))
    return stream.getvalue()


def _empty() -> bytes:
    """A track for pictures, and none in it."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as out:
        sight: Any = out.add_stream("libx264", rate=10)
        sight.width, sight.height, sight.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    return stream.getvalue()
