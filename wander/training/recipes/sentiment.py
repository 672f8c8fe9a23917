"""Sentiment on CMU-MOSI, by the protocol of the Wander paper: a host is trained first, then frozen under an adapter.

The late-fusion host with a head of its own learns on half of the training videos. Then its encoders are frozen, and the
adapter and a new head learn on all of them. The baseline (`head_only`) is a new head alone, over the same frozen host
and by the same schedule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional as F

from wander.adapters.wander import Wander, WanderConfig
from wander.backbones.late_fusion import LateFusion, LateFusionConfig, LateFusionHead
from wander.checkpoints.folder import Description
from wander.tasks import tasks
from wander.tasks.base import Item
from wander.training.loop import Examples, Schedule, fit, predict, reproducible
from wander.training.recipes._corpus import Corpus
from wander.training.recipes.base import Notify, Recipe, RecipeSettings, Trained, checked, provenance, told

TASK = "sentiment"
LABELS = ("negative", "positive")
HEAD = LateFusionHead(out_dim=1)
MAY_BE_MISSING = ("audio", "vision")
"""They become sequences of training means. Without text this model knows next to nothing."""

EXAMPLE_ROWS = 3


class Dropout(BaseModel):
    """Of the host and the head, in training only. Those of the released run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: float = 0.2
    relu: float = 0.2
    embed: float = 0.15
    residual: float = 0.2
    out: float = 0.1


class AdapterSchedule(Schedule):
    """The rate is the best of 0.0005, 0.001 (released), 0.002 and 0.004 on the validation split, over five seeds."""

    learning_rate: float = Field(default=4e-3, gt=0)


class SentimentSettings(RecipeSettings):
    """Defaults are those of the released CMU-MOSI run where it states them, but for the adapter's rate and the layers.

    It has 32 layers. Here 1, 2 and 3 are within the noise of each other on the validation split, over three seeds.

    Attributes:
        length: ℓ, utterances in a sequence, the same for every modality.
        embed_dim, num_heads, encoder_layers: of the host.
        host_share: part of the training videos on which the host is trained.
        down_dim, rank_h, rank_t: d, R_h and R_t of the adapter, whose d_t is d as in the released code.
        start_scale: see `Wander.start_training_`; 0 is the released initialisation, which no gradient can leave.
        host, adapter: how long and how fast each is trained.
    """

    length: int = Field(default=10, ge=1)
    embed_dim: int = 40
    num_heads: int = 8
    encoder_layers: int = 2
    dropout: Dropout = Dropout()
    host_share: float = Field(default=0.5, gt=0, le=1)
    down_dim: int = 16
    rank_h: int = 8
    rank_t: int = 12
    start_scale: float = Field(default=0.1, ge=0)
    host: Schedule = Schedule()
    adapter: AdapterSchedule = AdapterSchedule()


