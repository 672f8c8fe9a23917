"""Text-video retrieval that takes video files, trained on still pictures with captions: a demonstration.

The protocol is that of `text_video`: an MMT host is trained, then frozen under Wander. Its experts are statistics that
need no weights (`wander.extractors`), and that a single picture has. No video is seen in training, so that nothing that
moves or sounds is learned; what comes of it on real clips is for the model's card to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from wander.training.recipes._stand_in_corpus import TOKENIZER
from wander.training.recipes._still_corpus import Stills
from wander.training.recipes.base import Notify, Recipe, RecipeSettings, Trained, provenance
from wander.training.recipes.text_video import (
    HEAD,
    AdapterSchedule,
    HostSchedule,
    TextVideoSettings,
    describe,
    example,
    train_adapted,
    train_host,
)

TASK = "text_video_stills"
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


class TextVideoStills(Recipe):
    """`train_host`, then `train_adapted`, on pictures."""

    summary: ClassVar[str] = "Wander over a frozen MMT that takes video files, on captioned pictures (a demonstration)"
    Settings: ClassVar[type[RecipeSettings]] = StillSettings

    def train(
        self,
        folder: Path,
        settings: RecipeSettings,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        assert isinstance(settings, StillSettings)
        stills = Stills(folder, EXTRACTORS, settings.tokens, settings.most_words, seed)
        host, host_report = train_host(stills, settings, seed, notify)
        adapted, report = train_adapted(stills, settings, host, seed, notify, head_only=head_only)
        about = describe(
            stills,
            provenance(
                TASK,
                settings,
                seed,
                trained="experts' weights" if head_only else "adapter and experts' weights",
                data=stills.source,
                selection=f"lowest contrastive loss over the {len(stills.valid)} captions of the validation split",
                demonstration="trained on still pictures, with hand-made statistics for experts; no video was seen",
                host=host_report,
                **report,
            ),
        )
        watching = {**about.preprocessing, "extractors": EXTRACTORS}
        about = about.model_copy(update={"preprocessing": watching})
        assets = {TOKENIZER: stills.tokenizer}
        return Trained(adapted, HEAD.model_dump(), about, f"mmt-stills-seed{seed}", example(adapted, seed), assets)


plugin = TextVideoStills
