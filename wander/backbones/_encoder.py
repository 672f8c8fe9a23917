"""The fairseq-style transformer encoder of the Wander hosts: pre-norm, packed projections, sinusoidal positions.

Parameter names and arithmetic are those of the authors' checkpoints. Works batch first; the released code is time
first, which is the same function except where it is fed the wrong axis (the food host's released layout).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wander.backbones._attention import attend
from wander.errors import ConfigError


def sinusoidal_positions(rows: int, embed_dim: int) -> Tensor:
    """float32 table (rows, E): row p is [sin(p·f) | cos(p·f)], f_k = exp(-k·ln 10000 / (⌊E/2⌋-1)).

    An odd E ends in a column of zeros.
    """
    half = embed_dim // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(rows, dtype=torch.float32).unsqueeze(1) * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, embed_dim % 2))


class SelfAttention(nn.Module):
    """Multi-head self-attention over every token, with q, k and v in one packed projection (in that order)."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(f"num_heads {num_heads} does not divide embed_dim {embed_dim}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.scale = (embed_dim // num_heads) ** -0.5
        self.tokens_last = False
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj: nn.Linear | nn.Identity = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, keep: slice | None = None) -> Tensor:
        """(B, T, E) to (B, T, E), or to what becomes of the tokens `keep` alone, which still attend to all."""
        if self.tokens_last:
            return self._forward_tokens_last(x, keep)
        weight, bias, width = self.in_proj_weight, self.in_proj_bias, x.shape[2]
        if keep is None:
            parts = F.linear(x, weight, bias).chunk(3, 2)
        else:
            query = F.linear(x[:, keep], weight[:width], bias[:width])
            parts = (query, *F.linear(x, weight[width:], bias[width:]).chunk(2, 2))
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        if self.scale != 1.0:
            q = q * self.scale
        found = attend(q, k, v, dropout=self.dropout if self.training else 0.0)
        return self.out_proj(found.transpose(1, 2).flatten(2))

    def _forward_tokens_last(self, x: Tensor, keep: slice | None) -> Tensor:
        """The same, of (B, E, T): products run along the tokens and not along the few features of a head, and an engine
        that transposes within its products has nothing left to transpose."""
        weight, width = self.in_proj_weight, x.shape[2]
        if keep is None:
            q, k, v = (weight @ x.mT).chunk(3, 1)
        else:
            q, (k, v) = weight[:width] @ x[:, keep].mT, (weight[width:] @ x.mT).chunk(2, 1)
        q = q + self.in_proj_bias[:width, None]
        if self.scale != 1.0:
            q = q * self.scale
        q, k, v = (part.unflatten(1, (self.num_heads, -1)) for part in (q, k, v))
        weights = F.dropout(torch.softmax(q.mT @ k, -1), self.dropout, self.training)
        return self.out_proj((v @ weights.mT).flatten(1, 2).mT)

    @torch.no_grad()
    def fold_tokens_last_(self) -> None:
        """Lays the heads out along the tokens. The bias of k moves all scores of a query alike, which softmax does not
        see; that of v goes through the weights, whose sum is 1, into the bias of the output."""
        width, out = self.in_proj_weight.shape[1], self.out_proj
        assert isinstance(out, nn.Linear)
        out.bias.add_(out.weight @ self.in_proj_bias[2 * width :])
        self.in_proj_bias[width:] = 0
        self.tokens_last = True

    @torch.no_grad()
    def fold_scale_(self) -> None:
        """Moves the scale of q into its rows of the packed projection."""
        rows = self.in_proj_weight.shape[1]
        self.in_proj_weight[:rows] *= self.scale
        self.in_proj_bias[:rows] *= self.scale
        self.scale = 1.0


class OwnValue(SelfAttention):
    """Attention of every token to itself alone: its value, projected. The rows of q and k are stored but do not count.

    Attention across a batch, as in the food host's released layout, is this for a batch of one item.
    """

    def forward(self, x: Tensor, keep: slice | None = None) -> Tensor:
        """(B, T, E) to (B, T, E), or to the tokens `keep` alone."""
        rows = 2 * x.shape[2]
        value = F.linear(x if keep is None else x[:, keep], self.in_proj_weight[rows:], self.in_proj_bias[rows:])
        return self.out_proj(value)

    @torch.no_grad()
    def fold_output_(self) -> None:
        """Moves the output projection into the rows of the value, and leaves nothing behind it."""
        out, rows = self.out_proj, 2 * self.in_proj_weight.shape[1]
        assert isinstance(out, nn.Linear)
        self.in_proj_bias[rows:] = out(self.in_proj_bias[rows:])
        self.in_proj_weight[rows:] = out.weight @ self.in_proj_weight[rows:]
        self.out_proj = nn.Identity()


