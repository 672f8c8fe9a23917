"""BEiT-3 for image-text retrieval, with the MultiWay-Adapter of its authors or without: names begin with `beit3.`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from wander.adapters.multiway import MultiWayConfig
from wander.backbones.base import HeadConfig
from wander.backbones.beit3 import PUBLISHED, SPECIAL_ROWS, BEiT3, BEiT3Config, interpolate_positions
from wander.checkpoints.folder import Description, load_strictly
from wander.checkpoints.formats.base import Converted, Format, Known, count, provenance
from wander.checkpoints.reader import Checkpoint, options
from wander.errors import CheckpointError

PREFIX = "beit3."
POSITIONS = "encoder.embed_positions.A.weight"
LAYER = "encoder.layers.{}.self_attn.q_proj.A.weight"
SIZED_BY = ("text_embed.weight", "vision_embed.proj.weight", POSITIONS, "encoder.embed_positions.B.weight")
MAX_TOKENS = 64
"""Of the released command line (`num_max_bpe_tokens`), with <s> and </s>."""


class MwaBeit3(Format):
    """Sizes come from the weights, options of the adapter from `args`, which a training run stores beside them.

    Without `args` the configuration has to say `scalar` (unless it was learned), `layernorm` (if there is one) and
    `option`. It has to say `num_heads` unless width and number of layers are those of a published model (768 and 12
    have 12 heads, 1024 and 24 have 16). `image_size` there asks for another size than that of the weights: the
    positions are interpolated as the published loader does. Every tensor must be used, `mask_token` included, which
    serves pre-training only; so a pre-trained file without retrieval heads, or with a vocabulary head, is refused.
    """

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        return {PREFIX + name for name in SIZED_BY} <= set(names)

    @classmethod
    def convert(cls, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Converted:
        weights = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
        config = backbone_config(weights, given)
        if len(weights[POSITIONS]) != config.patches + SPECIAL_ROWS:
            weights[POSITIONS] = interpolate_positions(weights[POSITIONS].float(), config.patches)
        arguments = options(checkpoint)
        host = BEiT3.build(config, adapter_config(weights, arguments, given), HeadConfig())
        adapted = {name: value for name, value in weights.items() if host.is_adapted(name)}
        load_strictly(host, adapted, {name: value for name, value in weights.items() if name not in adapted})
        about = Description(
            task=given.get("task", "image_text"),
            preprocessing=given.get("preprocessing", preprocessing(config.image_size, arguments)),
            provenance=provenance(checkpoint, given),
        )
        return Converted(host, {}, about)


def preprocessing(image_size: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the released data loader does: images resized whatever their proportions, pixels to -1..1, texts cut."""
    return {
        "image": {
            "size": [image_size, image_size],
            "resample": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "text": {"kind": "beit3", "max_length": arguments.get("num_max_bpe_tokens", MAX_TOKENS)},
    }


def backbone_config(weights: Mapping[str, Tensor], given: Mapping[str, Any]) -> BEiT3Config:
    """Sizes from the weights, by their names without the prefix."""
    patch, text = weights["vision_embed.proj.weight"], weights["text_embed.weight"]
    if patch.ndim != 4 or text.ndim != 2:
        raise CheckpointError(f"vision_embed.proj has shape {list(patch.shape)}, text_embed {list(text.shape)}")
    facts = {
        "embed_dim": text.shape[1],
        "layers": count(weights, LAYER),
        "ffn_dim": rows(weights, "encoder.layers.0.ffn.A.fc1.weight"),
        "patch_size": patch.shape[2],
        "vocab_size": text.shape[0],
        "text_positions": rows(weights, "encoder.embed_positions.B.weight"),
    }
    patches = rows(weights, POSITIONS) - SPECIAL_ROWS
    grid = math.isqrt(max(patches, 0))
    if grid * grid != patches:
        raise CheckpointError(f"{POSITIONS} holds {patches} positions of patches, which make no square")
    published = {(sizes["embed_dim"], sizes["layers"]): sizes["num_heads"] for sizes in PUBLISHED.values()}
    heads = published.get((facts["embed_dim"], facts["layers"]))
    known = Known({"num_heads": heads, "image_size": grid * facts["patch_size"], **given}, facts)
    return BEiT3Config.model_validate({**facts, **{name: known[name] for name in ("num_heads", "image_size")}})


def adapter_config(
    weights: Mapping[str, Tensor], arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> MultiWayConfig | None:
    """Widths and which parts there are from the weights, the rest from the run's arguments; None without extractors."""
    first = "encoder.layers.0."
    names = [f"adaptmlp_{name}" for name in ("text", "vision") if f"{first}adaptmlp_{name}.down_proj.weight" in weights]
    if not names:
        return None
    extractor, enhancer = first + names[0], f"{first}enhancemlp"
    facts: dict[str, Any] = {
        "embed_dim": weights["text_embed.weight"].shape[1],
        "layers": count(weights, LAYER),
        "extractor_width": rows(weights, f"{extractor}.down_proj.weight"),
        "mode": "both" if len(names) == 2 else names[0].removeprefix("adaptmlp_"),
        "enhancer_width": rows(weights, f"{enhancer}.fc1.weight") if f"{enhancer}.fc1.weight" in weights else None,
        "enhancer_norm": f"{enhancer}.ffn_layernorm.weight" in weights,
    }
    if f"{extractor}.scale" in weights:
        facts["scalar"] = "learnable"
    elif "ffn_adapter_scalar" in arguments:
        facts["scalar"] = scalar(arguments["ffn_adapter_scalar"])
    if f"{extractor}.adapter_layer_norm_before.weight" not in weights:
        facts["layernorm"] = "none"
    elif "ffn_adapter_layernorm_option" in arguments:
        facts["layernorm"] = arguments["ffn_adapter_layernorm_option"]
    if "ffn_option" in arguments:
        facts["option"] = arguments["ffn_option"]
    known = Known(given, facts)
    chosen = {name: known[name] for name in ("scalar", "layernorm", "option")}
    return MultiWayConfig.model_validate({**facts, **chosen})


def scalar(value: object) -> float | str:
    """The factor as the command line takes it: a number as text, or `learnable_scalar`."""
    if value == "learnable_scalar":
        return "learnable"
    try:
        return float(str(value))
    except ValueError as error:
        raise CheckpointError(f"ffn_adapter_scalar is {value!r}, neither a number nor learnable_scalar") from error


def rows(weights: Mapping[str, Tensor], name: str) -> int:
    """Number of rows of a matrix. Raises CheckpointError if it is missing or no matrix."""
    if name not in weights or weights[name].ndim != 2:
        raise CheckpointError(f"{name} is missing, or is no matrix")
    return weights[name].shape[0]


plugin = MwaBeit3
