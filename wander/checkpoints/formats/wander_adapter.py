"""A Wander adapter that stands alone: `down.*`, `factor_dim_list.*`, `factor_t_list.*`, with or without `adapter.`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from wander.adapters.wander import WanderConfig
from wander.backbones.base import HeadConfig
from wander.backbones.precomputed import Precomputed, PrecomputedConfig
from wander.checkpoints.folder import Description, load_strictly
from wander.checkpoints.formats.base import Converted, Format, Known, count, provenance
from wander.checkpoints.reader import Checkpoint
from wander.errors import CheckpointError

PREFIX = "adapter."
PARTS = ("down.", "factor_dim_list.", "factor_t_list.")


class WanderAdapter(Format):
    """Becomes a model of the task `tensors` on hidden states `h_0`, `h_1`, .. that were computed elsewhere."""

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        return bool(names) and all(name.removeprefix(PREFIX).startswith(PARTS) for name in names)

    @classmethod
    def convert(cls, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Converted:
        weights = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
        config = wander_config(weights, given)
        names = tuple(given.get("inputs") or (f"h_{m}" for m in range(len(config.lengths))))
        host = Precomputed.build(PrecomputedConfig(modalities=names), config, HeadConfig())
        load_strictly(host, {PREFIX + name: value for name, value in weights.items()}, {})
        about = Description(task="tensors", provenance=provenance(checkpoint, given))
        return Converted(host, {}, about)


def wander_config(weights: Mapping[str, Tensor], given: Mapping[str, Any]) -> WanderConfig:
    """The sizes of an adapter from its weights, by their names without a prefix.

    The released code has one form and one activation; the user may declare another (`fusion_form`, `activation`,
    `residual`), which no checkpoint tells.
    """
    modalities = count(weights, "factor_dim_list.{}")
    for part in ("down.{}.weight", "down.{}.bias", "factor_t_list.{}"):
        if modalities == 0 or count(weights, part) != modalities:
            raise CheckpointError(f"the adapter has {modalities} of factor_dim_list, {count(weights, part)} of {part}")
    dims = [weights[f"factor_dim_list.{m}"].shape for m in range(modalities)]
    times = [weights[f"factor_t_list.{m}"].shape for m in range(modalities)]
    if (
        any(len(shape) != 3 for shape in [*dims, *times])
        or len(set(dims)) != 1
        or len({(t[0], t[2]) for t in times}) != 1
    ):
        raise CheckpointError(f"the adapter's factors have shapes that do not go together: {dims}, {times}")
    facts = {
        "embed_dim": weights["down.0.weight"].shape[1],
        "lengths": [shape[1] for shape in times],
        "down_dim": dims[0][1],
        "d_t": times[0][2],
        "rank_h": dims[0][0],
        "rank_t": times[0][0],
    }
    known = Known(given, facts)
    return WanderConfig(
        embed_dim=known["embed_dim"],
        lengths=tuple(known["lengths"]),
        down_dim=known["down_dim"],
        tokens=known["d_t"],
        out_dim=dims[0][2],
        rank_h=known["rank_h"],
        rank_t=known["rank_t"],
        form=known.get("fusion_form", "product_of_sums"),
        activation=known.get("activation", "gelu"),
        residual=known.get("residual", True),
    )


plugin = WanderAdapter
