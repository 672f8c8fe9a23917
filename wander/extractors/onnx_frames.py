"""What a model of one's own sees in a picture: an ONNX graph in the bundle, such as a tower of CLIP or a ResNet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from wander.engines import DEFAULT_ENGINE, EngineOptions, engines
from wander.errors import BundleError
from wander.extractors._clip import Clip
from wander.extractors._small import resized
from wander.extractors.base import Extractor, ExtractorConfig, Features
from wander.signature import Signature, TensorSpec

Side = Annotated[int, Field(ge=1, le=1024)]
Channels = tuple[float, float, float]
CHUNK = 8
"""Pictures at once."""


class OnnxConfig(ExtractorConfig):
    """Attributes:

    file: name of the graph, beside the manifest.
    input, output: names of its tensors: float32 (batch, 3, height, width) and (batch, dimension).
    size: (height, width) to which pictures are resized, whatever their proportions.
    mean, std: per channel, of values in 0..1.
    """

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.onnx$")
    input: str
    output: str
    dimension: int = Field(ge=1, le=65_536)
    size: tuple[Side, Side] = (224, 224)
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)


class OnnxFrames(Extractor):
    """Runs on the default engine, on one thread: the server's other threads are for its own graphs."""

    summary: ClassVar[str] = "Features of pictures from an ONNX file in the bundle"
    Config = OnnxConfig

    def __init__(self, config: OnnxConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.settings = config
        self.side = max(config.size)
        if not (folder / config.file).is_file():
            raise BundleError(f"the extractor's graph {config.file} is not in the bundle")
        signature = Signature(
            inputs=(TensorSpec(name=config.input, dtype="float32", dims=("batch", 3, *config.size)),),
            outputs=(TensorSpec(name=config.output, dtype="float32", dims=("batch", config.dimension)),),
        )
        self.session = engines.get(DEFAULT_ENGINE).open(folder / config.file, signature, EngineOptions(threads=1))

    @property
    def dimension(self) -> int:
        return self.settings.dimension

    def __call__(self, clip: Clip) -> Features | None:
        places = clip.every(self.step)
        if not len(places):
            return None
        mean, std = (np.asarray(v, np.float32) for v in (self.settings.mean, self.settings.std))
        found = []
        for at in range(0, len(places), CHUNK):
            pictures = resized(clip, places[at : at + CHUNK], self.settings.size).astype(np.float32) / 255
            pixels = np.ascontiguousarray(((pictures - mean) / std).transpose(0, 3, 1, 2))
            found.append(self.session.run({self.settings.input: pixels})[self.settings.output])
        return Features(np.concatenate(found), clip.times[places])


plugin = OnnxFrames
