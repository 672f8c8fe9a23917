"""Emotion from a recording alone, on RAVDESS: what Wander fuses are views of one sound.

The late-fusion host reads the levelled log-mel frames, their slopes, a contour of loudness and colour, and one row of
statistics of the whole, which comes first, so that it is what the adapter's residual hands on. The host is trained with
a head of its own on changed copies of the training recordings, then frozen, and the adapter and a new head learn over
it. The baseline (`head_only`) is a new head alone, over the same frozen host and by the same schedule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from wander.backbones.late_fusion import LateFusion, LateFusionHead
from wander.checkpoints.folder import Description
from wander.errors import UsageError
from wander.signature import BATCH, TensorSpec
from wander.tasks.front_ends.logmel import Logmel, LogmelOptions
from wander.training.datasets import Split, open_dataset
from wander.training.datasets.ravdess import LABELS, Ravdess
from wander.training.loop import Examples, Schedule, fit, reproducible
from wander.training.recipes._annealing import Annealing, anneal
from wander.training.recipes._late_fusion import (
    Fused,
    FusionSettings,
    fresh_host,
    frozen_under,
    hidden,
    mean_and_std,
    metrics,
    with_provenance,
)
from wander.training.recipes._recordings import Changes, changed
from wander.training.recipes.base import Notify, Recipe, Trained, provenance, told

NAME, TASK, FIELD = "emotion_sound", "emotion", "audio"
HEAD = LateFusionHead(out_dim=len(LABELS))


class HostSchedule(Annealing):
    """An epoch goes over one changed copy of every recording."""

    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=32, ge=2)


class AdapterSchedule(Schedule):
    """An epoch goes over all changed copies of every recording."""

    epochs: int = Field(default=8, ge=1)
    batch_size: int = Field(default=64, ge=1)
    patience: int = Field(default=4, ge=1)
    plateau_patience: int = Field(default=1, ge=0)
    plateau_factor: float = Field(default=0.3, gt=0, lt=1)


class EmotionSoundSettings(FusionSettings):
    """Attributes beside those of the host and the adapter:

    frames, rows: frames of 20 ms that a row holds, and rows: 2.56 seconds.
    copies, plain: of every training recording so many copies; the first `plain` as they are, each other one changed in
        a way of its own.
    mixing: parameter of the beta distribution by which two recordings of a batch, and their labels, are mixed; 0 not.
    smoothing: of the labels.
    """

    even_start: bool = True
    frames: int = Field(default=8, ge=1)
    rows: int = Field(default=16, ge=1)
    copies: int = Field(default=12, ge=1)
    plain: int = Field(default=0, ge=0)
    changes: Changes = Changes()
    mixing: float = Field(default=0.2, ge=0)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    host: HostSchedule = HostSchedule()
    adapter: AdapterSchedule = AdapterSchedule()


class Recordings:
    """Training and validation split as the front end makes them; the test split is never opened.

    Attributes:
        inputs: of the graph.
        train: copies, (copies x N) rows, a copy after the other.
        plain, valid: the training and the validation recordings as they are.
        scale: input -> mean and deviation of its features over `plain`.
    """

    def __init__(self, folder: Path, settings: EmotionSoundSettings, seed: int) -> None:
        """Raises UsageError for unfit data."""
        dataset = open_dataset(folder)
        if not isinstance(dataset, Ravdess):
            raise UsageError(f"{folder} holds no recordings of emotions ({dataset.source})")
        self.source = dataset.source
        self.options = LogmelOptions(
            frames=settings.frames,
            views={"summary": "summary", FIELD: "bands", "change": "changes", "contour": "contour"},
        )
        self.inputs = tuple(
            TensorSpec(
                name=name,
                dtype="float32",
                dims=(BATCH, 1 if view == "summary" else settings.rows, self.options.width(view)),
            )
            for name, view in self.options.views.items()
        )
        self._front_end = Logmel(self.options, FIELD, {spec.name: spec for spec in self.inputs}, folder)
        silence = self.options.silence()
        self._silence = {name: np.array(row, np.float32) for name, row in silence.items()}
        train, valid = (dataset.load_raw(folder, split, (FIELD,)) for split in ("train", "valid"))
        rng = np.random.default_rng(seed)
        self.plain, self.valid = self._examples(train), self._examples(valid)
        copies = [
            self.plain if number < settings.plain else self._changed(train, settings.changes, rng)
            for number in range(settings.copies)
        ]
        self.copies, self.size = len(copies), len(train)
        self.train = Examples(
            tuple(torch.cat(parts) for parts in zip(*(copy.inputs for copy in copies), strict=True)),
            torch.cat([copy.targets for copy in copies]),
        )
        self.scale = {
            spec.name: mean_and_std(value.numpy()) for spec, value in zip(self.inputs, self.plain.inputs, strict=True)
        }

    def _changed(self, split: Split, how: Changes, rng: np.random.Generator) -> Examples:
        items = [
            {
                FIELD: {
                    "logmel": changed(item[FIELD]["logmel"], how, self.options.floor_db, rng)[
                        rng.integers(how.cut + 1) :
                    ]
                }
            }
            for item in split.items
        ]
        return self._examples(Split(items, split.labels, split.ids, split.groups))

    def _examples(self, split: Split) -> Examples:
        """Inputs float32 (N, rows, D), targets int64 (N), padded as the task pads them."""
        made = [self._front_end(item[FIELD]) for item in split.items]
        arrays = []
        for spec in self.inputs:
            length, width = (int(size) for size in spec.item_dims)
            filled = np.tile(self._silence.get(spec.name, np.zeros(width, np.float32)), (len(made), length, 1))
            for row, found in enumerate(made):
                features = found[spec.name].features
                filled[row, : len(features)] = features
            arrays.append(torch.from_numpy(filled))
        return Examples(tuple(arrays), torch.from_numpy(split.labels.astype(np.int64)))

    def describe(self) -> Description:
        """What a trained model is for; its provenance is still to be told."""
        declared = self.options.model_dump(mode="json")
        preprocessing = {"front_ends": {FIELD: declared}, "padding": self.options.silence()}
        return Description(task=TASK, labels=LABELS, preprocessing=preprocessing)

    def example(self) -> dict[str, Any]:
        """A falling tone; no recording of the data set."""
        return {FIELD: self._front_end.example({})}


class EmotionSound(Recipe):
    """`train_host`, then `train_adapted`."""

    summary: ClassVar[str] = "Wander over four views of a recording, in a frozen late-fusion host, on RAVDESS"
    Settings: ClassVar[type[FusionSettings]] = EmotionSoundSettings

    def train(
        self,
        folder: Path,
        settings: Any,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        assert isinstance(settings, EmotionSoundSettings)
        recordings = Recordings(folder, settings, seed)
        host, host_report = train_host(recordings, settings, seed, notify)
        adapted, report = train_adapted(recordings, settings, host, seed, notify, head_only=head_only)
        told_ = provenance(
            NAME,
            settings,
            seed,
            trained="head" if head_only else "adapter and head",
            data=recordings.source,
            selection=f"lowest cross-entropy on the {len(recordings.valid)} recordings of the validation split",
            host=host_report,
            **report,
        )
        about = with_provenance(recordings.describe(), told_)
        return Trained(adapted, HEAD.model_dump(), about, f"late_fusion-ravdess-seed{seed}", recordings.example())


def train_host(
    recordings: Recordings, settings: EmotionSoundSettings, seed: int, notify: Notify
) -> tuple[LateFusion, dict[str, Any]]:
    """The host with its own head, and how that went. All epochs are run; none is chosen."""
    schedule, train = settings.host, recordings.train
    with reproducible(seed, 0):
        host = fresh_host(recordings.inputs, recordings.scale, settings, HEAD, adapter=False)
        rng = np.random.default_rng((seed, 0))
        copy = 0

        def batches() -> tuple[Tensor, ...]:
            nonlocal copy
            host.train()
            first = copy % recordings.copies * recordings.size
            copy += 1
            return (first + torch.randperm(recordings.size)).split(schedule.batch_size)

        def loss(rows: Tensor) -> Tensor:
            batch = train.rows(rows)
            inputs, targets = batch.inputs, F.one_hot(batch.targets, len(LABELS)).float()
            if settings.mixing:
                share, other = rng.beta(settings.mixing, settings.mixing), torch.randperm(len(rows))
                inputs = tuple(share * x + (1 - share) * x[other] for x in inputs)
                targets = share * targets + (1 - share) * targets[other]
            return F.cross_entropy(host(*inputs), targets, label_smoothing=settings.smoothing)

        def on_epoch(epoch: int) -> None:
            notify("host", epoch, schedule.epochs, float("nan"))

        anneal([p for p in host.parameters() if p.requires_grad], batches, loss, schedule, on_epoch)
        host.eval()
    return host, {"recordings": recordings.size, "valid": metrics(TASK, host, recordings.valid)}


def train_adapted(
    recordings: Recordings,
    settings: EmotionSoundSettings,
    host: LateFusion,
    seed: int,
    notify: Notify,
    *,
    head_only: bool = False,
) -> tuple[LateFusion, dict[str, Any]]:
    """A new head, and unless `head_only` an adapter, over the frozen encoders of `host`, and how that went."""
    with reproducible(seed, 1):
        fresh = fresh_host(recordings.inputs, recordings.scale, settings, HEAD, adapter=not head_only)
        adapted = frozen_under(host, fresh, settings)
        fused = Fused(adapted)
        train, valid = hidden(adapted, recordings.train), hidden(adapted, recordings.valid)

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            smoothing = settings.smoothing if fused.training else 0.0
            return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

        report = told(notify, "adapter", settings.adapter)
        kept = fit(fused, train, valid, loss, settings.adapter, report)
    return adapted, {
        "recordings": recordings.size,
        "epoch": kept.epoch,
        "valid": metrics(TASK, adapted, recordings.valid),
    }


plugin = EmotionSound
