"""Text-video retrieval by the protocol of the Wander paper: an MMT host is trained, then frozen under the adapter.

A proxy: MSR-VTT's features are not at hand, captions stand in for them (`wander.training.datasets.msrvtt`). So the
sizes are small, and BERT is trained from nothing, like the rest. The host learns on part of the training videos,
starting from features and words that are aligned by least squares; then it is frozen, and Wander and the experts'
weights learn on all of them. The baseline (`head_only`) is the experts' weights alone, over the same host and by the
same schedule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from wander.adapters.wander import Readout, Wander, WanderConfig
from wander.backbones._mmt_sizes import PUBLISHED, MMTConfig, MMTHead
from wander.backbones._pretrained import BertSizes
from wander.backbones.mmt import MMT
from wander.checkpoints.folder import Description
from wander.tasks._experts import Experts
from wander.tasks._retrieval import both_ways
from wander.tasks.base import Item
from wander.training.datasets.msrvtt import Video
from wander.training.loop import Examples, Schedule, fit, predict, reproducible
from wander.training.recipes._frozen_mmt import Adapted, contrastive, frozen
from wander.training.recipes._stand_in_alignment import align_, start_words_
from wander.training.recipes._stand_in_corpus import TOKENIZER, Captions, Corpus, Watching
from wander.training.recipes.base import Notify, Recipe, RecipeSettings, Trained, checked, provenance, told

TASK = "text_video"
HEAD = MMTHead()
UNKNOWN_ONLY = 2
"""Positions: captions have no times, so every row is at position 1, "unknown", and the summaries at 0, "none"."""
TYPES = 10
EXAMPLE = "a man is playing a guitar on a stage"


class HostSchedule(Schedule):
    """The released run has batches of 32, Adam at 5e-5 from published BERT weights, 50 epochs."""

    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=192, ge=2)
    learning_rate: float = Field(default=5e-4, gt=0)
    clip: float = Field(default=1.0, gt=0)
    patience: int = Field(default=2, ge=1)
    plateau_patience: int = Field(default=0, ge=0)
    plateau_factor: float = Field(default=0.3, gt=0, lt=1)


class AdapterSchedule(HostSchedule):
    """Of adapter and experts' weights."""

    epochs: int = Field(default=20, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)


class TextVideoSettings(RecipeSettings):
    """Attributes:

    tokens: T, rows of an expert. A test video has 19 captions for about six experts.
    most_words: of a text that are read.
    embed_dim, num_heads, layers, ffn_dim: of the video transformer.
    text_width, text_layers, text_ffn_dim: of the text side.
    aligned: captions on which features and words are aligned before training, and `ridge`, how stiffly.
    host_share: part of the training videos on which the host is trained.
    temperature: of the softmax over a batch. (The released loss is a margin, which learns slowly from nothing.)
    down_dim, rank_h, rank_t: d, R_h and R_t of the adapter, whose d_t is d as in the released code.
    readout: how the adapter is read, see `wander.backbones.mmt`.
    start_scale: see `Wander.start_even_`.
    host, adapter: how long and how fast each is trained.
    """

    tokens: int = Field(default=4, ge=1)
    most_words: int = Field(default=20, ge=1)
    embed_dim: int = 256
    num_heads: int = 4
    layers: int = 1
    ffn_dim: int = 256
    text_width: int = 256
    text_layers: int = 1
    text_ffn_dim: int = 256
    aligned: int = Field(default=12_000, ge=1)
    ridge: float = Field(default=0.1, gt=0)
    host_share: float = Field(default=0.7, gt=0, le=1)
    temperature: float = Field(default=0.05, gt=0)
    down_dim: int = 16
    rank_h: int = 8
    rank_t: int = 8
    readout: Readout = "experts"
    start_scale: float = Field(default=0.3, ge=0)
    host: HostSchedule = HostSchedule()
    adapter: AdapterSchedule = AdapterSchedule()


