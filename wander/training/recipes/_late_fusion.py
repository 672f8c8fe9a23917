"""A late-fusion host over raw input: of which sizes, how it is frozen, and the adapter over it. Knows no data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from wander.adapters.wander import Wander, WanderConfig
from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead
from wander.checkpoints.folder import Description
from wander.signature import TensorSpec
from wander.tasks import Task, tasks
from wander.training.loop import Examples, predict
from wander.training.recipes.base import RecipeSettings, checked

SMALLEST_STD = 1e-3
"""A feature with a smaller deviation is constant, and is not scaled."""


class FusionSettings(RecipeSettings):
    """Attributes:
    embed_dim, num_heads, encoder_layers: of the host.
    dropout: of the host and the head, in training only; of attention it is half.
    down_dim, rank_h, rank_t, start_scale: of the adapter, as for `sentiment`.
    residual: whether the adapter hands on the first tokens beside what it fuses, as the released code does.
    even_start: whether it starts by `Wander.start_even_`, which suits many modalities.
    """

    embed_dim: int = 64
    num_heads: int = 4
    encoder_layers: int = 2
    dropout: float = Field(default=0.2, ge=0, lt=1)
    down_dim: int = 16
    rank_h: int = 8
    rank_t: int = 12
    start_scale: float = Field(default=0.1, ge=0)
    residual: bool = True
    even_start: bool = False


def fresh_host(
    inputs: Sequence[TensorSpec],
    scale: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    settings: FusionSettings,
    head: LateFusionHead,
    *,
    adapter: bool,
) -> LateFusion:
    """Args:
        scale: input -> mean and deviation (D) of its features, which the host standardises by.

    Raises ConfigError for sizes that cannot be.
    """
    drop = settings.dropout
    config = checked(
        LateFusionConfig,
        modalities=tuple(spec.name for spec in inputs),
        feature_dims=tuple(spec.item_dims[1] for spec in inputs),
        lengths=tuple(spec.item_dims[0] for spec in inputs),
        embed_dim=settings.embed_dim,
        num_heads=settings.num_heads,
        encoder_layers=settings.encoder_layers,
        standardise=True,
        dropout={"attention": drop / 2, "relu": drop, "embed": drop, "residual": drop, "out": drop},
    )
    adapted = {
        "embed_dim": config.embed_dim,
        "lengths": config.lengths,
        "down_dim": settings.down_dim,
        "tokens": settings.down_dim,
        "rank_h": settings.rank_h,
        "rank_t": settings.rank_t,
        "residual": settings.residual,
    }
    host = LateFusion.build(config, checked(WanderConfig, **adapted) if adapter else None, head)
    with torch.no_grad():
        for name, mean, std in zip(config.modalities, host.feature_mean, host.feature_std, strict=True):
            mean.copy_(torch.from_numpy(scale[name][0]))
            std.copy_(torch.from_numpy(scale[name][1]))
    return host


def frozen_under(host: LateFusion, adapted: LateFusion, settings: FusionSettings) -> LateFusion:
    """`adapted` with the frozen part of `host`; only its adapter, if it has one, and its head can be trained."""
    if isinstance(adapted.adapter, Wander):
        start = adapted.adapter.start_even_ if settings.even_start else adapted.adapter.start_training_
        start(settings.start_scale)
    adapted.load_state_dict(host.split_state()[1], strict=False)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_(adapted.is_adapted(name))
    return adapted


class Fused(nn.Module):
    """What is trained over frozen encoders, whose outputs are computed once."""

    def __init__(self, host: LateFusion) -> None:
        super().__init__()
        self.host = host

    def forward(self, *hidden: Tensor) -> Tensor:
        return self.host.fused(*hidden)


@torch.no_grad()
def hidden(host: LateFusion, examples: Examples, chunk: int = 256) -> Examples:
    """The same examples as encoder outputs."""
    host.eval()
    parts = [host.hidden(*examples.rows(rows).inputs) for rows in torch.arange(len(examples)).split(chunk)]
    return Examples(tuple(torch.cat(part) for part in zip(*parts, strict=True)), examples.targets)


def mean_and_std(rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of features (.., D), over all but the last axis; a deviation of nearly nothing counts as 1."""
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    deviation = flat.std(0)
    return flat.mean(0).astype(np.float32), np.where(deviation < SMALLEST_STD, 1.0, deviation).astype(np.float32)


def metrics(task: str, host: nn.Module, examples: Examples) -> dict[str, float]:
    """The task's metrics, to four decimals."""
    kind: type[Task] = tasks.get(task)
    targets: Tensor = examples.targets
    found = kind.metrics({kind.output: predict(host, examples).numpy()}, targets.reshape(len(targets)).numpy())
    return {name: round(value, 4) for name, value in found.items()}


def with_provenance(about: Description, provenance: Mapping[str, Any]) -> Description:
    """The same description, and how it came about."""
    return about.model_copy(update={"provenance": dict(provenance)})
