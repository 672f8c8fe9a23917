"""Food from a picture and ingredients: a small BERT + ViT host is trained first, then frozen under an adapter.

The host is fitted in closed form, for the training split is too small for gradients from scratch: a singular value
decomposition of recipes by words (`_food_text`), a dictionary of patches with a ridge regression (`_food_image`), and
the sum of both (`_food_fusion`). Then it is frozen, and the adapter and the head, which starts from the host's, learn
by gradient on fused tokens. The baseline (`head_only`) is the head alone, from the same start and by the same schedule.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wander.adapters.wander import Wander, WanderConfig
from wander.backbones._pretrained import BertSizes, VitSizes
from wander.backbones.bert_vit import BertViT, BertViTConfig, BertViTHead
from wander.checkpoints.folder import Description
from wander.errors import ConfigError
from wander.tasks import tasks
from wander.tasks._images import small_png
from wander.tasks.base import Item
from wander.training.loop import Examples, Schedule, fit, predict, reproducible
from wander.training.recipes._food_corpus import END, FoodCorpus, crops, shrunk
from wander.training.recipes._food_fusion import start_fusion_, start_head_
from wander.training.recipes._food_image import Dictionary, start_image_
from wander.training.recipes._food_text import start_text_
from wander.training.recipes.base import Notify, Recipe, RecipeSettings, Trained, checked, provenance

TASK = "food"
WIDTH, TEXT_WIDTH = 128, 96
"""Of a token, and of the part of it that the text has; the picture has the rest."""

HEADS = 4
MOST_CLASSES = 10
"""What the features of a picture have room for."""

EXAMPLE_WORDS = 12


class AdapterSchedule(Schedule):
    """The head starts from that of the host, so that the rate is low."""

    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    patience: int = Field(default=4, ge=1)


class FoodSettings(RecipeSettings):
    """Attributes:
    image_size, patch_size: of the ViT; centroids is the width of its feed-forward, filters times offsets.
    text_length: L, tokens of a text.
    least: recipes that must have a word for it to be in the vocabulary.
    views: crops of every training picture, beside the whole one.
    area: least share of a picture that a crop keeps.
    pairs: pairs of a picture and a text that fusion, adapter and head see.
    kept: share of the words that those texts keep.
    absent: share of the pairs that lack the picture, and as many lack the text.
    penalty: of the ridge regression of classes on texts.
    down_dim, rank_h, rank_t, start_scale: of the adapter, as for `sentiment`.
    label_share: of the label in what adapter and head are to answer; the rest is the host's own answer. Labels alone
        make them trust the texts, which the host knows too well in its training data.
    """

    image_size: int = Field(default=64, ge=16)
    patch_size: int = Field(default=8, ge=4)
    centroids: int = Field(default=1024, ge=4)
    text_length: int = Field(default=96, ge=4)
    least: int = Field(default=2, ge=1)
    views: int = Field(default=2, ge=1)
    area: float = Field(default=0.6, gt=0, le=1)
    dictionary: Dictionary = Dictionary()
    pairs: int = Field(default=2000, ge=1)
    kept: float = Field(default=0.6, gt=0, le=1)
    absent: float = Field(default=0.15, ge=0, lt=0.5)
    penalty: float = Field(default=3.0, gt=0)
    down_dim: int = 16
    rank_h: int = 8
    rank_t: int = 12
    start_scale: float = Field(default=0.1, ge=0)
    label_share: float = Field(default=0.3, ge=0, le=1)
    adapter: AdapterSchedule = AdapterSchedule()


class Food(Recipe):
    """`train_host`, then `train_adapted`."""

    summary: ClassVar[str] = "Wander over a frozen BERT + ViT host, on food pictures with ingredients"
    Settings: ClassVar[type[RecipeSettings]] = FoodSettings

    def train(
        self,
        folder: Path,
        settings: RecipeSettings,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        assert isinstance(settings, FoodSettings)
        corpus = FoodCorpus(folder, settings.image_size, settings.text_length, settings.least)
        if len(corpus.labels) > MOST_CLASSES:
            raise ConfigError(
                f"{len(corpus.labels)} classes are more than the {MOST_CLASSES} that the host has room for"
            )
        host, host_report = train_host(corpus, settings, seed, notify)
        adapted, report = train_adapted(corpus, settings, host, seed, notify, head_only=head_only)
        about = Description(
            task=TASK,
            labels=corpus.labels,
            preprocessing=corpus.preprocessing(),
            provenance=provenance(
                TASK,
                settings,
                seed,
                trained="head" if head_only else "adapter and head",
                data=corpus.source,
                selection=f"lowest cross-entropy on the {len(corpus.valid)} pairs of the validation split",
                host=host_report,
                **report,
            ),
        )
        head = BertViTHead(out_dim=len(corpus.labels)).model_dump()
        return Trained(adapted, head, about, f"bert_vit-food-seed{seed}", example(corpus, seed), corpus.assets)


def train_host(corpus: FoodCorpus, settings: FoodSettings, seed: int, notify: Notify) -> tuple[BertViT, dict[str, Any]]:
    """The host with its own head, and how that went. Its steps are told as epochs, with the last loss alone."""
    steps = 4
    with reproducible(seed, 0):
        host = fresh_host(corpus, settings, None)
        start_text_(host.text_encoder, corpus.texts, TEXT_WIDTH)
        notify("host", 1, steps, math.nan)
        views = [shrunk(corpus.images), *(crops(corpus.images, settings.area) for _ in range(settings.views))]
        labels = corpus.image_labels.repeat(len(views))
        start_image_(host.vision_encoder, torch.cat(views), labels, len(corpus.labels), TEXT_WIDTH, settings.dictionary)
        notify("host", 2, steps, math.nan)
        pairs = corpus.pairs(settings.pairs, settings.area, settings.kept, settings.absent)
        start_fusion_(host, pairs, TEXT_WIDTH)
        train, valid = (fused(host, part) for part in (pairs, corpus.valid))
        notify("host", 3, steps, math.nan)
        named = pairs.inputs[1][:, 1] != END
        shares = start_head_(host, train, named, valid, TEXT_WIDTH, settings.penalty)
        notify("host", steps, steps, shares["loss"])
    report = {"recipes": len(corpus.texts), "pictures": len(corpus.images), "shares": shares}
    return host, {**report, "valid": metrics(host, corpus.valid)}


def train_adapted(
    corpus: FoodCorpus,
    settings: FoodSettings,
    host: BertViT,
    seed: int,
    notify: Notify,
    *,
    head_only: bool = False,
) -> tuple[BertViT, dict[str, Any]]:
    """A head that starts from that of `host`, and unless `head_only` an adapter, over its frozen towers and fusion.

    `host` itself is not changed.
    """
    with reproducible(seed, 1):
        adapted = fresh_host(corpus, settings, None if head_only else adapter_config(settings, host.config))
        if isinstance(adapted.adapter, Wander):
            adapted.adapter.start_training_(settings.start_scale)
        adapted.load_state_dict(host.state_dict(), strict=False)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(adapted.is_adapted(name))
        pairs = corpus.pairs(settings.pairs, settings.area, settings.kept, settings.absent)
        # The frozen part is run once for every pair, not once an epoch.
        train, valid = (fused(adapted, part) for part in (pairs, corpus.valid))
        told = lambda epoch, loss: notify("adapter", epoch, settings.adapter.epochs, loss)  # noqa: E731
        train = Examples(train.inputs, taught(host, train, settings.label_share))
        kept = fit(Upper(adapted), train, valid, F.cross_entropy, settings.adapter, told)
    return adapted, {
        "pairs": len(train),
        "epoch": kept.epoch,
        "loss": round(kept.loss, 4),
        "valid": metrics(adapted, corpus.valid),
    }


class Upper(nn.Module):
    """Adapter and head of a host, as a model of fused tokens."""

    def __init__(self, host: BertViT) -> None:
        super().__init__()
        self.host = host

    def forward(self, *tokens: Tensor) -> Tensor:
        return self.host.logits(list(tokens))


@torch.no_grad()
def fused(host: BertViT, examples: Examples, chunk: int = 50) -> Examples:
    """The same examples as fused tokens of image and text."""
    host.eval()
    parts = [host.fused(*host.hidden(*examples.rows(rows).inputs)) for rows in torch.arange(len(examples)).split(chunk)]
    return Examples(tuple(torch.cat(part) for part in zip(*parts, strict=True)), examples.targets)


@torch.no_grad()
def taught(host: BertViT, tokens: Examples, label_share: float) -> Tensor:
    """Probabilities (N, C): of the label so much, and the rest what the host with its own head answers."""
    answers = torch.softmax(host.logits(list(tokens.inputs)), 1)
    return (1 - label_share) * answers + label_share * F.one_hot(tokens.targets, answers.shape[1])


def fresh_host(corpus: FoodCorpus, settings: FoodSettings, adapter: WanderConfig | None) -> BertViT:
    """Raises ConfigError for sizes that cannot be."""
    config = checked(
        BertViTConfig,
        embed_dim=WIDTH,
        vit=checked(
            VitSizes,
            layers=2,
            heads=HEADS,
            intermediate=settings.centroids,
            image_size=settings.image_size,
            patch_size=settings.patch_size,
        ),
        bert=checked(
            BertSizes,
            layers=1,
            heads=HEADS,
            intermediate=WIDTH,
            vocab=corpus.words,
            max_positions=settings.text_length,
        ),
        text_length=settings.text_length,
        fusion_heads=HEADS,
    )
    return BertViT.build(config, adapter, BertViTHead(out_dim=len(corpus.labels)))


def adapter_config(settings: FoodSettings, host: BertViTConfig) -> WanderConfig:
    """Raises ConfigError for sizes that cannot be."""
    return checked(
        WanderConfig,
        embed_dim=WIDTH,
        lengths=host.lengths,
        down_dim=settings.down_dim,
        tokens=settings.down_dim,
        rank_h=settings.rank_h,
        rank_t=settings.rank_t,
    )


def metrics(host: BertViT, examples: Examples) -> dict[str, float]:
    """The task's metrics, to four decimals."""
    outputs = {tasks.get(TASK).output: predict(host, examples, 50).numpy()}
    found = tasks.get(TASK).metrics(outputs, examples.targets.numpy())
    return {name: round(value, 4) for name, value in found.items()}


def example(corpus: FoodCorpus, seed: int) -> Item:
    """Noise of the colours of the training pictures, and random words of the vocabulary; no item of the data set."""
    rng = np.random.default_rng(seed)
    spread = corpus.images.std((0, 2, 3)).numpy()[:, None, None]
    pixels = (rng.standard_normal((3, 32, 32)) * spread).astype(np.float32)
    words = rng.choice(corpus.vocabulary, EXAMPLE_WORDS).tolist()
    return {"image": small_png(pixels, corpus.image), "text": ", ".join(words)}


plugin = Food
