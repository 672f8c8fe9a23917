"""The text side of MMT behind BERT: a gated unit for every expert, and how much each expert counts.

Parameter names are those of the authors' checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wander.backbones._attention import attend


class ContextGating(nn.Module):
    """z ⊙ σ(BN(W z + b)). In eval mode the norm uses the statistics of the training."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(embed_dim, embed_dim)
        self.batch_norm: nn.Module = nn.BatchNorm1d(embed_dim)

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.sigmoid(self.batch_norm(self.fc(z)))

    @torch.no_grad()
    def fold_norm_(self) -> None:
        """Moves the norm, which is affine with fixed statistics, into the matrix before it."""
        norm = cast(nn.BatchNorm1d, self.batch_norm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        self.fc.weight.mul_(scale[:, None])
        self.fc.bias.copy_((self.fc.bias - norm.running_mean) * scale + norm.bias)
        self.batch_norm = nn.Identity()


class GatedUnit(nn.Module):
    """t = normalised gating(W c + b)."""

    def __init__(self, text_width: int, embed_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(text_width, embed_dim)
        self.cg = ContextGating(embed_dim)

    def forward(self, c: Tensor) -> Tensor:
        """(B, text width) to unit vectors (B, E)."""
        return F.normalize(self.cg(self.fc(c)), dim=-1)


class StackedUnits(nn.Module):
    """The gated units of all experts as two products, and no norms. Made from units whose norms are folded."""

    def __init__(self, units: Sequence[GatedUnit]) -> None:
        super().__init__()
        self.fc = nn.Linear(units[0].fc.in_features, len(units) * units[0].fc.out_features)
        self.fc.weight = nn.Parameter(torch.cat([unit.fc.weight.detach() for unit in units]))
        self.fc.bias = nn.Parameter(torch.cat([unit.fc.bias.detach() for unit in units]))
        self.gates = nn.Parameter(torch.stack([unit.cg.fc.weight.detach().mT for unit in units]))  # (M, E, E)
        self.biases = nn.Parameter(torch.stack([unit.cg.fc.bias.detach() for unit in units])[:, None])  # (M, 1, E)

    def forward(self, c: Tensor) -> Tensor:
        """(B, text width) to unit vectors (B, M, E)."""
        z = self.fc(c).unflatten(1, (len(self.gates), -1))
        gates = (z.transpose(0, 1) @ self.gates + self.biases).transpose(0, 1)
        return F.normalize(z * torch.sigmoid(gates), dim=-1)


def token_zero(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Token 0 (B, E) of what a BERT layer of the transformers package makes of x (B, L, E); `mask` is added."""
    own = layer.attention.self
    q, k, v = (
        part.unflatten(2, (own.num_attention_heads, -1)).transpose(1, 2)
        for part in (own.query(x[:, :1]), own.key(x), own.value(x))
    )
    found = attend(q * own.scaling if own.scaling != 1.0 else q, k, v, mask).transpose(1, 2).flatten(2)
    y = layer.attention.output(found, x[:, :1])
    return layer.output(layer.intermediate(y), y)[:, 0]
