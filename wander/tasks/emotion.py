"""Emotion of an utterance: one of several classes, as in IEMOCAP. The same hosts as sentiment, with several outputs."""

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
from wander.tasks.sentiment import weighted_f1


class Emotion(SequenceTask):
    """The graph's `logits` (batch, classes) go through a softmax."""

    summary: ClassVar[str] = "Emotion of an utterance from text, audio and video features"
    operations: ClassVar[Mapping[str, str]] = {"": summary}
    output: ClassVar[str] = "logits"

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(manifest, folder)
        dims = manifest.graphs["model"].signature.outputs[0].item_dims
        if dims != (len(manifest.labels),):
            raise BundleError(f"labels: {len(manifest.labels)} names do not fit logits of size {dims}")
        self.labels = self.targets = manifest.labels

    def answer(self, outputs: Arrays) -> dict[str, Any]:
        probabilities = softmax(outputs["logits"].astype(np.float64))
        best = int(probabilities.argmax())
        return {
            "label": self.labels[best],
            "score": float(probabilities[best]),
            "probabilities": dict(zip(self.labels, probabilities.tolist(), strict=True)),
        }

    def explanation(self, item: Item, rows: Mapping[str, int], outputs: Arrays) -> dict[str, Any]:
        """Of the logit of the class that the item names, else of the predicted one."""
        named = item["explain"]
        which = self.labels.index(named) if named in self.labels else int(outputs["logits"].argmax())
        label = self.labels[which]
        return {"target": "logit", "label": label, **explanation(rows, outputs, "logits", which)}

    @classmethod
    def decisions(cls, outputs: Arrays) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The most probable class."""
        logits = outputs["logits"].astype(np.float64)
        if logits.shape[1] < 2:
            return super().decisions(outputs)
        ordered = np.sort(logits, 1)
        return logits.argmax(1)[:, None], (ordered[:, -1] - ordered[:, -2])[:, None] / 2

    @classmethod
    def metrics(cls, outputs: Arrays, labels: NDArray[Any]) -> dict[str, float]:
        """Accuracy and weighted F1 over the classes."""
        predicted, truth = outputs["logits"].argmax(1), labels.astype(np.int64)
        return {"accuracy": float((predicted == truth).mean()), "f1": weighted_f1(predicted, truth)}


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


plugin = Emotion
