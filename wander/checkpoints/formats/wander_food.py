"""The food host of the Wander authors (ViT, BERT, fusion encoder), with its adapter or without one.

With an adapter the host's names begin with `basemodel.`. ViT's names are those of the transformers package that wrote
the file: of version 4, or those of version 5 that our host has.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from wander.backbones._pretrained import BertSizes, TowerSizes, VitSizes
from wander.backbones.bert_vit import BertViT, BertViTConfig, BertViTHead
from wander.checkpoints.folder import Description, load_strictly
from wander.checkpoints.formats.base import Converted, Format, Known, count, provenance
from wander.checkpoints.formats.wander_adapter import PREFIX, wander_config
from wander.checkpoints.reader import Checkpoint, module_attributes
from wander.errors import CheckpointError

BASE = "basemodel."
TOWERS: dict[str, type[TowerSizes]] = {"vit": VitSizes, "bert": BertSizes}
EPS = "layer_norm_eps"
IGNORED = re.compile(
    r"fusion\.(version|embed_positions\._float_tensor)$"  # hold nothing, and may be NaN
    r"|(vision|text)_encoder\.pooler\.dense\.(weight|bias)$"  # read by nothing in this host
    r"|text_encoder\.embeddings\.position_ids$"  # 0, 1, 2, ..: stored by early releases of version 4
)
OLD_LAYER = re.compile(r"vision_encoder\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)$")
NEW_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
"""Parts of a ViT layer, as transformers 4 and 5 call them."""
CLS_TOKEN = "vision_encoder.embeddings.cls_token"
PATCHES = "vision_encoder.embeddings.patch_embeddings.projection.weight"
POSITIONS = "vision_encoder.embeddings.position_embeddings"
WORDS = "text_encoder.embeddings.word_embeddings.weight"
SIGNS = {CLS_TOKEN, PATCHES, POSITIONS, WORDS, "fusion.layer_norm.weight", "proj1.weight", "out_layer.weight"}
REMEMBERED = (
    ("vit.heads", "vision_encoder.layers.0.attention", "num_attention_heads"),
    ("vit.heads", "vision_encoder.encoder.layer.0.attention.attention", "num_attention_heads"),
    ("vit.layer_norm_eps", "vision_encoder.layernorm", "eps"),
    ("bert.heads", "text_encoder.encoder.layer.0.attention.self", "num_attention_heads"),
    ("bert.layer_norm_eps", "text_encoder.embeddings.LayerNorm", "eps"),
    ("fusion_heads", "fusion.layers.0.self_attn", "num_heads"),
)
"""What no shape tells: our name, and the part of a whole pickled module that remembers it, under which name."""


class WanderFood(Format):
    """A plain state dict does not tell the heads; a host without an adapter does not tell `lengths` either.

    In the configuration the sizes of the towers stand under `vit` and `bert`. The activation of the head is
    `head_activation`, ReLU if not given, or without an adapter `base_head_activation`, GELU if not given. No checkpoint
    tells `attention_layout`: it is `normal` unless the configuration says `released_b1`.
    """

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        return {name.removeprefix(BASE) for name in names} >= SIGNS

    @classmethod
    def convert(cls, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Converted:
        weights = {renamed(name.removeprefix(BASE)): value for name, value in tensors.items()}
        weights = {name: value for name, value in weights.items() if not IGNORED.match(name)}
        adapted = {name.removeprefix(PREFIX): v for name, v in weights.items() if name.startswith(PREFIX)}
        adapter = wander_config(adapted, given) if adapted else None
        facts = sizes(weights) | remembered(module_attributes(checkpoint))
        if adapter is not None:
            facts["lengths"] = list(adapter.lengths)
        known = Known(flat(given), facts)
        config = host_config(known)
        key, usual = ("base_head_activation", "gelu") if adapter is None else ("head_activation", "relu")
        head = BertViTHead(out_dim=known["out_dim"], activation=known.get(key, usual))
        host = BertViT.build(config, adapter, head)
        trained = {name: value for name, value in weights.items() if host.is_adapted(name)}
        load_strictly(host, trained, {name: value for name, value in weights.items() if name not in trained})
        about = Description(
            task=known.get("task", "food"),
            labels=tuple(known.get("labels", (f"class_{number}" for number in range(head.out_dim)))),
            preprocessing=known.get("preprocessing", {}),
            provenance=provenance(checkpoint, given),
        )
        return Converted(host, head.model_dump(), about)


def renamed(name: str) -> str:
    """The name in our host of a tensor of the authors' host."""
    old = OLD_LAYER.match(name)
    if old is None or old[2] not in NEW_NAMES:
        return name
    return f"vision_encoder.layers.{old[1]}.{NEW_NAMES[old[2]]}.{old[3]}"


def sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes tell, by the names of the configuration. Raises CheckpointError if the image is no square."""
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    match shapes[PATCHES], shapes[POSITIONS]:
        case [_, _, patch, other], [_, tokens, _] if (
            patch == other and tokens > 1 and isqrt(tokens - 1) ** 2 == tokens - 1
        ):
            side = patch * isqrt(tokens - 1)
        case kernel, positions:
            raise CheckpointError(f"patches {kernel} and positions {positions} are not those of a square image")
    rows = {
        "embed_dim": CLS_TOKEN,
        "vit.intermediate": "vision_encoder.layers.0.mlp.fc1.weight",
        "bert.intermediate": "text_encoder.encoder.layer.0.intermediate.dense.weight",
        "bert.vocab": WORDS,
        "bert.max_positions": "text_encoder.embeddings.position_embeddings.weight",
        "bert.type_vocab": "text_encoder.embeddings.token_type_embeddings.weight",
        "out_dim": "out_layer.weight",
    }
    return {
        "vit.layers": count(weights, "vision_encoder.layers.{}.mlp.fc1.weight"),
        "vit.patch_size": patch,
        "vit.image_size": side,
        "bert.layers": count(weights, "text_encoder.encoder.layer.{}.intermediate.dense.weight"),
        "fusion_layers": count(weights, "fusion.layers.{}.fc1.weight"),
        **{ours: shapes[name][-1 if ours == "embed_dim" else 0] for ours, name in rows.items() if shapes.get(name)},
    }


def remembered(attributes: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    """What the parts of a whole pickled module tell beyond the shapes; nothing for a state dict."""
    base = BASE if BASE.rstrip(".") in attributes else ""
    return {
        ours: attributes[base + path][theirs]
        for ours, path, theirs in REMEMBERED
        if theirs in attributes.get(base + path, {})
    }


def flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """`{"vit": {"heads": 12}}` as `{"vit.heads": 12}`, the rest as it is. Raises CheckpointError for `{"vit": 12}`."""
    found = {name: value for name, value in given.items() if name not in TOWERS}
    for tower in TOWERS:
        values = given.get(tower, {})
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{tower} must be an object of sizes, not {values!r}")
        found |= {f"{tower}.{name}": value for name, value in values.items()}
    return found


def host_config(known: Known) -> BertViTConfig:
    """Raises CheckpointError that names what is unknown, or lengths that the image does not have."""
    lengths = known["lengths"]
    towers = {
        tower: {name: known[f"{tower}.{name}"] for name in kind.model_fields if name != EPS}
        | {EPS: known.get(f"{tower}.{EPS}", kind.model_fields[EPS].default)}
        for tower, kind in TOWERS.items()
    }
    config = BertViTConfig.model_validate(
        {
            **towers,
            **{name: known[name] for name in ("embed_dim", "fusion_heads", "fusion_layers")},
            "text_length": lengths[-1] if isinstance(lengths, list | tuple) and lengths else lengths,
            "attention_layout": known.get("attention_layout", "normal"),
        }
    )
    if list(config.lengths) != lengths:
        raise CheckpointError(f"lengths {lengths} do not fit: an image has {config.vit.tokens} tokens")
    return config


plugin = WanderFood
