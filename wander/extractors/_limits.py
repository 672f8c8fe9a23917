"""What is accepted of a video file, and how much work it may make."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class VideoLimits(BaseModel):
    """Part of `preprocessing` of a manifest.

    Attributes:
        max_bytes: size of the file. (A server has a limit for bodies of its own.)
        max_seconds: length, checked before anything is decoded and again while it is.
        max_pixels: width x height. A decoder keeps up to 17 pictures.
        max_aspect: how many times the other one a side may be.
        max_decoded_pixels: of all pictures together, which bounds the time: a core decodes 100 to 400 million a second.
        max_pictures: that are kept. Of a longer video they are taken less often.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=100 << 20, ge=1)
    max_seconds: float = Field(default=300, gt=0)
    max_pixels: int = Field(default=9_000_000, ge=1)
    max_aspect: float = Field(default=5, ge=1)
    max_decoded_pixels: int = Field(default=4_000_000_000, ge=1)
    max_pictures: int = Field(default=120, ge=2)
