"""What the data plane answers, and how long each stage took. Knows no protocol, nor how answers come about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from serving.model import Model


@dataclass
class Timing:
    """Seconds that one item spent in each stage; with several graphs the longest of them."""

    queue: float = 0.0
    preprocess: float = 0.0
    inference: float = 0.0
    postprocess: float = 0.0

    def milliseconds(self) -> dict[str, float]:
        return {stage: round(seconds * 1000, 3) for stage, seconds in vars(self).items()}


@dataclass(frozen=True)
class Answer:
    """What a task says of one item, and how it came about."""

    content: dict[str, Any]
    model: Model
    timing: Timing = field(default_factory=Timing)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.content,
            "model": self.model.name,
            "version": self.model.version,
            "adapter": self.model.adapter,
            "timing": self.timing.milliseconds(),
        }


@dataclass(frozen=True)
class Inference:
    """What one graph of a model answers to a batch: arrays (rows, ..) by their names."""

    outputs: dict[str, NDArray[Any]]
    model: Model
    graph: str
    timing: Timing
