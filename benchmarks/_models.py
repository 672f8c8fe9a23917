"""Models with random weights from a seed: published sizes, adapters in which nothing is zero; and their checkpoints.

What only one family needs (transformers, tokenizers) is imported when that family is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch

from wander.adapters.multiway import MultiWayConfig
from wander.adapters.wander import Wander, WanderConfig
from wander.backbones import Host
from wander.backbones.base import HeadConfig
from wander.backbones.beit3 import BEiT3, BEiT3Config
from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead

SEED = 0
ZOO = Path(__file__).resolve().parents[1] / "zoo"


def bert_vit(adapted: bool = True) -> Host:
    """BERT-base and ViT-base/16 at 224, two fusion layers, 101 classes; Wander with d = 64, R_h = 8, R_t = 12."""
    from wander.backbones._pretrained import BertSizes, VitSizes
    from wander.backbones.bert_vit import BertViT, BertViTConfig, BertViTHead

    config = BertViTConfig(
        embed_dim=768,
        vit=VitSizes(layers=12, heads=12, intermediate=3072),
        bert=BertSizes(layers=12, heads=12, intermediate=3072, vocab=30522),
    )
    adapter = WanderConfig(embed_dim=768, lengths=config.lengths, down_dim=64, tokens=64) if adapted else None
    torch.manual_seed(SEED)
    return ready(BertViT.build(config, adapter, BertViTHead(out_dim=101)))


def late_fusion(adapted: bool = True) -> Host:
    """The released size on CMU-MOSI: three encoders of 32 layers, E = 40, 50 tokens each; Wander with d = 16."""
    config = LateFusionConfig(
        modalities=("text", "audio", "vision"),
        feature_dims=(768, 5, 20),
        lengths=(50, 50, 50),
        embed_dim=40,
        num_heads=8,
        encoder_layers=32,
    )
    adapter = WanderConfig(embed_dim=40, lengths=config.lengths, down_dim=16, tokens=16, rank_h=8, rank_t=12)
    torch.manual_seed(SEED)
    return ready(LateFusion.build(config, adapter if adapted else None, LateFusionHead(out_dim=1)))


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
    "late_fusion": late_fusion,
    "bert_vit": bert_vit,
    "beit3_base": beit3_base,
    "beit3_large": beit3_large,
}


def named(name: str) -> Host:
    """One of `MODELS`, adapted, or a shipped one by the name of its folder."""
    if name in MODELS:
        return MODELS[name](True)
    from wander.checkpoints import folder

    return folder.load(ZOO / name / "adapter", ZOO / name / "backbone").host


def write_checkpoint(host: Host, out: Path) -> None:
    """The model as our folders, with a made-up tokenizer, so that the real command can export it."""
    from wander.backbones.bert_vit import BertViT
    from wander.checkpoints import folder
    from wander.tasks._texts import bert_tokenizer_json

    if isinstance(host, BertViT):
        config, classes = host.config, host.out_layer.out_features
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words += [f"word{number}" for number in range(min(config.bert.vocab, 1000) - len(words))]
        side = config.vit.image_size
        about = folder.Description(
            task="food",
            labels=tuple(f"class_{number}" for number in range(classes)),
            preprocessing={
                "image": {"size": [side, side]},
                "text": {"kind": "bert", "max_length": config.text_length},
            },
            provenance={"weights": "random"},
        )
        assets = {"tokenizer.json": bert_tokenizer_json("\n".join(words) + "\n", lower_case=True).encode()}
        folder.save(host, {"out_dim": classes}, about, out, "random", assets)
        return
    assert isinstance(host, BEiT3)
    side, halves = host.config.image_size, [0.5] * 3
    about = folder.Description(
        task="image_text",
        preprocessing={
            "image": {"size": [side, side], "resample": "bicubic", "mean": halves, "std": halves},
            "text": {"kind": "beit3", "max_length": min(64, host.config.text_positions - 2), "pad": False},
        },
        provenance={"weights": "random"},
    )
    folder.save(host, {}, about, out, "random", {"beit3.spm": _sentences()})


def _sentences() -> bytes:
    """A sentencepiece model of made-up words."""
    import sentencepiece

    model = io.BytesIO()
    sentences = (f"word{number} word{number % 7} and word{number % 13}" for number in range(2000))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=100, minloglevel=2
    )
    return model.getvalue()
