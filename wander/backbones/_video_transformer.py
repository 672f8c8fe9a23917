"""The video transformer of MMT: BERT's post-norm layers over tokens that are features, not words.

Parameter names and arithmetic are those of the authors' checkpoints, without the pooler, which nothing reads.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wander.backbones._pretrained import attention

LAYER_NORM_EPS = 1e-12
MASKED = -1e4
"""Added to the scores of keys that are not there: their weight is exactly 0, for the CLS token always is."""


class Embeddings(nn.Module):
    """LN(feature + position + type)."""

    def __init__(self, embed_dim: int, positions: int, types: int) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(positions, embed_dim)
        self.token_type_embeddings = nn.Embedding(types, embed_dim)
        self.layer_norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)

    def forward(self, features: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        """(B, L, E), int64 (B, L) and int64 (L) to (B, L, E)."""
        places = self.position_embeddings(positions)
        return self.layer_norm(features + places + self.token_type_embeddings(types))


class SelfAttention(nn.Module):
    """Multi-head attention without its output projection."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scaling = (embed_dim // num_heads) ** -0.5
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)

    def forward(self, asking: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """What the tokens `asking` (B, A, E) find in x (B, L, E): (B, A, E). `mask` (B, 1, 1, L) is added."""
        q, k, v = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(asking), self.key(x), self.value(x))
        )
        found, _ = attention(self, q, k, v, mask, self.scaling)
        return found.flatten(2)


class Output(nn.Module):
    """LN(x + W y): what ends both halves of a layer."""

    def __init__(self, width: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, embed_dim)
        self.layer_norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.dropout = dropout

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.layer_norm(x + F.dropout(self.dense(y), self.dropout, self.training))


class Layer(nn.Module):
    """x = LN(x + attention(x)); x = LN(x + W2 GELU(W1 x)), with the erf form of GELU.

    `keep`: the tokens that the layer gives, all if None; every token is a key and a value still.
    """

    def __init__(self, embed_dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(embed_dim, num_heads), "output": Output(embed_dim, embed_dim, dropout)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(embed_dim, ffn_dim)})
        self.output = Output(ffn_dim, embed_dim, dropout)
        self.keep: slice | None = None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = x if self.keep is None else x[:, self.keep]
        y = self.attention["output"](self.attention["self"](kept, x, mask), kept)
        return self.output(F.gelu(self.intermediate["dense"](y)), y)


class VideoTransformer(nn.Module):
    """`embeddings`, then `encoder.layer.{i}`. Dropout (of what is added to the stream) is for training only."""

    def __init__(
        self, embed_dim: int, num_heads: int, layers: int, ffn_dim: int, positions: int, types: int, dropout: float
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(embed_dim, positions, types)
        stack = nn.ModuleList(Layer(embed_dim, num_heads, ffn_dim, dropout) for _ in range(layers))
        self.encoder = nn.ModuleDict({"layer": stack})

    def forward(self, features: Tensor, positions: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """To (B, L, E), or to the tokens that are kept.

        Args:
            features: (B, L, E).
            positions: int64 (B, L), rows of the position table.
            types: int64 (L), rows of the type table.
            mask: (B, L), 0 for tokens that are not there.
        """
        x = self.embeddings(features, positions, types)
        added = (mask == 0).to(x.dtype)[:, None, None] * MASKED
        for layer in self.layers():
            x = layer(x, added)
        return x

    def layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in cast(Any, self.encoder["layer"])]

    def init_(self, std: float = 0.02) -> None:
        """Starts afresh as BERT does: N(0, std²) weights, no biases, norms that scale by 1."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def keep_(self, tokens: slice) -> None:
        """The last layer gives these tokens alone."""
        self.layers()[-1].keep = tokens
