"""The full-size models, with random weights from a seed: published sizes, adapters in which nothing is zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

from wander.adapters.multiway import MultiWayConfig
from wander.adapters.wander import Wander, WanderConfig
from wander.backbones import Host
from wander.backbones._pretrained import BertSizes, VitSizes
from wander.backbones.base import HeadConfig
from wander.backbones.beit3 import BEiT3, BEiT3Config
from wander.backbones.bert_vit import BertViT, BertViTConfig, BertViTHead

SEED = 0


def bert_vit(adapted: bool = True) -> Host:
    """BERT-base and ViT-base/16 at 224, two fusion layers, 101 classes; Wander with d = 64, R_h = 8, R_t = 12."""
    config = BertViTConfig(
        embed_dim=768,
        vit=VitSizes(layers=12, heads=12, intermediate=3072),
        bert=BertSizes(layers=12, heads=12, intermediate=3072, vocab=30522),
    )
    adapter = WanderConfig(embed_dim=768, lengths=config.lengths, down_dim=64, tokens=64) if adapted else None
    torch.manual_seed(SEED)
    return ready(BertViT.build(config, adapter, BertViTHead(out_dim=101)))


def beit3_base(adapted: bool = True) -> Host:
    """BEiT-3 base at 224 with extractors of 64 in both passes and an enhancer of 256."""
    return _beit3("base", adapted)


def beit3_large(adapted: bool = True) -> Host:
    """BEiT-3 large at 224, adapted alike."""
    return _beit3("large", adapted)


def _beit3(size: str, adapted: bool) -> Host:
    config = BEiT3Config.published("large" if size == "large" else "base")
    adapter = MultiWayConfig(
        embed_dim=config.embed_dim, layers=config.layers, extractor_width=64, enhancer_width=256, scalar=0.6
    )
    torch.manual_seed(SEED)
    return ready(BEiT3.build(config, adapter if adapted else None, HeadConfig()))


@torch.no_grad()
def ready(host: Host) -> Host:
    """Zero weights, as adapters begin with, would let a wrong fold or a bypass pass."""
    module = host.adapter_module
    if isinstance(module, Wander):
        module.start_training_()
        module.factor_t_list[-1].normal_(std=0.1)
    elif module is not None:
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return host.eval().requires_grad_(False)


MODELS: dict[str, Callable[[bool], Host]] = {
    "bert_vit": bert_vit,
    "beit3_base": beit3_base,
    "beit3_large": beit3_large,
}
