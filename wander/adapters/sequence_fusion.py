"""The dense reference forms of sequence fusion, SF-OP and SF-VF, for the comparison in the paper's Tables 5 and 6.

They visit every tuple of tokens, so time and memory grow with Π ℓ_m: for reference and measurement, not for serving.
The third form of those tables, SF, is the adapter `wander` with `form="sum_of_products"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from wander.adapters._fusion import FusionAdapter, FusionConfig, outer_product, vector_fusion
from wander.adapters.base import AdapterConfig


class SequenceFusionConfig(FusionConfig):
    """Attributes beside those of every fusion form:

    form: `outer_product` (SF-OP, Eq. 9-10) or `vector_fusion` (SF-VF, Eq. 8 with a dense W_t).
    rank_h: R_h, rank of the feature factors of SF-VF; unused by SF-OP.
    """

    kind: Literal["sequence_fusion"] = "sequence_fusion"
    form: Literal["outer_product", "vector_fusion"] = "vector_fusion"
    rank_h: int = Field(default=8, ge=1)


class SequenceFusion(FusionAdapter):
    """Parameters beside Down: `dense_t` (ℓ_1, .., ℓ_M, d_t), and `dense_h` (d, .., d, d_h) or `factor_dim_list.{m}`."""

    Config = SequenceFusionConfig
    config: SequenceFusionConfig

    def __init__(self, config: SequenceFusionConfig) -> None:
        super().__init__(config)
        self.dense_t = nn.Parameter(torch.randn(*config.lengths, config.tokens))
        if config.form == "outer_product":
            self.dense_h = nn.Parameter(torch.randn(*[config.down_dim] * len(config.lengths), config.width))
        else:
            self.factor_dim_list = nn.ParameterList(
                torch.randn(config.rank_h, config.down_dim, config.width) for _ in config.lengths
            )

    @classmethod
    def build(cls, config: AdapterConfig) -> Self:
        assert isinstance(config, SequenceFusionConfig)
        return cls(config)

    @classmethod
    def example_config(cls) -> SequenceFusionConfig:
        return SequenceFusionConfig(embed_dim=8, lengths=(4, 3), down_dim=3, tokens=2, rank_h=2)

    @classmethod
    def parameter_count(cls, config: AdapterConfig) -> int:
        """SF-OP: d_h·Πd + d_t·Πℓ; SF-VF: R_h·d_h·Σd + d_t·Πℓ; both plus Down."""
        assert isinstance(config, SequenceFusionConfig)
        if config.form == "outer_product":
            feature = config.width * config.down_dim ** len(config.lengths)
        else:
            feature = config.rank_h * config.width * config.down_dim * len(config.lengths)
        return config.down_parameters + feature + config.tokens * config.combinations

    @classmethod
    def flops(cls, config: AdapterConfig) -> int:
        """SF-OP: 2·Πℓ·Πd·d_h + 2·d_t·Πℓ·d_h; SF-VF: 2·R_h·d_h·Σ(ℓ_m·d) + 2·d_t·Πℓ·d_h; both plus Down."""
        assert isinstance(config, SequenceFusionConfig)
        if config.form == "outer_product":
            feature = 2 * config.combinations * config.down_dim ** len(config.lengths) * config.width
        else:
            feature = 2 * config.rank_h * config.width * sum(config.lengths) * config.down_dim
        return config.down_flops + feature + 2 * config.tokens * config.combinations * config.width

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        if self.config.form == "outer_product":
            return outer_product(features, self.dense_h, self.dense_t)
        return vector_fusion(features, list(self.factor_dim_list), self.dense_t)

    @torch.no_grad()
    def zero_(self) -> None:
        self.dense_t.zero_()


plugin = SequenceFusion
