"""CMU-MOSI as utterance features: `mosi_{train,valid,test}.npz`, one feature vector an utterance and modality.

An item is an utterance with its neighbours in the video, the sequences that context-dependent models of this data read
(Poria et al., "Context-Dependent Sentiment Analysis in User-Generated Videos", ACL 2017). The host reads token 0, so
token 0 is the utterance itself; then come those before it and then those after it, each nearest first, up to the
input's length.

Raw, an item is what was said in the utterance alone: `mosi_transcripts.csv`.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.training.datasets.base import SequenceDataset, Split

TRANSCRIPTS = "mosi_transcripts.csv"
FIELDS = {"text": "text", "audio": "audio", "vision": "video"}
"""Modality of the host -> array of the file."""


class Mosi(SequenceDataset):
    """Arrays of a split: `text`, `audio`, `video` (N, D_m), `label` (N), `id`, `video_id`, `segment` (N)."""

    layout: ClassVar[str] = "mosi_train.npz, mosi_valid.npz, mosi_test.npz"
    source: ClassVar[str] = (
        "CMU-MOSI (Zadeh et al. 2016), utterance features and labels as released with "
        "soujanyaporia/contextual-multimodal-fusion and pliang279/MFN (MIT licence files)"
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return any(folder.glob("mosi_*.npz"))

    def widths(self, folder: Path) -> dict[str, int]:
        arrays = read(folder, "train")
        return {modality: arrays[field].shape[1] for modality, field in FIELDS.items()}

    def load(self, folder: Path, split: str, inputs: tuple[TensorSpec, ...]) -> Split:
        arrays = read(folder, split)
        for spec in inputs:
            if spec.name not in FIELDS:
                raise UsageError(f"this data set has no {spec.name}; it has {', '.join(FIELDS)}")
            width = arrays[FIELDS[spec.name]].shape[1]
            if width != spec.item_dims[1]:
                raise UsageError(f"{spec.name} has {width} features here, but the model takes {spec.item_dims[1]}")
        videos, segments = arrays["video_id"].tolist(), arrays["segment"].tolist()
        order = {video: by_segment(video, videos, segments) for video in set(videos)}
        items = []
        for row, video in enumerate(videos):
            rows = context(row, order[video])
            items.append({spec.name: arrays[FIELDS[spec.name]][rows[: int(spec.item_dims[0])]] for spec in inputs})
        return Split(items=items, labels=arrays["label"], ids=arrays["id"].tolist(), groups=videos)

    def load_raw(self, folder: Path, split: str, fields: tuple[str, ...]) -> Split:
        if "text" not in fields:
            return super().load_raw(folder, split, fields)
        rows = [row for row in transcripts(folder) if row["split"] == split]
        if not rows:
            raise UsageError(f"{folder / TRANSCRIPTS} has no split {split!r}")
        return Split(
            items=[{"text": row["transcript"]} for row in rows],
            labels=np.array([float(row["label"]) for row in rows], np.float32),
            ids=[row["id"] for row in rows],
            groups=[row["id"].rpartition("_")[0] for row in rows],
        )


def transcripts(folder: Path) -> list[dict[str, str]]:
    """Rows of the table of what was said. Raises UsageError if there is none."""
    try:
        with (folder / TRANSCRIPTS).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{folder / TRANSCRIPTS} cannot be read: {error.strerror}") from error


def by_segment(video: str, videos: Sequence[str], segments: Sequence[int]) -> list[int]:
    """Rows of a video in the order in which they were spoken."""
    return sorted((row for row, name in enumerate(videos) if name == video), key=lambda row: segments[row])


def context(row: int, order: Sequence[int]) -> list[int]:
    """All rows of a video as `row` sees them: itself, those before it and those after it, each nearest first."""
    here = order.index(row)
    return [row, *reversed(order[:here]), *order[here + 1 :]]


def read(folder: Path, split: str) -> dict[str, NDArray[Any]]:
    """Features and labels as float32. Raises UsageError for a split that is absent or damaged."""
    path = folder / f"mosi_{split}.npz"
    if not path.is_file():
        found = ", ".join(sorted(file.stem.removeprefix("mosi_") for file in folder.glob("mosi_*.npz")))
        raise UsageError(f"{path} does not exist; splits in this folder: {found or 'none'}")
    names = [*FIELDS.values(), "label", "id", "video_id", "segment"]
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is no split of this data set: {error}") from error
    return arrays | {name: arrays[name].astype(np.float32) for name in [*FIELDS.values(), "label"]}


plugin = Mosi
