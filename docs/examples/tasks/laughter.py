"""Laughter in an utterance: a probability from one logit. A worked example of a task."""

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


class Laughter(SequenceTask):
    """Served as `POST /v1/laughter`. The items are those of every task of feature sequences."""

    summary: ClassVar[str] = "Whether somebody laughs in an utterance"
    operations: ClassVar[Mapping[str, str]] = {"": summary}
    output: ClassVar[str] = "logit"

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        super().__init__(manifest, folder)
        dims = manifest.graphs["model"].signature.outputs[0].item_dims
        if dims != (1,) or manifest.labels:
            raise BundleError(f"laughter is one logit without labels, not {dims} and {len(manifest.labels)} labels")

    def answer(self, outputs: Arrays) -> dict[str, Any]:
        logit = float(outputs["logit"][0])
        return {"probability": float(np.exp(-np.logaddexp(0, -logit))), "laughter": logit >= 0}

    def explanation(self, item: Item, rows: Mapping[str, int], outputs: Arrays) -> dict[str, Any]:
        return {"target": "logit", **explanation(rows, outputs, "logit", 0)}

    @classmethod
    def decisions(cls, outputs: Arrays) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Yes or no: the parity gate asks that no decision changes which rounding cannot change."""
        logit = outputs["logit"].astype(np.float64)
        return (logit >= 0).astype(np.int64), np.abs(logit)

    @classmethod
    def metrics(cls, outputs: Arrays, labels: NDArray[Any]) -> dict[str, float]:
        return {"accuracy": float(((outputs["logit"][:, 0] >= 0) == (labels > 0)).mean())}


plugin = Laughter
