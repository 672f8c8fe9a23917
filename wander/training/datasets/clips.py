"""Video files with captions: `captions.csv`, whose column `clip` names the files beside it. All are for testing."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

import numpy as np

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.tasks.base import Item
from wander.training.datasets.base import Dataset, Split

CAPTIONS = "captions.csv"
COLUMNS = ("clip", "caption")
SPLIT = "test"


class Clips(Dataset):
    """Items are first the videos, `{"video": bytes}`, then all captions, `{"text": caption}`.

    What belongs together has the same label, the number of the video.
    """

    layout: ClassVar[str] = "captions.csv with the columns clip and caption, and the clips"
    source: ClassVar[str] = "video files with captions, as they lie in a folder"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / CAPTIONS).is_file() and set(COLUMNS) <= set(_read(folder)[0])

    def load(self, folder: Path, split: str, inputs: tuple[TensorSpec, ...]) -> Split:
        if split != SPLIT:
            raise UsageError(f"{folder} has no split {split!r}; it has {SPLIT} alone")
        said = _read(folder)[1]
        number = {name: place for place, name in enumerate(dict.fromkeys(row["clip"] for row in said))}
        try:
            watched: list[Item] = [{"video": (folder / name).read_bytes()} for name in number]
        except OSError as error:
            raise UsageError(f"{folder} lacks a clip that its captions name: {error}") from error
        owners = [row["clip"] for row in said]
        asked: list[Item] = [{"text": row["caption"]} for row in said]
        return Split(
            items=[*watched, *asked],
            labels=np.array([number[name] for name in [*number, *owners]]),
            ids=[*number, *(f"{name}#{place}" for place, name in enumerate(owners))],
            groups=[*number, *owners],
        )


def _read(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns, and the rows."""
    with (folder / CAPTIONS).open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return list(rows.fieldnames or ()), list(rows)


plugin = Clips
