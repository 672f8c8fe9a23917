"""Sentiment of an utterance: one score from -3 (strongly negative) to +3 (strongly positive), as in CMU-MOSI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wander.errors import BundleError
from wander.manifest import Manifest
from wander.signature import Arrays
from wander.tasks._explanations import explanation
from wander.tasks._sequences import SequenceTask
from wander.tasks.base import Item


class Sentiment(SequenceTask):
    """The graph's `score` (batch, 1) is a regression; its sign decides the label."""

    summary: ClassVar[str] = "Sentiment of an utterance from text, audio and video features"
    operations: ClassVar[Mapping[str, str]] = {"": summary}
    output: ClassVar[str] = "score"

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(manifest, folder)
        dims = manifest.graphs["model"].signature.outputs[0].item_dims
        if dims != (1,):
            raise BundleError(
                f"a sentiment model gives one score an item, not {dims}; for classes use the task emotion"
            )
        if manifest.labels and len(manifest.labels) != 2:
            raise BundleError(f"sentiment has two labels, negative and positive, not {len(manifest.labels)}")
        self.labels = manifest.labels or ("negative", "positive")

    def answer(self, outputs: Arrays) -> dict[str, Any]:
        score = float(outputs["score"][0])
        return {"score": score, "label": self.labels[score >= 0], "class7": int(seven(np.float32(score)))}

    def explanation(self, item: Item, rows: Mapping[str, int], outputs: Arrays) -> dict[str, Any]:
        return {"target": "score", **explanation(rows, outputs, "score", 0)}

    @classmethod
    def decisions(cls, outputs: Arrays) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The sign and the seven-way class."""
        score = outputs["score"].astype(np.float64)
        distance = np.abs(np.abs(score) % 1 - 0.5)
        inside = np.where(np.abs(score) < 3, distance, np.abs(score) - 2.5)
        return np.hstack([score >= 0, seven(score)]).astype(np.int64), np.hstack([np.abs(score), inside])

    @classmethod
    def metrics(cls, outputs: Arrays, labels: NDArray[Any]) -> dict[str, float]:
        """The papers' measures on CMU-MOSI: ACC-2 (score >= 0), weighted F1 of the same, ACC-7, MAE, Pearson's r."""
        score, truth = outputs["score"][:, 0].astype(np.float64), labels.astype(np.float64)
        positive, is_positive = score >= 0, truth >= 0
        return {
            "acc2": float((positive == is_positive).mean()),
            "f1": weighted_f1(positive.astype(np.int64), is_positive.astype(np.int64)),
            "acc7": float((seven(score) == seven(truth)).mean()),
            "mae": float(np.abs(score - truth).mean()),
            "corr": float(np.corrcoef(score, truth)[0, 1]),
        }


def seven(score: Any) -> Any:
    """The seven-way class: rounded, within -3..3."""
    return np.round(np.clip(score, -3, 3))


def weighted_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """F1 of every class, weighted by how often the class is true."""
    total = 0.0
    for label in np.unique(truth):
        hits = int(((predicted == label) & (truth == label)).sum())
        total += (truth == label).sum() * 2 * hits / ((predicted == label).sum() + (truth == label).sum())
    return float(total / truth.size)


plugin = Sentiment
