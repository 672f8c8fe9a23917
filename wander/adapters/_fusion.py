"""Sequence fusion: the algebra that all forms of Wander share, and the module frame around it.

Notation: M modalities; g_m (B, ℓ_m, d) are the features after Down and activation; A_m (R_h, d, d_h) and
T_m (R_t, ℓ_m, d_t) are the low-rank factors; W_h (d, .., d, d_h) and W_t (ℓ_1, .., ℓ_M, d_t) the dense tensors that
they stand for. Every form maps the g_m to Y (B, d_t, d_h). Equations are those of the Wander paper.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import mul
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters.base import Adapter, AdapterConfig


def product_of_sums(features: Sequence[Tensor], factors_h: Sequence[Tensor], factors_t: Sequence[Tensor]) -> Tensor:
    """Y = ⊙_m (Σ_rt T_m)ᵀ g_m (Σ_rh A_m): last line of Eq. 7 and 13, and what the released code computes."""
    return reduce(mul, (t.sum(0).mT @ g @ a.sum(0) for g, a, t in zip(features, factors_h, factors_t, strict=True)))


def sum_of_products(features: Sequence[Tensor], factors_h: Sequence[Tensor], factors_t: Sequence[Tensor]) -> Tensor:
    """SF: Y = Σ_rt Σ_rh ⊙_m (T_m[rt]ᵀ g_m A_m[rh]), the true CP form (first two lines of Eq. 13)."""
    terms = []
    for g, a, t in zip(features, factors_h, factors_t, strict=True):
        rank_t, _, tokens = t.shape
        rank_h, width, out = a.shape
        pooled = t.permute(0, 2, 1).reshape(rank_t * tokens, -1) @ g  # (B, R_t·d_t, d)
        mixed = pooled @ a.permute(1, 0, 2).reshape(width, rank_h * out)  # (B, R_t·d_t, R_h·d_h)
        terms.append(mixed.unflatten(2, (rank_h, out)).unflatten(1, (rank_t, tokens)))
    return reduce(mul, terms).sum((1, 3))


def token_shares(features: Sequence[Tensor], factors_h: Sequence[Tensor], factors_t: Sequence[Tensor]) -> list[Tensor]:
    """What each token of each modality adds to the one token that `sum_of_products` gives: a list of (B, ℓ_m, d_h).

    With the other modalities held, the product is linear in the tokens of one, so that the shares of every modality
    by itself sum to the whole. No factor has a constant, and so none is left over.

    Args:
        factors_t: (R_t, ℓ_m, 1).
    """
    mixed = [torch.einsum("bij,rjk->birk", g, a) for g, a in zip(features, factors_h, strict=True)]  # (B, ℓ, R_h, d_h)
    pooled = [torch.einsum("ti,birk->btrk", t[:, :, 0], x) for t, x in zip(factors_t, mixed, strict=True)]
    shares = []
    for m, (t, x) in enumerate(zip(factors_t, mixed, strict=True)):
        others = [other for n, other in enumerate(pooled) if n != m]
        held = reduce(mul, others) if others else torch.ones_like(pooled[m])
        shares.append((x * torch.einsum("ti,btrk->birk", t[:, :, 0], held)).sum(2))
    return shares


def vector_fusion(features: Sequence[Tensor], factors_h: Sequence[Tensor], dense_t: Tensor) -> Tensor:
    """SF-VF: H[i_1..i_M] = Σ_rh ⊙_m g_m[i_m] A_m[rh] for every tuple of tokens (Eq. 8), then Y = W_tᵀ H."""
    joint: Tensor | None = None  # (B, R_h, Π ℓ, d_h)
    for g, a in zip(features, factors_h, strict=True):
        rank_h, width, out = a.shape
        mixed = (g @ a.permute(1, 0, 2).reshape(width, rank_h * out)).unflatten(2, (rank_h, out)).transpose(1, 2)
        joint = mixed if joint is None else (joint.unsqueeze(3) * mixed.unsqueeze(2)).flatten(2, 3)
    assert joint is not None
    return pool(joint.sum(1), dense_t)


def outer_product(features: Sequence[Tensor], dense_h: Tensor, dense_t: Tensor) -> Tensor:
    """SF-OP (Eq. 9-10): Y[t,k] = Σ_i Σ_j W_t[i,t] (Π_m g_m[i_m,j_m]) W_h[j,k] over tuples of tokens i, features j."""
    joint: Tensor = features[0]  # (B, Π ℓ, Π d)
    for g in features[1:]:
        joint = (joint[:, :, None, :, None] * g[:, None, :, None, :]).flatten(1, 2).flatten(2, 3)
    return pool(joint @ dense_h.flatten(0, -2), dense_t)


def pool(joint: Tensor, dense_t: Tensor) -> Tensor:
    """Y[t] = Σ_i W_t[i,t] H[i]; H (B, Π ℓ, d_h), W_t (ℓ_1, .., ℓ_M, d_t)."""
    return dense_t.flatten(0, -2).mT @ joint


def dense_from_factors(factors: Sequence[Tensor]) -> Tensor:
    """W[i_1..i_M, k] = Σ_r Π_m factor_m[r, i_m, k]: the dense tensor that CP factors (R, n_m, k) stand for."""
    joint: Tensor = factors[0]
    for factor in factors[1:]:
        joint = joint.unsqueeze(-2) * factor.reshape(factor.shape[0], *[1] * (joint.ndim - 2), *factor.shape[1:])
    return joint.sum(0)


Activation = Literal["gelu", "relu", "none"]


def activate(kind: Activation, x: Tensor) -> Tensor:
    """GELU is the erf form, as in the released code; the paper says "the same as the pre-trained model" (ReLU)."""
    if kind == "none":
        return x
    return F.gelu(x) if kind == "gelu" else F.relu(x)


class FusionConfig(AdapterConfig):
    """Sizes common to all forms.

    Attributes:
        embed_dim: E, width of the hidden states that are read.
        lengths: ℓ_m, number of tokens of each modality, in the order of the modalities. Inputs have exactly these.
        down_dim: d, width after Down.
        tokens: d_t, number of tokens that come out.
        out_dim: d_h, their width; E if not given.
        activation: after Down.
        residual: adds the first d_t tokens of the concatenated inputs, as the released code does.
    """

    embed_dim: int = Field(ge=1)
    lengths: tuple[int, ...] = Field(min_length=1)
    down_dim: int = Field(ge=1)
    tokens: int = Field(ge=1)
    out_dim: int | None = Field(default=None, ge=1)
    activation: Activation = "gelu"
    residual: bool = True

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if any(length < 1 for length in self.lengths):
            raise ValueError(f"lengths must be at least 1, not {list(self.lengths)}")
        if self.residual and self.width != self.embed_dim:
            raise ValueError(f"a residual needs out_dim {self.width} equal to embed_dim {self.embed_dim}")
        if self.residual and self.tokens > sum(self.lengths):
            raise ValueError(
                f"{self.tokens} tokens with a residual need at least as many inputs, not {sum(self.lengths)}"
            )
        return self

    @property
    def width(self) -> int:
        """d_h."""
        return self.out_dim or self.embed_dim

    @property
    def down_parameters(self) -> int:
        """M·(E·d + d)."""
        return len(self.lengths) * (self.embed_dim * self.down_dim + self.down_dim)

    @property
    def down_flops(self) -> int:
        """Σ_m 2·ℓ_m·E·d."""
        return 2 * sum(self.lengths) * self.embed_dim * self.down_dim

    @property
    def combinations(self) -> int:
        """Π ℓ_m, the number of tuples of tokens that the dense forms visit."""
        return prod(self.lengths)


class FusionAdapter(Adapter):
    """Down, activation, a fusion form, residual. The subclass brings the factors and `fuse`."""

    config: FusionConfig

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.down = nn.ModuleList(nn.Linear(config.embed_dim, config.down_dim) for _ in config.lengths)

    @abstractmethod
    def fuse(self, features: Sequence[Tensor]) -> Tensor:
        """g_m (B, ℓ_m, d), one a modality, to (B, d_t, d_h)."""

    def forward(self, hidden: Sequence[Tensor]) -> Tensor:
        """Hidden states h_m (B, ℓ_m, E), one a modality, to fused tokens (B, d_t, d_h)."""
        features = [activate(self.config.activation, down(h)) for down, h in zip(self.down, hidden, strict=True)]
        fused = self.fuse(features)
        return fused + first_tokens(hidden, self.config.tokens) if self.config.residual else fused


def first_tokens(hidden: Sequence[Tensor], tokens: int) -> Tensor:
    """The first `tokens` tokens of the sequences laid end to end; those of the first modality come first."""
    if hidden[0].shape[1] >= tokens:
        return hidden[0][:, :tokens]
    return torch.cat(list(hidden), 1)[:, :tokens]
