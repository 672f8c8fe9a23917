"""A tiny text-video model with random weights, which takes video files or does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wander.adapters.wander import WanderConfig
from wander.backbones._mmt_sizes import MMTConfig, MMTHead
from wander.backbones._pretrained import BertSizes
from wander.backbones.mmt import MMT
from wander.checkpoints import folder
from wander.tasks._texts import bert_tokenizer_json

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "square", "moves"]
EXTRACTORS: dict[str, dict[str, Any]] = {
    "colours": {"kind": "frame_colours"},
    "motion": {"kind": "frame_motion"},
    "sound": {"kind": "sound_logmel"},
}
WIDTHS = {"colours": 900, "motion": 144, "sound": 128}


def checkpoint(where: Path, extractors: dict[str, dict[str, Any]]) -> Path:
    """Three experts, which these extractors make."""
    torch.manual_seed(0)
    config = MMTConfig(
        experts=tuple(WIDTHS),
        feature_dims=tuple(WIDTHS.values()),
        token_types=(1, 2, 3),
        embed_dim=8,
        num_heads=2,
        layers=1,
        ffn_dim=8,
        type_vocab=4,
        tokens=4,
        text=BertSizes(layers=1, heads=2, intermediate=8, vocab=len(WORDS), max_positions=12),
        text_width=8,
    )
    sizes = WanderConfig(embed_dim=8, lengths=config.lengths, down_dim=3, tokens=3, rank_h=2, rank_t=2, residual=False)
    host = MMT.build(config, sizes, MMTHead())
    about = folder.Description(
        task="text_video",
        preprocessing={
            "vocabulary": len(WORDS),
            "max_tokens": 12,
            "text": {"kind": "bert", "max_length": 12, "pad": False, "max_words": 10, "sentence": True},
            "extractors": extractors,
        },
        provenance={"weights": "random"},
    )
    tokenizer = bert_tokenizer_json("\n".join(WORDS) + "\n", lower_case=True).encode()
    folder.save(host, {}, about, where, "random", {"tokenizer.json": tokenizer})
    return where
