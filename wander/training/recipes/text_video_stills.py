"""Text-video retrieval that takes video files, trained on still pictures with captions: a demonstration.

The protocol is that of `text_video`: an MMT host is trained, then frozen under Wander. Its experts are statistics that
need no weights (`wander.extractors`), and that a single picture has. No video is seen in training, so that nothing that
moves or sounds is learned; what comes of it on real clips is for the model's card to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from wander.training.recipes._still_corpus import Stills
from wander.training.recipes.text_video import AdapterSchedule, HostSchedule, TextVideo, TextVideoSettings

EXTRACTORS: dict[str, dict[str, Any]] = {
    "colours": {"kind": "frame_colours", "step": 0.5},
    "gradients": {"kind": "frame_gradients", "step": 0.5},
}


class StillSettings(TextVideoSettings):
    """As those of `text_video`; `aligned` counts pairs of a caption and a view of its picture."""

    tokens: int = Field(default=8, ge=1)
    aligned: int = Field(default=30_000, ge=1)
    ridge: float = Field(default=30.0, gt=0)
    host_share: float = Field(default=1.0, gt=0, le=1)
    temperature: float = Field(default=0.1, gt=0)
    host: HostSchedule = HostSchedule(epochs=6, learning_rate=1e-4)
    adapter: AdapterSchedule = AdapterSchedule(learning_rate=3e-4)


class TextVideoStills(TextVideo):
    """What `TextVideo` does, on pictures."""

    summary: ClassVar[str] = "Wander over a frozen MMT that takes video files, on captioned pictures (a demonstration)"
    Settings: ClassVar[type[TextVideoSettings]] = StillSettings
    name: ClassVar[str] = "text_video_stills"
    backbone: ClassVar[str] = "mmt-stills"
    pairs: ClassVar[str] = "captions"
    caveat: ClassVar[dict[str, str]] = {
        "demonstration": "trained on still pictures, with hand-made statistics for experts; no video was seen"
    }
    preprocessing: ClassVar[dict[str, Any]] = {"extractors": EXTRACTORS}

    def corpus(self, folder: Path, settings: TextVideoSettings, seed: int) -> Stills:
        return Stills(folder, EXTRACTORS, settings.tokens, settings.most_words, seed)


plugin = TextVideoStills
