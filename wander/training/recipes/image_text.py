"""Image-text retrieval on captioned images: a small BEiT-3, frozen, under a MultiWay-Adapter that aligns its towers.

The backbone learns without a single pair: its vision tower to see what hand-made descriptors see, its language tower
which words go together. It is then frozen. The heads start as the ridge regression of one tower on the other. Adapter
and heads learn to tell the pairs apart, and what the descriptors tell of captions: that teacher is a ridge regression,
and is asked about pictures that have no captions too. The baseline (`head_only`) is the heads alone, by the same
schedule.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters.multiway import MultiWayConfig
from wander.backbones.base import HeadConfig
from wander.backbones.beit3 import BEiT3, BEiT3Config
from wander.checkpoints.folder import Description
from wander.tasks._retrieval import both_ways
from wander.training.loop import reproducible
from wander.training.recipes._alignment import contrast, regression, start_heads_
from wander.training.recipes._annealing import Annealing, anneal
from wander.training.recipes._captioned_corpus import (
    VOCABULARY,
    Captioned,
    CaptionedPart,
    padded,
    patchwork,
    pixels,
)
from wander.training.recipes._descriptors import Descriptors
from wander.training.recipes._towers import Told, embeddings, features, learn_to_read, learn_to_see, read_out
from wander.training.recipes.base import Notify, Recipe, RecipeSettings, Trained, checked, provenance

TASK = "image_text"


class ImageTextSettings(RecipeSettings):
    """Attributes:

    embed_dim, num_heads, layers, ffn_dim, image_size, patch_size: of the backbone.
    pieces: most pieces of the vocabulary, which is that of the training captions.
    max_length: tokens of a text.
    more_captions: a file with further captions, from the data set's folder, or null. Only the language tower uses it.
    crops: parts of a training picture, the whole one among them.
    patchworks: pictures patched together with each of these.
    described_size: side of the pictures that the descriptors see.
    entries, descriptors: of the dictionary, and size of a picture's vector; see `Descriptors`.
    extractor_width, enhancer_width: of the adapter.
    ridge: of the heads' start and of the teacher, in units of the mean square of what they read.
    teaching, taught_size: weight of the teacher's loss, and pictures of a step for which it is asked.
    passes: over the training images in one epoch of the adapter.
    vision, language, adapter: how long and how fast each is trained.
    """

    embed_dim: int = 128
    num_heads: int = 4
    layers: int = 2
    ffn_dim: int = 512
    image_size: int = 64
    patch_size: int = 8
    pieces: int = Field(default=2000, ge=8)
    max_length: int = Field(default=32, ge=3)
    more_captions: str | None = "../msrvtt/msrvtt_captions_trainval.csv"
    crops: int = Field(default=6, ge=1)
    patchworks: int = Field(default=1, ge=0)
    described_size: int = Field(default=96, ge=32, multiple_of=32)
    entries: int = Field(default=800, ge=1)
    descriptors: int = Field(default=128, ge=1)
    extractor_width: int = 64
    enhancer_width: int = 256
    ridge: float = Field(default=1.0, gt=0)
    teaching: float = Field(default=30.0, ge=0)
    taught_size: int = Field(default=96, ge=1)
    passes: int = Field(default=1, ge=1)
    vision: Annealing = Annealing(epochs=7, learning_rate=1.5e-3)
    language: Annealing = Annealing(epochs=4, weight_decay=0.02)
    adapter: Annealing = Annealing(epochs=10, learning_rate=5e-4)


class ImageText(Recipe):
    """`train_backbone`, then `train_adapted`."""

    summary: ClassVar[str] = "MultiWay-Adapter over a small frozen BEiT-3, on captioned images"
    Settings: ClassVar[type[RecipeSettings]] = ImageTextSettings

    def train(
        self,
        folder: Path,
        settings: RecipeSettings,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        assert isinstance(settings, ImageTextSettings)
        more = folder / settings.more_captions if settings.more_captions is not None else None
        corpus = Captioned(folder, settings.image_size, settings.pieces, settings.max_length, more)
        told, told_valid = described(corpus, settings, seed)
        backbone, learnt = train_backbone(corpus, told, told_valid, settings, seed, notify)
        adapted, report = train_adapted(corpus, told, settings, backbone, seed, notify, head_only=head_only)
        about = describe(corpus).model_copy(
            update={
                "provenance": provenance(
                    TASK,
                    settings,
                    seed,
                    trained="heads" if head_only else "adapter and heads",
                    data=corpus.source,
                    selection=f"highest sum of recalls on the {len(corpus.valid)} images of the validation split",
                    backbone=learnt,
                    **report,
                )
            }
        )
        identity = f"beit3-captioned-seed{seed}"
        return Trained(adapted, {}, about, identity, example(corpus, seed), {VOCABULARY: corpus.vocabulary})


def describe(corpus: Captioned) -> Description:
    """What the trained model is for; its provenance is still to be told."""
    preprocessing = {"image": corpus.image.model_dump(mode="json"), "text": corpus.text.model_dump(mode="json")}
    return Description(task=TASK, preprocessing=preprocessing)


def described(corpus: Captioned, settings: ImageTextSettings, seed: int) -> tuple[Told, Told]:
    """Training and validation pictures with their descriptors, which see them larger.

    For training these are the crops of every picture, the whole one first, and after all of them pictures that are
    patched together of two crops, for the pictures are few.
    """
    sides = (settings.image_size, settings.described_size)
    parts = [corpus.train.crops(settings.crops, side, seed) for side in sides]
    size = min(settings.descriptors, len(corpus.train))
    describe = Descriptors(parts[1][:, 0], settings.entries, size, np.random.default_rng(seed))
    crops = [part.reshape(-1, *part.shape[2:]) for part in parts]
    pictures, values = [crops[0]], [describe(crops[1])]
    for number in range(settings.patchworks):
        small, large = (patchwork(part, seed, number) for part in crops)
        pictures.append(small)
        values.append(describe(large))
    small, large = (corpus.valid.crops(1, side, seed)[:, 0] for side in sides)
    train = Told(np.concatenate(pictures), torch.from_numpy(np.concatenate(values)))
    return train, Told(small, torch.from_numpy(describe(large)))


def train_backbone(
    corpus: Captioned, told: Told, told_valid: Told, settings: ImageTextSettings, seed: int, notify: Notify
) -> tuple[BEiT3, dict[str, Any]]:
    """Both towers, each by itself, and how that went."""
    with reproducible(seed, 0):
        host = BEiT3.build(backbone_config(corpus, settings), None, HeadConfig())
        start_(host)
        with read_out(host):
            seen = learn_to_see(host, told, told_valid, settings.vision, notify)
            read = learn_to_read(host, corpus, settings.language, notify)
            # What all images have in common is taken out, for the head that will read them has no bias.
            host.encoder.layer_norm.A.bias.data -= features(host, corpus.train)["image"].mean(0)
    return host, {"images": len(corpus.train), "vision": seen, "language": read}


def train_adapted(
    corpus: Captioned,
    told: Told,
    settings: ImageTextSettings,
    backbone: BEiT3,
    seed: int,
    notify: Notify,
    *,
    head_only: bool = False,
) -> tuple[BEiT3, dict[str, Any]]:
    """New heads, and unless `head_only` an adapter, over the frozen `backbone`, and how that went.

    `backbone` itself is not changed.
    """
    train, valid = corpus.train, corpus.valid
    with reproducible(seed, 1):
        host = BEiT3.build(backbone.config, None if head_only else adapter_config(settings), HeadConfig())
        start_(host)
        if host.adapter_module is not None:
            host.adapter_module.zero_()  # it starts where the heads start; its first matrices are not zero
        host.load_state_dict(backbone.split_state()[1], strict=False)
        for name, parameter in host.named_parameters():
            parameter.requires_grad_(host.is_adapted(name))
        places = start_heads_(host, backbone.language_head.weight, train, settings.ridge)
        whole = told.values[: len(train) * settings.crops : settings.crops]
        taught = F.normalize(told.values @ regression(whole, places, settings.ridge), dim=-1)
        start = metrics(host, valid)
        best: tuple[float, int, dict[str, Tensor]] = (-1.0, 0, {})
        rng = np.random.default_rng(seed)
        own = [np.flatnonzero(train.owners == image) for image in range(len(train))]

        def batches() -> list[Tensor]:
            host.train()
            rows = [torch.randperm(len(train)).split(settings.adapter.batch_size) for _ in range(settings.passes)]
            return [batch for split in rows for batch in split if len(batch) > 1]

        def loss(rows: Tensor) -> Tensor:
            numbers = rows.numpy() * settings.crops + rng.integers(settings.crops, size=len(rows))
            texts = padded([train.captions[rng.choice(own[row])] for row in rows.tolist()])
            pairs = contrast(host, host.image(pixels(told.pictures[numbers])), host.text(*texts))
            others = torch.randint(len(taught), (settings.taught_size,))
            images = host.image(pixels(told.pictures[others.numpy()]))
            return pairs + settings.teaching * (1 - (images * taught[others]).sum(1).mean())

        def keep(epoch: int) -> None:
            nonlocal best
            host.eval()
            found = metrics(host, valid)
            reached = recall_sum(found)
            if reached > best[0]:
                best = (reached, epoch, {name: value.clone() for name, value in host.split_state()[0].items()})
            notify("adapter", epoch, settings.adapter.epochs, -reached)

        with read_out(host):
            anneal([p for p in host.parameters() if p.requires_grad], batches, loss, settings.adapter, keep)
        host.load_state_dict(best[2], strict=False)
        host.eval()
    return host, {"epoch": best[1], "start": start, "valid": metrics(host, valid)}


def metrics(host: BEiT3, part: CaptionedPart) -> dict[str, float]:
    """The task's metrics, to four decimals."""
    vectors = embeddings(host, part)
    text, image = (vectors[side].numpy().astype(np.float64) for side in ("text", "image"))
    found = both_ways(("text", "image"), text @ image.T, (part.owners, np.arange(len(part))))
    return {name: round(value, 4) for name, value in found.items()}


