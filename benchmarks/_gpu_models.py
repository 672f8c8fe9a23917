"""The models of `gpu_bench`: at published sizes, and the smallest of each family; all with random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks._models import MODELS, SEED, ready
from wander.backbones import Host, hosts

EXPERTS = {
    "face": (512, 3),
    "ocr": (300, 7),
    "rgb": (2048, 5),
    "s3d": (1024, 1),
    "scene": (2208, 9),
    "speech": (300, 6),
    "vggish": (128, 2),
}
"""Width of the features, and type, of every expert of the published model."""


def mmt(adapted: bool = True) -> Host:
    """Seven experts of 30 tokens, E = 512, four layers, BERT-base for texts; Wander over the experts."""
    from wander.adapters.wander import WanderConfig
    from wander.backbones._pretrained import BertSizes
    from wander.backbones.mmt import MMT, MMTConfig, MMTHead

    config = MMTConfig(
        experts=tuple(EXPERTS),
        feature_dims=tuple(width for width, _ in EXPERTS.values()),
        token_types=tuple(kind for _, kind in EXPERTS.values()),
        text=BertSizes(layers=12, heads=12, intermediate=3072, vocab=30522),
        text_width=768,
    )
    adapter = WanderConfig(
        embed_dim=512, lengths=config.lengths, down_dim=16, tokens=config.tokens, rank_h=8, rank_t=12, residual=False
    )
    torch.manual_seed(SEED)
    return ready(MMT.build(config, adapter if adapted else None, MMTHead()))


GPU_MODELS: dict[str, Callable[[bool], Host]] = {
    "late_fusion": MODELS["late_fusion"],
    "bert_vit": MODELS["bert_vit"],
    "mmt": mmt,
    "beit3_base": MODELS["beit3_base"],
    "beit3_large": MODELS["beit3_large"],
}


def _smallest(family: str) -> Callable[[bool], Host]:
    def build(adapted: bool = True) -> Host:
        kind = hosts.get(family)
        config, adapter, head = kind.example()
        torch.manual_seed(SEED)
        return ready(kind.build(config, adapter if adapted else None, head))

    return build


SMALL = {
    "late_fusion": _smallest("late_fusion"),
    "bert_vit": _smallest("bert_vit"),
    "mmt": _smallest("mmt"),
    "beit3_base": _smallest("beit3"),
    "beit3_large": _smallest("beit3"),
}
"""Under the same names."""
