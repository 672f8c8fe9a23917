"""What every adapter kind offers. Knows neither backbones nor files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict
from torch import nn


class AdapterConfig(BaseModel):
    """Sizes and options of one adapter. `kind` is the name of its file in this folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str


class Adapter(nn.Module, ABC):
    """A trained adapter. Its parameter names are those of the authors' checkpoints, without their prefix."""

    Config: ClassVar[type[AdapterConfig]]
    config: Any  # an instance of `Config`; each kind narrows it

    @classmethod
    @abstractmethod
    def build(cls, config: AdapterConfig) -> Self:
        """An adapter of these sizes, freshly initialised. Raises ConfigError for sizes that cannot be."""

    @classmethod
    @abstractmethod
    def example_config(cls) -> AdapterConfig:
        """A small valid configuration, for the conformance suite and the documentation."""

    @classmethod
    @abstractmethod
    def parameter_count(cls, config: AdapterConfig) -> int:
        """Number of trained values, from the sizes alone."""

    @classmethod
    @abstractmethod
    def flops(cls, config: AdapterConfig) -> int:
        """Matrix-product FLOPs of one sample (2·m·n·k a product, as torch's counter has it)."""

    @abstractmethod
    def zero_(self) -> None:
        """Sets the weights so that the adapter adds nothing to what it reads (in place)."""

    def warnings(self) -> list[str]:
        """What a person should know before this adapter is shipped; empty if nothing."""
        return []
