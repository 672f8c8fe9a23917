"""The late-fusion host of the Wander authors, with its adapter (names begin with `basemodel.`) or without one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead
from wander.checkpoints.folder import Description, load_strictly
from wander.checkpoints.formats.base import Converted, Format, Known, count, provenance
from wander.checkpoints.formats.wander_adapter import PREFIX, wander_config
from wander.checkpoints.reader import Checkpoint, module_attributes

BASE = "basemodel."
IGNORED = re.compile(r"encoders\.\d+\.(version|embed_positions\._float_tensor)$")
"""Buffers that hold nothing: a format number, and one value that was never initialised and may be NaN."""
THREE_MODALITIES = ("text", "audio", "vision")


class WanderLateFusion(Format):
    """One output is a sentiment score, several are the classes of an emotion, unless the configuration says otherwise.

    A plain state dict does not tell `num_heads`; a host without an adapter does not tell `lengths`.
    """

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        bare = {name.removeprefix(BASE) for name in names}
        return {"proj.0.weight", "out_layer_proj0.weight", "encoders.0.layer_norm.weight"} <= bare

    @classmethod
    def convert(cls, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Converted:
        weights = {name.removeprefix(BASE): value for name, value in tensors.items()}
        weights = {name: value for name, value in weights.items() if not IGNORED.match(name)}
        adapted = {name.removeprefix(PREFIX): v for name, v in weights.items() if name.startswith(PREFIX)}
        adapter = wander_config(adapted, given) if adapted else None
        modalities = count(weights, "proj.{}.weight")
        shapes = [weights[f"proj.{m}.weight"].shape for m in range(modalities)]
        facts: dict[str, Any] = {
            "embed_dim": shapes[0][0],
            "feature_dims": [shape[1] for shape in shapes],
            "encoder_layers": count(weights, "encoders.0.layers.{}.fc1.weight"),
            "out_dim": weights["out_layer.weight"].shape[0],
        }
        if adapter is not None:
            facts["lengths"] = list(adapter.lengths)
        attributes = module_attributes(checkpoint)
        remembered = attributes.get(BASE.rstrip("."), attributes.get("", {}))
        if isinstance(heads := remembered.get("num_heads"), int):
            facts["num_heads"] = heads
        known = Known(given, facts)
        names = (
            known["modalities"] if modalities != len(THREE_MODALITIES) else known.get("modalities", THREE_MODALITIES)
        )
        config = LateFusionConfig(
            modalities=tuple(names),
            feature_dims=tuple(known["feature_dims"]),
            lengths=tuple(known["lengths"]),
            embed_dim=known["embed_dim"],
            num_heads=known["num_heads"],
            encoder_layers=known["encoder_layers"],
        )
        head = LateFusionHead(out_dim=known["out_dim"])
        host = LateFusion.build(config, adapter, head)
        trained = {name: value for name, value in weights.items() if host.is_adapted(name)}
        load_strictly(host, trained, {name: value for name, value in weights.items() if name not in trained})
        return Converted(host, head.model_dump(), _description(checkpoint, known, head.out_dim, given))


def _description(checkpoint: Checkpoint, known: Known, outputs: int, given: Mapping[str, Any]) -> Description:
    labels = ("negative", "positive") if outputs == 1 else tuple(f"class_{number}" for number in range(outputs))
    return Description(
        task=known.get("task", "sentiment" if outputs == 1 else "emotion"),
        labels=tuple(known.get("labels", labels)),
        preprocessing=known.get("preprocessing", {}),
        provenance=provenance(checkpoint, given),
    )


plugin = WanderLateFusion
