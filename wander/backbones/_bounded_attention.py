"""Attention whose scores the weights bound: its softmax needs no maximum, its sums come out of a product, and its
biases are in the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wander.backbones._encoder import SelfAttention

BOUND = 60.0
"""Scores up to this size are taken as they are: in float32 exp(60) is a number even 10¹⁰ times, and exp(-60) as precise
as any other. In float16 exp(60) is none."""


class BoundedAttention(nn.Module):
    """Multi-head attention over the tokens of a norm, laid out along the tokens, as `SelfAttention` computes it.

    softmax(s) v = (exp(s) v) / (exp(s) 1): for scores within BOUND nothing has to be taken off first. The ones are one
    more feature of v, so that the division is of what a query found, a few features, and not of its weights, one a
    token. Divided by itself that feature is 1, which makes the bias of the output one more column of its matrix.

    A normed token x̂ has the sum 0, whatever it is. Hence (W + c 1ᵀ) (x̂ + 1) = W x̂ + W 1 + c E: once the norm, which
    nothing else reads, scales by 1 and shifts by 1, some c makes that W x̂ and any bias.

    Args:
        attention: is not used up.
        norm: brings the tokens. Its scale and shift become 1.
    """

    @torch.no_grad()
    def __init__(self, attention: SelfAttention, norm: nn.LayerNorm) -> None:
        super().__init__()
        heads, out = attention.num_heads, attention.out_proj
        assert isinstance(out, nn.Linear)
        self.num_heads = heads
        self.head_dim = attention.in_proj_weight.shape[1] // heads
        # Rows by heads, [q | k | v | 1] of one after another: their product is cut in three once, not reshaped thrice.
        rows = (attention.in_proj_weight * norm.weight).unflatten(0, (3, heads, -1))
        shifts = attention.in_proj_weight @ norm.bias + attention.in_proj_bias
        bias_q, _, bias_v = shifts.unflatten(0, (3, heads, -1))
        # The bias of k moves all scores of a query alike; that of v goes through weights whose sum is 1.
        ones = torch.ones_like(bias_q[:, :1])
        bias = torch.cat([bias_q * attention.scale, torch.zeros(heads, 2 * self.head_dim).to(bias_q), ones], 1)
        weight = torch.cat([rows[0] * attention.scale, rows[1], F.pad(rows[2], (0, 0, 0, 1))], 1)
        weight += (bias - weight.sum(2))[:, :, None] / weight.shape[2]
        norm.weight.fill_(1)
        norm.bias.fill_(1)
        self.in_proj_weight = nn.Parameter(weight.flatten(0, 1))
        columns = F.pad(out.weight.unflatten(1, (heads, -1)), (0, 1))
        columns[:, 0, -1] = out.bias + out.weight @ bias_v.flatten()
        self.out_proj_weight = nn.Parameter(columns.flatten(1))

    def forward(self, x: Tensor, keep: slice | None = None) -> Tensor:
        """(B, T, E) to (B, T, E), or to what becomes of the tokens `keep` alone, which still attend to all."""
        heads = (self.in_proj_weight @ x.mT).unflatten(1, (self.num_heads, -1))
        q, k, v = heads.split((self.head_dim, self.head_dim, self.head_dim + 1), 2)
        q = q if keep is None else q[..., keep]
        found = v @ torch.exp(k.mT @ q)
        return F.linear((found / found[:, :, -1:]).flatten(1, 2).mT, self.out_proj_weight)


@torch.no_grad()
def score_bound(attention: SelfAttention, norm: nn.LayerNorm) -> float:
    """What the size of no score exceeds, whatever the tokens are, if they come from this norm.

    A normed token has |x̂| <= √E. A score is bilinear in [x̂; 1] of two tokens, hence at most E + 1 times the largest
    singular value of its matrix.
    """
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    rows = torch.cat([weight * norm.weight, (weight @ norm.bias + bias)[:, None]], 1)
    # Of a product of two tall matrices the singular values are those of the product of their triangles.
    q, k, _ = (torch.linalg.qr(part.unflatten(0, (attention.num_heads, -1)).mT, "r").R for part in rows.chunk(3))
    return attention.scale * (weight.shape[1] + 1) * float(torch.linalg.matrix_norm(q @ k.mT, 2).max())
