"""A training loop whose rate falls along a cosine to zero, for long runs without a plateau. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

WARM = 0.05
"""Share of the steps in which the rate rises."""


class Annealing(BaseModel):
    """How long and how fast; the rate is the highest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=64, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    clip: float = Field(default=1.0, gt=0)


def anneal(
    trained: Sequence[nn.Parameter],
    batches: Callable[[], Iterable[Tensor]],
    loss: Callable[[Tensor], Tensor],
    schedule: Annealing,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Steps of AdamW over `loss(rows)`.

    Args:
        batches: gives an epoch's batches of rows; every epoch has as many as the first.
        on_epoch: is called after every epoch (from 1).
    """
    optimizer = torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    step = 0
    for epoch in range(1, schedule.epochs + 1):
        rows = list(batches())
        steps = schedule.epochs * len(rows)
        for batch in rows:
            step += 1
            rising = min(1.0, step / max(1.0, WARM * steps))
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * rising * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
            optimizer.zero_grad()
            loss(batch).backward()
            nn.utils.clip_grad_norm_(trained, schedule.clip)
            optimizer.step()
        on_epoch(epoch)
