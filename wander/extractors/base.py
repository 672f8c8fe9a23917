"""What every extractor offers: a decoded clip to the features of one expert. Knows no file and no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from wander.extractors._clip import Clip

Floats = NDArray[np.float32]
FIRST = 2.0
"""Times of items begin here: MMT gives a feature the middle of the stretch that it was made from, in seconds, plus
this."""


@dataclass(frozen=True)
class Features:
    """Rows (n, D) float32, n at least 1, and the second (n) that each stands for."""

    rows: Floats
    times: NDArray[np.float64]

    def item(self) -> dict[str, NDArray[Any]]:
        """As an item of the task text_video holds them."""
        return {"features": self.rows, "times": self.times + FIRST}


class ExtractorConfig(BaseModel):
    """Settings of an extractor, in a manifest. Attributes: step: seconds from one row to the next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: float = Field(default=0.5, ge=0.04, le=60)


class Extractor(ABC):
    """One way to make an expert's features.

    Class attributes:
        summary: one line for people.
        reads: the part of a clip that it looks at.
        served: whether a server can run it. One that needs torch it cannot; `wander extract` can.
        side: shorter side of the pictures that it needs, in pixels; larger ones are scaled down to it.
    """

    summary: ClassVar[str]
    reads: ClassVar[Literal["pictures", "sound"]] = "pictures"
    served: ClassVar[bool] = True
    Config: ClassVar[type[ExtractorConfig]] = ExtractorConfig
    side: int = 0

    def __init__(self, config: ExtractorConfig, folder: Path) -> None:
        """Raises BundleError for a file of `folder` that does not fit, MissingDependency."""
        self.config = config

    @property
    def step(self) -> float:
        """Seconds from one row to the next."""
        return self.config.step

    @property
    @abstractmethod
    def dimension(self) -> int:
        """D, numbers a row."""

    @abstractmethod
    def __call__(self, clip: Clip) -> Features | None:
        """The features of a clip; None if it has nothing that this expert could see or hear."""
