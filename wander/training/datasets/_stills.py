"""Pictures as videos of one picture each: the file of a picture, as it is, in the frame of a video file."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

JPEG = b"\xff\xd8\xff"
QUALITY = 95


def still(picture: bytes, width: int, height: int) -> bytes:
    """A picture file of that size as a Matroska file. A JPEG is not encoded anew, another is, as a JPEG."""
    import av

    jpeg = picture if picture.startswith(JPEG) else _jpeg(picture)
    stream = io.BytesIO()
    with av.open(stream, "w", format="matroska") as out:
        sight: Any = out.add_stream("mjpeg", rate=1)
        sight.width, sight.height, sight.pix_fmt = width, height, "yuvj420p"
        packet: Any = av.Packet(jpeg)
        packet.stream, packet.pts, packet.dts, packet.time_base = sight, 0, 0, Fraction(1, 1)
        packet.is_keyframe = True
        out.start_encoding()
        out.mux(packet)
    return stream.getvalue()


def _jpeg(picture: bytes) -> bytes:
    from wander.tasks._images import load_image

    stream = io.BytesIO()
    load_image(picture).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