def recall_sum(found: dict[str, float]) -> float:
    """R@1, R@5 and R@10 of both directions together, by which retrieval models are commonly chosen."""
    return sum(value for name, value in found.items() if name.rpartition(".")[2] in ("r1", "r5", "r10"))


def start_(host: BEiT3) -> None:
    """Embeddings and matrices as BERT and BEiT begin, matrices a little wider, for they are small."""
    for name, parameter in host.named_parameters():
        if "embed_positions" in name or "token" in name:
            nn.init.normal_(parameter, std=0.02)
        elif parameter.dim() == 2:
            nn.init.trunc_normal_(parameter, std=0.05)


def backbone_config(corpus: Captioned, settings: ImageTextSettings) -> BEiT3Config:
    """Raises ConfigError for sizes that cannot be."""
    return checked(
        BEiT3Config,
        embed_dim=settings.embed_dim,
        num_heads=settings.num_heads,
        layers=settings.layers,
        ffn_dim=settings.ffn_dim,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        vocab_size=corpus.tokens,
        text_positions=settings.max_length + 2,
    )


def adapter_config(settings: ImageTextSettings) -> MultiWayConfig:
    """Raises ConfigError for sizes that cannot be."""
    return checked(
        MultiWayConfig,
        embed_dim=settings.embed_dim,
        layers=settings.layers,
        extractor_width=settings.extractor_width,
        scalar=1.0,
        enhancer_width=settings.enhancer_width,
    )


def example(corpus: Captioned, seed: int) -> dict[str, Any]:
    """A picture of random colours and a sentence; none of the data set."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells).resize(corpus.image.size).save(file, "PNG")
    return {"image": base64.b64encode(file.getvalue()).decode(), "text": "a dog runs through the snow"}


plugin = ImageText
