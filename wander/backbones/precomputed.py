"""No backbone at all: hidden states computed elsewhere go straight into the adapter, and its tokens come out.

For an adapter checkpoint that stands alone, behind a backbone that runs somewhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from wander.adapters import Adapter, AdapterConfig, adapters
from wander.adapters._fusion import FusionAdapter, FusionConfig
from wander.adapters.wander import FoldedWander, Wander
from wander.backbones._fitting import refuse_readout
from wander.backbones.base import BackboneConfig, Fold, HeadConfig, Host, Tower, TowerModule
from wander.errors import ConfigError
from wander.signature import BATCH, Signature, TensorSpec


class PrecomputedConfig(BackboneConfig):
    """`modalities` are the names of the graph's inputs, in the order of the adapter's lengths."""

    kind: Literal["precomputed"] = "precomputed"
    modalities: tuple[str, ...] = Field(min_length=1)


class Precomputed(Host):
    """Parameters: `adapter.*` alone."""

    Config = PrecomputedConfig

    def __init__(self, config: PrecomputedConfig, adapter: FusionAdapter) -> None:
        super().__init__()
        self.config = config
        self.sizes: FusionConfig = adapter.config
        self.adapter: FusionAdapter | FoldedWander = adapter

    @classmethod
    def build(cls, config: BackboneConfig, adapter: AdapterConfig | None, head: HeadConfig) -> Self:
        assert isinstance(config, PrecomputedConfig)
        if not isinstance(adapter, FusionConfig):
            raise ConfigError("precomputed hidden states need an adapter that fuses sequences")
        if len(adapter.lengths) != len(config.modalities):
            raise ConfigError(f"{len(config.modalities)} modalities do not fit lengths {list(adapter.lengths)}")
        refuse_readout(adapter)
        built = adapters.get(adapter.kind).build(adapter)
        assert isinstance(built, FusionAdapter)
        return cls(config, built)

    @classmethod
    def example(cls) -> tuple[BackboneConfig, AdapterConfig | None, HeadConfig]:
        return PrecomputedConfig(modalities=("h_0", "h_1", "h_2")), Wander.example_config(), HeadConfig()

    @property
    def adapter_module(self) -> Adapter | None:
        return self.adapter if isinstance(self.adapter, Adapter) else None

    def is_adapted(self, name: str) -> bool:
        return name.startswith("adapter.")

    def forward(self, *hidden: Tensor) -> Tensor:
        """Hidden states h_m (B, ℓ_m, E), one a modality, to fused tokens (B, d_t, d_h)."""
        return self.adapter(hidden)

    def towers(self, output: str) -> Mapping[str, Tower]:
        inputs = tuple(
            TensorSpec(name=name, dtype="float32", dims=(BATCH, length, self.sizes.embed_dim))
            for name, length in zip(self.config.modalities, self.sizes.lengths, strict=True)
        )
        outputs = (TensorSpec(name=output, dtype="float32", dims=(BATCH, self.sizes.tokens, self.sizes.width)),)
        return {"model": Tower(TowerModule(self, self.forward), Signature(inputs=inputs, outputs=outputs))}

    def folds(self) -> list[Fold]:
        return [Fold("adapter", "ranks summed", self._fold_adapter)] if isinstance(self.adapter, Wander) else []

    def _fold_adapter(self) -> None:
        assert isinstance(self.adapter, Wander)
        self.adapter = self.adapter.fold()

    def random_inputs(self, tower: str, rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        assert tower == "model"
        shapes = zip(self.config.modalities, self.sizes.lengths, strict=True)
        return {
            name: rng.standard_normal((rows, length, self.sizes.embed_dim)).astype(np.float32)
            for name, length in shapes
        }


plugin = Precomputed
