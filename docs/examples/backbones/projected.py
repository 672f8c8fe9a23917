"""One frozen linear layer a modality, the adapter over all, one linear head. A worked example of a host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wander.adapters import Adapter, AdapterConfig
from wander.adapters.wander import FoldedWander, Wander
from wander.backbones._fitting import fitting
from wander.backbones.base import BackboneConfig, Fold, HeadConfig, Host, Tower, TowerModule
from wander.errors import ConfigError
from wander.signature import BATCH, Signature, TensorSpec


class ProjectedConfig(BackboneConfig):
    """Names, widths D_m and lengths ℓ_m of the modalities, and E. `kind` is the name of this file."""

    kind: Literal["projected"] = "projected"
    modalities: tuple[str, ...]
    feature_dims: tuple[int, ...]
    lengths: tuple[int, ...]
    embed_dim: int


class ProjectedHead(HeadConfig):
    """`out_dim` is the number of classes."""

    out_dim: int


class Projected(Host):
    """Frozen: `project.{m}.*`; trained: `adapter.*`, `head.*`."""

    Config = ProjectedConfig
    Head = ProjectedHead

    def __init__(self, config: ProjectedConfig, adapter: Adapter, head: ProjectedHead) -> None:
        super().__init__()
        self.config = config
        self.project = nn.ModuleList(nn.Linear(width, config.embed_dim) for width in config.feature_dims)
        self.adapter: Adapter | FoldedWander = adapter
        self.head = nn.Linear(config.embed_dim, head.out_dim)

    @classmethod
    def build(cls, config: BackboneConfig, adapter: AdapterConfig | None, head: HeadConfig) -> Self:
        assert isinstance(config, ProjectedConfig)
        assert isinstance(head, ProjectedHead)
        built = fitting(adapter, config.embed_dim, config.lengths)
        if built is None:
            raise ConfigError("this host has no read-out without an adapter")
        return cls(config, built, head)

    @classmethod
    def example(cls) -> tuple[BackboneConfig, AdapterConfig | None, HeadConfig]:
        adapter = Wander.example_config()
        config = ProjectedConfig(
            modalities=("text", "audio", "vision"),
            feature_dims=(7, 3, 5),
            lengths=adapter.lengths,
            embed_dim=adapter.embed_dim,
        )
        return config, adapter, ProjectedHead(out_dim=2)

    @property
    def adapter_module(self) -> Adapter | None:
        return self.adapter if isinstance(self.adapter, Adapter) else None

    def is_adapted(self, name: str) -> bool:
        return name.startswith(("adapter.", "head."))

    def forward(self, *features: Tensor) -> Tensor:
        """Features (B, ℓ_m, D_m), one a modality, to (B, out_dim)."""
        hidden = [project(x) for x, project in zip(features, self.project, strict=True)]
        return self.head(self.adapter(hidden)[:, 0])

    def towers(self, output: str) -> Mapping[str, Tower]:
        sizes = zip(self.config.modalities, self.config.lengths, self.config.feature_dims, strict=True)
        inputs = tuple(TensorSpec(name=n, dtype="float32", dims=(BATCH, length, width)) for n, length, width in sizes)
        outputs = (TensorSpec(name=output, dtype="float32", dims=(BATCH, self.head.out_features)),)
        return {"model": Tower(TowerModule(self, self.forward), Signature(inputs=inputs, outputs=outputs))}

    def folds(self) -> list[Fold]:
        if not isinstance(self.adapter, Wander):
            return []
        return [Fold("adapter", "ranks summed, only the token that the head reads", self._fold_adapter)]

    def _fold_adapter(self) -> None:
        assert isinstance(self.adapter, Wander)
        self.adapter = self.adapter.fold(tokens=1)

    def random_inputs(self, tower: str, rows: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        sizes = zip(self.config.modalities, self.config.lengths, self.config.feature_dims, strict=True)
        return {name: rng.standard_normal((rows, *size)).astype(np.float32) for name, *size in sizes}


plugin = Projected