class Sentiment(Recipe):
    """`train_host`, then `train_adapted`."""

    summary: ClassVar[str] = "Wander over a frozen late-fusion host, on CMU-MOSI"
    Settings: ClassVar[type[RecipeSettings]] = SentimentSettings

    def train(
        self,
        folder: Path,
        settings: RecipeSettings,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        assert isinstance(settings, SentimentSettings)
        corpus = Corpus(folder, settings.length)
        host, host_report = train_host(corpus, settings, seed, notify)
        adapted, report = train_adapted(corpus, settings, host, seed, notify, head_only=head_only)
        about = describe(corpus).model_copy(
            update={
                "provenance": provenance(
                    TASK,
                    settings,
                    seed,
                    trained="head" if head_only else "adapter and head",
                    data=corpus.source,
                    selection=f"lowest MAE on the {len(corpus.valid)} utterances of the validation split",
                    host=host_report,
                    **report,
                )
            }
        )
        return Trained(adapted, HEAD.model_dump(), about, f"late_fusion-mosi-seed{seed}", example(adapted, seed))


def describe(corpus: Corpus) -> Description:
    """What the trained model is for; its provenance is still to be told."""
    return Description(task=TASK, labels=LABELS, preprocessing=corpus.preprocessing(MAY_BE_MISSING))


def train_host(
    corpus: Corpus, settings: SentimentSettings, seed: int, notify: Notify
) -> tuple[LateFusion, dict[str, Any]]:
    """The host with its own head, trained on `host_share` of the training videos, and how that went."""
    share = corpus.train.part(settings.host_share, np.random.default_rng(seed))
    about = describe(corpus)
    with reproducible(seed, 0):
        host = fresh_host(corpus, settings, None)
        train, valid = corpus.examples(share, host, about), corpus.examples(corpus.valid, host, about)
        kept = fit(host, train, valid, F.l1_loss, settings.host, told(notify, "host", settings.host))
    report = {"videos": sorted(set(share.groups)), "utterances": len(train), "epoch": kept.epoch}
    return host, {**report, "valid": metrics(host, valid)}


def train_adapted(
    corpus: Corpus,
    settings: SentimentSettings,
    host: LateFusion,
    seed: int,
    notify: Notify,
    *,
    head_only: bool = False,
) -> tuple[LateFusion, dict[str, Any]]:
    """A new head, and unless `head_only` an adapter, over the frozen encoders of `host`, and how that went.

    `host` itself is not changed.
    """
    about = describe(corpus)
    with reproducible(seed, 1):
        adapted = fresh_host(corpus, settings, None if head_only else adapter_config(settings, host.config))
        if isinstance(adapted.adapter, Wander):
            adapted.adapter.start_training_(settings.start_scale)
        adapted.load_state_dict(host.split_state()[1], strict=False)
        for name, parameter in adapted.named_parameters():
            parameter.requires_grad_(adapted.is_adapted(name))
        train, valid = corpus.examples(corpus.train, adapted, about), corpus.examples(corpus.valid, adapted, about)
        kept = fit(adapted, train, valid, F.l1_loss, settings.adapter, told(notify, "adapter", settings.adapter))
    return adapted, {"utterances": len(train), "epoch": kept.epoch, "valid": metrics(adapted, valid)}


def fresh_host(corpus: Corpus, settings: SentimentSettings, adapter: WanderConfig | None) -> LateFusion:
    """A host that standardises by the training features. Raises ConfigError for sizes that cannot be."""
    config = checked(
        LateFusionConfig,
        modalities=tuple(corpus.widths),
        feature_dims=tuple(corpus.widths.values()),
        lengths=(settings.length,) * len(corpus.widths),
        embed_dim=settings.embed_dim,
        num_heads=settings.num_heads,
        encoder_layers=settings.encoder_layers,
        standardise=True,
        dropout=settings.dropout.model_dump(),
    )
    host = LateFusion.build(config, adapter, HEAD)
    with torch.no_grad():
        for name, mean, std in zip(corpus.widths, host.feature_mean, host.feature_std, strict=True):
            mean.copy_(torch.from_numpy(corpus.mean[name]))
            std.copy_(torch.from_numpy(corpus.std[name]))
    return host


def adapter_config(settings: SentimentSettings, host: LateFusionConfig) -> WanderConfig:
    """Raises ConfigError for sizes that cannot be."""
    return checked(
        WanderConfig,
        embed_dim=host.embed_dim,
        lengths=host.lengths,
        down_dim=settings.down_dim,
        tokens=settings.down_dim,
        rank_h=settings.rank_h,
        rank_t=settings.rank_t,
    )


def metrics(host: LateFusion, examples: Examples) -> dict[str, float]:
    """The task's metrics, to four decimals."""
    outputs = {tasks.get(TASK).output: predict(host, examples).numpy()}
    found = tasks.get(TASK).metrics(outputs, examples.targets[:, 0].numpy())
    return {name: round(value, 4) for name, value in found.items()}


def example(host: LateFusion, seed: int) -> Item:
    """An item of random utterances with the mean and deviation of the training features; none of the data set."""
    drawn = host.random_inputs("model", 1, np.random.default_rng(seed))
    return {name: np.round(value[0, :EXAMPLE_ROWS].astype(np.float64), 3).tolist() for name, value in drawn.items()}


plugin = Sentiment
