"""A data set of the Flickr8k layout: plain coloured pictures with captions that name the colour. And a tiny host."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from PIL import Image

from wander.adapters.multiway import MultiWayConfig
from wander.backbones.base import HeadConfig
from wander.backbones.beit3 import BEiT3, BEiT3Config
from wander.checkpoints.folder import Description

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 230), "white": (250, 250, 250)}
OWN = 2
"""Captions of an image."""


def write_captioned(folder: Path, splits: dict[str, int]) -> Path:
    """So many images a split, in turn of each colour, with a little noise."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = []
    for split, count in splits.items():
        for number in range(count):
            colour = list(COLOURS)[number % len(COLOURS)]
            pixels = np.clip(np.array(COLOURS[colour]) + rng.integers(-25, 25, (20, 24, 3)), 0, 255)
            name = f"{split}{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / name)
            captions = (
                f"A {colour} wall {number} .",
                f"Somebody has painted all of it {colour} {number} times and left .",
            )
            lines += [[name, i, split, 24, 20, caption] for i, caption in enumerate(captions)]
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "caption_index", "split", "width", "height", "caption"], *lines])
    return folder


def text_assets(folder: Path) -> dict[str, bytes]:
    """A SentencePiece model of the captions of a data set."""
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions), model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    return {"tiny.spm": model.getvalue()}


def host() -> tuple[BEiT3, Description]:
    """Random weights; pictures of 8 x 8."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "num_heads": 2, "layers": 1, "ffn_dim": 12, "image_size": 8, "patch_size": 4}
    config = BEiT3Config.model_validate({**sizes, "vocab_size": 60, "text_positions": 64})
    adapter = MultiWayConfig(embed_dim=8, layers=1, extractor_width=3, enhancer_width=8)
    about = Description(
        task="image_text",
        preprocessing={
            "image": {"size": [8, 8]},
            "text": {"kind": "beit3", "file": "tiny.spm", "max_length": 60, "pad": False},
        },
    )
    return BEiT3.build(config, adapter, HeadConfig()).eval(), about
