"""Fusion by a sum: Y = Σ_m T_mᵀ g_m A_m. A worked example of an adapter kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from wander.adapters._fusion import FusionAdapter, FusionConfig
from wander.adapters.base import AdapterConfig


class AdditiveConfig(FusionConfig):
    """The sizes of every fusion form, and no more. `kind` is the name of this file."""

    kind: Literal["additive"] = "additive"


class Additive(FusionAdapter):
    """Parameters beside Down: `mix.{m}` (d, d_h) and `pool.{m}` (ℓ_m, d_t)."""

    Config = AdditiveConfig
    config: AdditiveConfig

    def __init__(self, config: AdditiveConfig) -> None:
        super().__init__(config)
        self.mix = nn.ParameterList(torch.randn(config.down_dim, config.width) for _ in config.lengths)
        self.pool = nn.ParameterList(torch.zeros(length, config.tokens) for length in config.lengths)

    @classmethod
    def build(cls, config: AdapterConfig) -> Self:
        assert isinstance(config, AdditiveConfig)
        return cls(config)

    @classmethod
    def example_config(cls) -> AdditiveConfig:
        return AdditiveConfig(embed_dim=8, lengths=(4, 3), down_dim=3, tokens=2)

    @classmethod
    def parameter_count(cls, config: AdapterConfig) -> int:
        assert isinstance(config, AdditiveConfig)
        mix = len(config.lengths) * config.down_dim * config.width
        return config.down_parameters + mix + sum(config.lengths) * config.tokens

    @classmethod
    def flops(cls, config: AdapterConfig) -> int:
        assert isinstance(config, AdditiveConfig)
        pool = 2 * config.tokens * sum(config.lengths) * config.down_dim
        mix = 2 * config.tokens * config.down_dim * config.width * len(config.lengths)
        return config.down_flops + pool + mix

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        parts = [t.mT @ g @ a for g, a, t in zip(features, self.mix, self.pool, strict=True)]
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def zero_(self) -> None:
        for pool in self.pool:
            pool.zero_()


plugin = Additive