class TextVideo(Recipe):
    """`train_host`, then `train_adapted`. A recipe that learns so from other pairs overrides what it says of them.

    Class attributes:
        name: of the recipe.
        backbone: what its hosts are called, before the seed.
        pairs: what the validation split is counted in.
        caveat: what nobody may overlook, for provenance.
        preprocessing: what the task does beside reading the text.
    """

    summary: ClassVar[str] = "Wander over a frozen MMT, on captions of MSR-VTT that stand in for features (a proxy)"
    Settings: ClassVar[type[TextVideoSettings]] = TextVideoSettings
    name: ClassVar[str] = TASK
    backbone: ClassVar[str] = "mmt-proxy"
    pairs: ClassVar[str] = "videos"
    caveat: ClassVar[dict[str, str]] = {
        "proxy": "captions stand in for the features of the experts; no figure here is one of real videos"
    }
    preprocessing: ClassVar[dict[str, Any]] = {}

    def corpus(self, folder: Path, settings: TextVideoSettings, seed: int) -> Corpus:
        """The pairs to learn from. Raises UsageError for unfit data."""
        return Captions(folder, settings.tokens, settings.most_words)

    def train(
        self,
        folder: Path,
        settings: RecipeSettings,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        assert isinstance(settings, self.Settings)
        corpus = self.corpus(folder, settings, seed)
        host, host_report = train_host(corpus, settings, seed, notify)
        adapted, report = train_adapted(corpus, settings, host, seed, notify, head_only=head_only)
        told_ = provenance(
            self.name,
            settings,
            seed,
            trained="experts' weights" if head_only else "adapter and experts' weights",
            data=corpus.source,
            selection=f"lowest contrastive loss over the {len(corpus.valid)} {self.pairs} of the validation split",
            **self.caveat,
            host=host_report,
            **report,
        )
        about = describe(corpus, told_, **self.preprocessing)
        assets = {TOKENIZER: corpus.tokenizer}
        return Trained(adapted, HEAD.model_dump(), about, f"{self.backbone}-seed{seed}", example(adapted, seed), assets)


def describe(captions: Corpus, provenance: dict[str, Any] | None = None, **preprocessing: Any) -> Description:
    """What the trained model is for, and what its task does beside reading the text."""
    text = {
        "vocabulary": len(captions.vocabulary),
        "max_tokens": captions.text.max_length,
        "text": captions.text.model_dump(mode="json"),
        "keep_missing_modalities": True,
    }
    return Description(task=TASK, preprocessing={**text, **preprocessing}, provenance=provenance or {})


def train_host(captions: Corpus, settings: TextVideoSettings, seed: int, notify: Notify) -> tuple[MMT, dict[str, Any]]:
    """The whole host, trained on `host_share` of the training videos, and how that went."""
    with reproducible(seed, 0):
        rng = np.random.default_rng(seed)
        share = part_of(captions.train, settings.host_share, rng)
        host = MMT.build(host_config(captions, settings), None, HEAD)
        start_words_(host, captions.rarity())
        ids, numbers = captions.sample(share, settings.aligned, rng)
        align_(host, ids, {name: table[numbers].float() for name, table in captions.tables.items()}, settings.ridge)
        watching = Watching(host, captions)
        train, valid = captions.examples(share, seed), captions.examples(captions.valid, seed)
        start = metrics(watching, valid)
        loss = contrastive(settings.temperature)
        kept = fit(watching, train, valid, loss, settings.host, told(notify, "host", settings.host))
    report = {"videos": len(set(train.targets.tolist())), "pairs": len(train), "epoch": kept.epoch}
    return host, {**report, "aligned": start, "valid": metrics(watching, valid)}


def train_adapted(
    captions: Corpus,
    settings: TextVideoSettings,
    host: MMT,
    seed: int,
    notify: Notify,
    *,
    head_only: bool = False,
) -> tuple[MMT, dict[str, Any]]:
    """The experts' weights, and unless `head_only` an adapter, over the frozen `host`, which itself is not changed."""
    with reproducible(seed, 1):
        adapted = MMT.build(host.config, None if head_only else adapter_config(settings, host.config), HEAD)
        adapted.load_state_dict(host.state_dict(), strict=False)
        if isinstance(adapted.adapter, Wander):
            adapted.adapter.start_even_(settings.start_scale)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(adapted.is_adapted(name))
        watching = Watching(adapted.eval(), captions)
        train, valid = (
            frozen(watching, captions.examples(chosen, seed + 1)) for chosen in (captions.train, captions.valid)
        )
        loss = contrastive(settings.temperature)
        kept = fit(Adapted(adapted), train, valid, loss, settings.adapter, told(notify, "adapter", settings.adapter))
    valid = captions.examples(captions.valid, seed)
    return adapted.eval(), {"pairs": len(train), "epoch": kept.epoch, "valid": metrics(watching, valid)}


def metrics(watching: Watching, examples: Examples) -> dict[str, float]:
    """Retrieval in both directions among the examples' texts and videos, to four decimals.

    A video of several texts is there once, as it is with its first.
    """
    query, video = predict(watching, examples).double().chunk(2, 1)
    owners = examples.targets.numpy()
    videos, first = np.unique(owners, return_index=True)
    found = both_ways(("text", "video"), (query @ video[first].T).numpy(), (owners, videos))
    return {name: round(value, 4) for name, value in found.items()}


def part_of(chosen: list[Video], share: float, rng: np.random.Generator) -> list[Video]:
    """The pairs of `share` of the videos, drawn at random, in their order."""
    names = sorted({video.id for video in chosen})
    kept = set(rng.permutation(names)[: max(1, round(share * len(names)))].tolist())
    return [video for video in chosen if video.id in kept]


def host_config(captions: Corpus, settings: TextVideoSettings) -> MMTConfig:
    """Raises ConfigError for sizes that cannot be."""
    text = checked(
        BertSizes,
        layers=settings.text_layers,
        heads=settings.num_heads,
        intermediate=settings.text_ffn_dim,
        vocab=len(captions.vocabulary),
        max_positions=captions.text.max_length,
    )
    return checked(
        MMTConfig,
        experts=tuple(captions.widths),
        feature_dims=tuple(captions.widths.values()),
        token_types=tuple(PUBLISHED[n][1] if n in PUBLISHED else place for place, n in enumerate(captions.widths, 1)),
        embed_dim=settings.embed_dim,
        num_heads=settings.num_heads,
        layers=settings.layers,
        ffn_dim=settings.ffn_dim,
        positions=UNKNOWN_ONLY,
        type_vocab=TYPES,
        tokens=settings.tokens,
        text=text,
        text_width=settings.text_width,
    )


def adapter_config(settings: TextVideoSettings, host: MMTConfig) -> WanderConfig:
    """Raises ConfigError for sizes that cannot be."""
    return checked(
        WanderConfig,
        embed_dim=host.embed_dim,
        lengths=host.lengths,
        down_dim=settings.down_dim,
        tokens=settings.down_dim,
        rank_h=settings.rank_h,
        rank_t=settings.rank_t,
        residual=settings.readout == "first_token",
        readout=settings.readout,
    )


def example(host: MMT, seed: int) -> Item:
    """A sentence, and a video of random features; nothing of the data set."""
    config = host.config
    drawn = {name: value[0] for name, value in host.random_inputs("video", 1, np.random.default_rng(seed)).items()}
    experts = Experts(dict(zip(config.experts, config.feature_dims, strict=True)), config.tokens, config.tokens)
    return {"text": EXAMPLE, "video": experts.item(drawn, 1)}


plugin = TextVideo
