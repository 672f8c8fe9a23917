"""What a vision model of the transformers package sees in a picture, from a folder on this machine: CLIP, ViT, DINOv2.

It needs torch, so that no server runs it: `wander extract` makes the features, and the server takes these.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from wander.errors import BundleError, MissingDependency
from wander.extractors._clip import Clip
from wander.extractors.base import Extractor, ExtractorConfig, Features

CHUNK = 16
"""Pictures at once."""
SIDE = 256


class HuggingFaceConfig(ExtractorConfig):
    """Attributes: folder: of the model, as `save_pretrained` writes it, beside the configuration or absolute."""

    folder: str


class HuggingFaceFrames(Extractor):
    """The image features of a model that has such (CLIP, SigLIP), else its pooled output, else its first token."""

    summary: ClassVar[str] = "Features of pictures from a model folder of transformers; not in a server"
    served: ClassVar[bool] = False
    Config = HuggingFaceConfig
    side = SIDE

    def __init__(self, config: HuggingFaceConfig, folder: Path) -> None:
        super().__init__(config, folder)
        where = folder / config.folder
        if not (where / "config.json").is_file():
            raise BundleError(f"{where} is no model folder: it has no config.json")
        if importlib.util.find_spec("transformers") is None:
            raise MissingDependency("transformers is not installed; run: pip install 'wander[export]'")
        from transformers import AutoImageProcessor, AutoModel

        # What is here is all that is asked: no code and no file is fetched.
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.processor = AutoImageProcessor.from_pretrained(where, backend="pil", **options)  # type: ignore[no-untyped-call]
            self.model: Any = AutoModel.from_pretrained(where, use_safetensors=True, **options).eval()
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(f"{where} is no model folder that transformers reads: {error}") from error
        self.model.requires_grad_(False)
        sizes = self.model.config
        vision = getattr(sizes, "vision_config", sizes)
        self._dimension = int(getattr(sizes, "projection_dim", 0) or vision.hidden_size)

    @property
    def dimension(self) -> int:
        return self._dimension

    def __call__(self, clip: Clip) -> Features | None:
        places = clip.every(self.step)
        if not len(places):
            return None
        found = [self._chunk(list(clip.pictures[places[at : at + CHUNK]])) for at in range(0, len(places), CHUNK)]
        return Features(np.concatenate(found), clip.times[places])

    def _chunk(self, pictures: list[Any]) -> Any:
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        made = (
            self.model.get_image_features(pixels) if hasattr(self.model, "get_image_features") else self.model(pixels)
        )
        if hasattr(made, "last_hidden_state"):
            pooled = getattr(made, "pooler_output", None)
            made = pooled if pooled is not None else made.last_hidden_state[:, 0]
        return made.numpy().astype(np.float32)


plugin = HuggingFaceFrames
