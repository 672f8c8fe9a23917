"""Training and validation split of a data set of feature sequences, as the task that will serve reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wander.backbones import Host
from wander.checkpoints.folder import Description
from wander.errors import UsageError
from wander.signature import BATCH, TensorSpec
from wander.tasks import tasks
from wander.training.datasets import SequenceDataset, Split, arrays, open_dataset
from wander.training.evaluation import draft_manifest
from wander.training.loop import Examples

SMALLEST_STD = 1e-4
"""A feature with a smaller deviation is constant, and is not scaled."""


class Corpus:
    """The test split is never opened.

    Attributes:
        source: what the data is, for provenance.
        widths: modality -> D_m, in order.
        train, valid: the splits, as items.
        mean, std: modality -> (D_m) float32, of the training items' token 0: every utterance counts once.
    """

    def __init__(self, folder: Path, length: int) -> None:
        """Sequences of at most `length` tokens, the same for every modality. Raises UsageError for unfit data."""
        dataset = open_dataset(folder)
        if not isinstance(dataset, SequenceDataset):
            raise UsageError(f"{folder} holds no feature sequences ({dataset.source})")
        self.source = dataset.source
        self.widths = dataset.widths(folder)
        inputs = tuple(
            TensorSpec(name=name, dtype="float32", dims=(BATCH, length, width)) for name, width in self.widths.items()
        )
        self.train = dataset.load(folder, "train", inputs)
        self.valid = dataset.load(folder, "valid", inputs)
        self.mean: dict[str, NDArray[np.float32]] = {}
        self.std: dict[str, NDArray[np.float32]] = {}
        for name in self.widths:
            rows = np.stack([item[name][0] for item in self.train.items]).astype(np.float64)
            deviation = rows.std(0)
            self.mean[name] = rows.mean(0).astype(np.float32)
            self.std[name] = np.where(deviation < SMALLEST_STD, 1.0, deviation).astype(np.float32)

    def preprocessing(self, may_be_missing: tuple[str, ...]) -> dict[str, Any]:
        """A short sequence is filled with the training mean, which a host that standardises turns into exactly 0."""
        return {
            "padding": {name: mean.tolist() for name, mean in self.mean.items()},
            "missing": {name: "padding" for name in self.widths if name in may_be_missing},
        }

    def examples(self, split: Split, host: Host, about: Description) -> Examples:
        """A split as tensors: inputs float32 (N, ℓ, D_m), targets float32 (N, 1)."""
        # Feature sequences need no files beside the manifest.
        task = tasks.get(about.task)(draft_manifest(about, host), Path())
        inputs = arrays(split, task, "model")
        return Examples(
            tuple(torch.from_numpy(inputs[name]) for name in self.widths),
            torch.from_numpy(split.labels.astype(np.float32)).unsqueeze(1),
        )
