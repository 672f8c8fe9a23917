"""Wander, the low-rank sequence multimodal adapter: as its authors' code computes it, and in the CP form of its paper.

At inference the released form costs nothing for its ranks: they are summed before any product, so they fold exactly
into one matrix a modality and side. A head that reads one token needs one column of each token factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import mul
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters._fusion import (
    FusionAdapter,
    FusionConfig,
    activate,
    first_tokens,
    product_of_sums,
    sum_of_products,
    token_shares,
)
from wander.adapters.base import AdapterConfig

Readout = Literal["experts", "shared", "first_token"]


class WanderConfig(FusionConfig):
    """Attributes beside those of every fusion form:

    rank_h: R_h ("drank" in the released code), rank of the feature factors.
    rank_t: R_t ("trank"), rank of the token factors.
    form: `product_of_sums` is the released code; `sum_of_products` the CP form of the paper. Equal at ranks 1 only.
    first_token_only: the paper's "vector fusion" (Table 7): only token 0 of every modality is fused, into one token,
        and there are no token factors.
    readout: how the fused tokens enter a host that reads several vectors (MMT), for which no code was released; the
        host says what each value does. None for the hosts that read one token, as released.
    """

    kind: Literal["wander"] = "wander"
    rank_h: int = Field(default=8, ge=1)
    rank_t: int = Field(default=12, ge=1)
    form: Literal["product_of_sums", "sum_of_products"] = "product_of_sums"
    first_token_only: bool = False
    readout: Readout | None = None

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.first_token_only and (self.tokens != 1 or self.rank_t != 1):
            raise ValueError("first_token_only needs tokens 1 and rank_t 1")
        return self


class Wander(FusionAdapter):
    """The adapter with all its ranks, as it is trained and stored.

    Parameters: `down.{m}.weight` (d, E), `down.{m}.bias` (d), `factor_dim_list.{m}` (R_h, d, d_h), `factor_t_list.{m}`
    (R_t, ℓ_m, d_t).
    """

    Config = WanderConfig
    config: WanderConfig

    def __init__(self, config: WanderConfig) -> None:
        super().__init__(config)
        self.factor_dim_list = nn.ParameterList(
            torch.randn(config.rank_h, config.down_dim, config.width) for _ in config.lengths
        )
        if not config.first_token_only:
            self.factor_t_list = nn.ParameterList(
                torch.zeros(config.rank_t, length, config.tokens) for length in config.lengths
            )

    @classmethod
    def build(cls, config: AdapterConfig) -> Self:
        assert isinstance(config, WanderConfig)
        return cls(config)

    @classmethod
    def example_config(cls) -> WanderConfig:
        return WanderConfig(embed_dim=8, lengths=(4, 3, 5), down_dim=3, tokens=3, rank_h=2, rank_t=2)

    @classmethod
    def parameter_count(cls, config: AdapterConfig) -> int:
        """M(E·d + d) + M·R_h·d·d_h + R_t·d_t·Σℓ, without the head."""
        assert isinstance(config, WanderConfig)
        feature = len(config.lengths) * config.rank_h * config.down_dim * config.width
        token = 0 if config.first_token_only else config.rank_t * config.tokens * sum(config.lengths)
        return config.down_parameters + feature + token

    @classmethod
    def folded_parameter_count(cls, config: WanderConfig, tokens: int | None = None) -> int:
        """What is left after `fold(tokens)`: ranks are summed and token factors hold `tokens` columns."""
        ranks = {"rank_h": 1, "rank_t": 1} if config.form == "product_of_sums" else {}
        return cls.parameter_count(config.model_copy(update={**ranks, "tokens": tokens or config.tokens}))

    @classmethod
    def flops(cls, config: AdapterConfig) -> int:
        """Down, then token before feature factors: Σ_m [2·R_t·d_t·ℓ_m·d + 2·R_t·R_h·d_t·d·d_h], ranks 1 if summed."""
        assert isinstance(config, WanderConfig)
        summed_first = config.form == "product_of_sums"
        rank_t, rank_h = (1, 1) if summed_first else (config.rank_t, config.rank_h)
        lengths = [1] * len(config.lengths) if config.first_token_only else config.lengths
        pooling = (
            0 if config.first_token_only else sum(2 * rank_t * config.tokens * n * config.down_dim for n in lengths)
        )
        mixing = len(lengths) * 2 * rank_t * rank_h * config.tokens * config.down_dim * config.width
        return 2 * sum(lengths) * config.embed_dim * config.down_dim + pooling + mixing

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """Hidden states h_m (B, ℓ_m, E), one a modality, to fused tokens (B, d_t, d_h)."""
        return super().forward([h[:, :1] for h in hidden] if self.config.first_token_only else hidden)

    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        form = product_of_sums if self.config.form == "product_of_sums" else sum_of_products
        return form(features, list(self.factor_dim_list), self._token_factors())

    def shares(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """What each token adds to the fused token 0, beside the residual: (B, ℓ_m, d_h), one a modality.

        Those of every modality by itself sum to the whole.
        """
        factors_h, factors_t = list(self.factor_dim_list), [factor[:, :, :1] for factor in self._token_factors()]
        if self.config.form == "product_of_sums":
            factors_h, factors_t = ([factor.sum(0, keepdim=True) for factor in f] for f in (factors_h, factors_t))
        read = [h[:, :1] for h in hidden] if self.config.first_token_only else hidden
        features = [activate(self.config.activation, down(h)) for down, h in zip(self.down, read, strict=True)]
        return _of_all_tokens(token_shares(features, factors_h, factors_t), hidden)

    def _token_factors(self) -> list[Tensor]:
        if self.config.first_token_only:
            return [factor.new_ones(1, 1, 1) for factor in self.factor_dim_list]
        return list(self.factor_t_list)

    @torch.no_grad()
    def start_training_(self, scale: float = 0.1, generator: torch.Generator | None = None) -> None:
        """Initialises the factors so that training can move them, while the adapter still starts as the identity.

        With every token factor at zero, as released, all gradients are zero for M >= 2, because the modalities are
        multiplied. So all but the last modality get token factors N(0, scale²/R_t) and the last stays zero: it gets a
        gradient at once, the rest from the second step on.
        """
        for factor in self.factor_dim_list:
            factor.normal_(std=1.0 / (self.config.rank_h * self.config.down_dim) ** 0.5, generator=generator)
        if not self.config.first_token_only:
            for factor in list(self.factor_t_list)[:-1]:
                factor.normal_(std=scale / self.config.rank_t**0.5, generator=generator)
            self.factor_t_list[-1].zero_()

    @torch.no_grad()
    def start_even_(self, scale: float = 0.1, generator: torch.Generator | None = None) -> None:
        """As `start_training_`, for many modalities, of whose many factors a product of small ones would vanish.

        Every factor T_mᵀ·G_m·V_m but the last starts near 1, with noise of `scale`: all features of a token near
        GELU(1) by the bias of Down, tokens averaged, features averaged. The last has tokens of weight zero.
        """
        config = self.config
        level = float(activate(config.activation, torch.ones(())))
        for down, factor in zip(self.down, self.factor_dim_list, strict=True):
            linear = cast(nn.Linear, down)
            linear.weight.normal_(std=scale / config.embed_dim**0.5, generator=generator)
            linear.bias.fill_(1.0)
            even = 1 / (config.rank_h * config.down_dim * level)
            factor.normal_(even, std=scale * even * config.down_dim**0.5, generator=generator)
        if not config.first_token_only:
            for factor in self.factor_t_list:
                even = 1 / (config.rank_t * factor.shape[1])
                factor.normal_(even, std=scale * even, generator=generator)
            self.factor_t_list[-1].zero_()

    @torch.no_grad()
    def zero_(self) -> None:
        factors = self.factor_dim_list if self.config.first_token_only else self.factor_t_list
        for factor in factors:
            factor.zero_()

    def warnings(self) -> list[str]:
        if self.config.first_token_only:
            return []
        dead = [m for m, factor in enumerate(self.factor_t_list) if not bool(factor.any())]
        if len(dead) == len(self.config.lengths):
            return ["every factor_t is zero: the adapter adds nothing, only the head was trained"]
        if dead and self.config.form == "product_of_sums":
            return [
                f"factor_t of modality {dead[0]} is zero, and so the product over modalities: the adapter adds nothing"
            ]
        return []

    @torch.no_grad()
    def fold(self, tokens: int | None = None) -> FoldedWander | Wander:
        """An adapter that gives the first `tokens` tokens (all if None), exactly.

        Ranks of the product-of-sums form are summed; of the CP form, which has no such sum, only the tokens are cut.
        """
        tokens = min(tokens or self.config.tokens, self.config.tokens)
        pooling = [factor[:, :, :tokens] for factor in self._token_factors()]
        if self.config.form == "product_of_sums":
            return FoldedWander(self, [factor.sum(0).mT for factor in pooling])
        cut = Wander(self.config.model_copy(update={"tokens": tokens})).to(self.factor_dim_list[0].dtype)
        kept = dict(self.state_dict())
        if not self.config.first_token_only:
            kept |= {f"factor_t_list.{m}": factor for m, factor in enumerate(pooling)}
        cut.load_state_dict(kept)
        return cut


class FoldedWander(nn.Module):
    """Product of sums with the ranks summed: Y = ⊙_m (u_m g_m) V_m, with u_m (tokens, ℓ_m) and V_m (d, d_h)."""

    def __init__(self, adapter: Wander, pooling: Sequence[Tensor]) -> None:
        super().__init__()
        self.config = adapter.config
        self.tokens = pooling[0].shape[0]
        self.down = adapter.down
        self.pooling = nn.ParameterList(matrix.contiguous() for matrix in pooling)
        self.mixing = nn.ParameterList(factor.sum(0) for factor in adapter.factor_dim_list)

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """Hidden states h_m (B, ℓ_m, E), one a modality, to fused tokens (B, tokens, d_h)."""
        factors = zip(self.pooling, self._features(hidden), self.mixing, strict=True)
        fused = reduce(mul, (u @ g @ v for u, g, v in factors))
        return fused + first_tokens(hidden, self.tokens) if self.config.residual else fused

    def shares(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """As `Wander.shares`: every token's part of its own factor, times the others."""
        parts = [u[:1].mT * (g @ v) for u, g, v in zip(self.pooling, self._features(hidden), self.mixing, strict=True)]
        factors = [part.sum(1, keepdim=True) for part in parts]
        shares = [reduce(mul, factors[:m] + factors[m + 1 :], part) for m, part in enumerate(parts)]
        return _of_all_tokens(shares, hidden)

    def _features(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """g_m (B, ℓ_m, d) of the tokens that are fused."""
        read = [h[:, :1] for h in hidden] if self.config.first_token_only else hidden
        return [activate(self.config.activation, down(h)) for down, h in zip(self.down, read, strict=True)]


def _of_all_tokens(shares: Sequence[Tensor], hidden: Sequence[Tensor]) -> list[Tensor]:
    """Tokens that are not fused have no share."""
    missing = [h.shape[1] - share.shape[1] for share, h in zip(shares, hidden, strict=True)]
    return [F.pad(share, (0, 0, 0, n)) if n else share for share, n in zip(shares, missing, strict=True)]


plugin = Wander
