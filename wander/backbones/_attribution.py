"""What in an adapter's output moved the head's scores: integrated gradients, without an error of quadrature.

The head is that of `late_fusion`: a = ReLU(P0 x), score = out(P2 ReLU(P1 a) + a). On the way from x to x + y the first
ReLU has one kink a unit, at times that are known. Between two of them a is linear in time, and so is P1 a; the mean
slope of a ReLU whose argument is linear in time is that of its secant. So the sum over the stretches between kinks is
the integral. Knows neither adapters nor tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mean_gradient(
    start: Tensor, change: Tensor, first: Tensor, proj0: nn.Linear, proj1: nn.Linear, proj2: nn.Linear, out: nn.Linear
) -> Tensor:
    """Gradient of every score by the token that the head reads, averaged along the way.

    Args:
        start: x (B, E), `change`: y (B, E).
        first: weight (H, E) of the first layer for a token, summed over the times it is read.
        proj0: the first layer, of which only the bias is used; the others are whole.

    Returns (B, C, E). Its product with y is score(x + y) - score(x), exactly.
    """
    at_start, speed = F.linear(start, first, proj0.bias), F.linear(change, first)
    moving = torch.where(speed == 0, torch.ones_like(speed), speed)
    kinks = torch.where(speed == 0, torch.zeros_like(speed), -at_start / moving).clamp(0, 1)
    ends = torch.zeros_like(kinks[:, :1])
    times = torch.cat([ends, kinks.sort(1).values, ends + 1], 1)  # (B, H + 2)
    z0 = at_start[:, None] + times[:, :, None] * speed[:, None]
    z1 = proj1(F.relu(z0))
    # Back from the scores: through out, then through P2 and P1 on one branch, and past them on the other.
    deep = secant(z1)[:, :, None] * (out.weight @ proj2.weight)  # (B, H + 1, C, H)
    wide = deep @ proj1.weight + out.weight
    spent = (times[:, 1:] - times[:, :-1])[:, :, None] * secant(z0)
    return (spent[:, :, None] * wide).sum(1) @ first


def secant(z: Tensor) -> Tensor:
    """Slopes of ReLU's secants between neighbours along the second dimension: (B, S + 1, n) to (B, S, n).

    (ReLU(b) - ReLU(a)) / (b - a), in a form without cancellation. At a = b it is the slope there.
    """
    low, high = torch.minimum(z[:, 1:], z[:, :-1]), torch.maximum(z[:, 1:], z[:, :-1])
    above, below = F.relu(high), F.relu(-low)
    total = above + below
    return above / torch.where(total == 0, torch.ones_like(total), total)