class EncoderLayer(nn.Module):
    """y += attention(LN0 y); y += fc2(ReLU(fc1(LN1 y))). FFN width 4E."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        attention_dropout: float,
        relu_dropout: float,
        residual_dropout: float,
        *,
        alone: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn: nn.Module = (OwnValue if alone else SelfAttention)(embed_dim, num_heads, attention_dropout)
        self.fc1 = nn.Linear(embed_dim, 4 * embed_dim)
        self.fc2 = nn.Linear(4 * embed_dim, embed_dim)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))
        self.relu_dropout = relu_dropout
        self.residual_dropout = residual_dropout

    def forward(self, y: Tensor, keep: slice | None = None) -> Tensor:
        """(B, T, E) to (B, T, E), or to what becomes of the tokens `keep` alone, which still attend to all."""
        attended = self.self_attn(self.layer_norms[0](y), keep)
        y = (y if keep is None else y[:, keep]) + F.dropout(attended, self.residual_dropout, self.training)
        # As matrices, for ONNX Runtime makes one operator of product, bias and ReLU of these alone.
        rows = self.layer_norms[1](y).flatten(0, 1)
        wide = F.dropout(F.relu(self.fc1(rows)), self.relu_dropout, self.training)
        added = F.dropout(self.fc2(wide), self.residual_dropout, self.training)
        return y + added.unflatten(0, (-1, y.shape[1]))

    @torch.no_grad()
    def fold_norms_(self) -> None:
        """Moves scale and shift of both norms into the projections that alone read them."""
        attention = self.self_attn
        assert isinstance(attention, SelfAttention)
        readers = ((attention.in_proj_weight, attention.in_proj_bias), (self.fc1.weight, self.fc1.bias))
        for position, (weight, bias) in enumerate(readers):
            norm = self.layer_norms[position]
            assert isinstance(norm, nn.LayerNorm)
            bias.add_(weight @ norm.bias)
            weight.mul_(norm.weight)
            self.layer_norms[position] = nn.LayerNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)


class Encoder(nn.Module):
    """√E·x + positions, `layers` layers, a final LayerNorm.

    Dropouts act in training only. No padding mask: padded tokens are attended to, as in training.

    Args:
        alone: every token is an item of its own, first of its sequence: it attends to itself alone and has position 1.
            This is what the released code computes for a single item whose axes of batch and time are swapped.
    """

    positions: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        layers: int,
        length: int,
        *,
        attention_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        alone: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim < 4:
            raise ConfigError(f"embed_dim {embed_dim} is too small for sinusoidal positions; it must be at least 4")
        self.scale = math.sqrt(embed_dim)
        self.embed_dropout = embed_dropout
        self.alone = alone
        self.layers = nn.ModuleList(
            EncoderLayer(embed_dim, num_heads, attention_dropout, relu_dropout, residual_dropout, alone=alone)
            for _ in range(layers)
        )
        self.layer_norm = nn.LayerNorm(embed_dim)
        rows = 2 if alone else length + 1
        self.register_buffer("positions", sinusoidal_positions(rows, embed_dim), persistent=False)

    def forward(self, x: Tensor, keep: slice | None = None) -> Tensor:
        """(B, T, E) to (B, T, E), T at most `length`, or to what becomes of the tokens `keep` alone.

        Token t gets position row t+1 if its first feature is not 0, else none: the released code takes a zero there
        for padding.
        """
        if self.alone and keep is not None:  # no token needs another
            x, keep = x[:, keep], None
        seen = (x[..., :1] != 0).to(x.dtype)
        y = x * self.scale if self.scale != 1.0 else x
        rows = self.positions[1:] if self.alone else self.positions[1 : x.shape[1] + 1]
        y = F.dropout(y + rows * seen, self.embed_dropout, self.training)
        for number, layer in enumerate(self.layers, 1):
            y = layer(y, keep if number == len(self.layers) else None)
        return self.layer_norm(y)

    @torch.no_grad()
    def fold_scales_(self, *sources: nn.Module) -> None:
        """Moves √E into the affine maps that bring the input, and the scale of every q into its packed projection."""
        for source in sources:
            for parameter in source.parameters(recurse=False):
                parameter.mul_(self.scale)
        self.scale = 1.0
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.fold_scale_()

    def fold_tokens_last_(self) -> None:
        """Lays the heads of every attention across tokens out along the tokens."""
        for module in self.modules():
            if type(module) is SelfAttention:
                module.fold_tokens_last_()

    def fold_norms_(self) -> None:
        """Moves scale and shift of every norm but the last into the projections that alone read them."""
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.fold_norms_()

    def fold_outputs_(self) -> None:
        """Makes one projection of value and output wherever tokens attend to themselves alone."""
        for module in list(self.modules()):
            if isinstance(module, OwnValue):
                module.fold_output_()
