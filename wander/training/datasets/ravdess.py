"""RAVDESS as log-mel sequences of acted speech: `ravdess_logmel_{train,valid,test}.npz`, read raw alone.

An item is one clip in decibels, `{"audio": {"logmel": (frames, 40)}}`, as the front end `logmel` makes them of its
recording. Groups are actors, of whom no two splits share one.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.training.datasets.base import Dataset, Split

LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


class Ravdess(Dataset):
    """Arrays of a split: `logmel_q` (sum of lengths, 40) uint8 in half decibels above -80, `length`, `label`, `actor`
    and `id` (N)."""

    layout: ClassVar[str] = "ravdess_logmel_train.npz, ravdess_logmel_valid.npz, ravdess_logmel_test.npz"
    source: ClassVar[str] = (
        "RAVDESS (Livingstone and Russo 2018, CC BY-NC-SA 4.0), speech, log-mel sequences computed from its recordings"
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(folder.glob("ravdess_logmel_*.npz"))

    def load(self, folder: Path, split: str, inputs: tuple[TensorSpec, ...]) -> Split:
        raise UsageError("this data set is read by models with a front end that reads audio, such as logmel")

    def load_raw(self, folder: Path, split: str, fields: tuple[str, ...]) -> Split:
        if "audio" not in fields:
            return super().load_raw(folder, split, fields)
        path = folder / f"ravdess_logmel_{split}.npz"
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                names = ("logmel_q", "length", "label", "actor", "id")
                bands, lengths, labels, actors, ids = (file[name] for name in names)
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path} is no split of this data set: {error}") from error
        decibels = 0.5 * bands.astype(np.float32) - 80
        parts = np.split(decibels, np.cumsum(lengths)[:-1])
        return Split(
            items=[{"audio": {"logmel": part}} for part in parts],
            labels=labels.astype(np.int64),
            ids=ids.tolist(),
            groups=[str(actor) for actor in actors.tolist()],
        )


plugin = Ravdess
