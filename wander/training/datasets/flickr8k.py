"""Flickr8k, or any images with several captions each: `captions.csv` and the folder `images`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.training.datasets.base import Dataset, Split


class Flickr8k(Dataset):
    """Items are first the images, `{"image": bytes}`, then all captions, `{"text": caption}`, both as in the file.

    What belongs together has the same label, the number of the image within the split.
    """

    layout = "captions.csv, images/"
    source = (
        "Flickr8k (Hodosh et al. 2013), a part of its images with their five captions and official splits; "
        "for non-commercial research"
    )

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return (folder / "captions.csv").is_file() and (folder / "images").is_dir()

    def load(self, folder: Path, split: str, inputs: tuple[TensorSpec, ...]) -> Split:
        try:
            return self._split(folder, split)
        except (KeyError, OSError) as error:
            raise UsageError(f"{folder} is no whole data set of images with captions: {error}") from error

    def _split(self, folder: Path, split: str) -> Split:
        with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        captions = [row for row in rows if row["split"] == split]
        if not captions:
            raise UsageError(
                f"{folder} has no split {split!r}; splits in this folder: "
                f"{', '.join(sorted({row['split'] for row in rows})) or 'none'}"
            )
        number = {name: i for i, name in enumerate(dict.fromkeys(row["image"] for row in captions))}
        owners = [row["image"] for row in captions]
        return Split(
            items=[
                *({"image": (folder / "images" / name).read_bytes()} for name in number),
                *({"text": row["caption"]} for row in captions),
            ],
            labels=np.array([number[name] for name in [*number, *owners]]),
            ids=[*number, *(f"{row['image']}#{row['caption_index']}" for row in captions)],
            groups=[*number, *owners],
        )


plugin = Flickr8k
