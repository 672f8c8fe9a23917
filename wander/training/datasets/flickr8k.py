"""Flickr8k, or any images with several captions each: `captions.csv` and the folder `images`.

For a model that takes features of experts an image is a video of one picture.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.tasks.base import Item
from wander.training.datasets._stills import still
from wander.training.datasets.base import Dataset, Split

FEATURES = "features_"


class Flickr8k(Dataset):
    """Items are first the images, `{"image": bytes}`, then all captions, `{"text": caption}`, both as in the file.

    For a model with experts an image is `{"video": bytes}`.

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
            return self._split(folder, split, any(spec.name.startswith(FEATURES) for spec in inputs))
        except (KeyError, OSError) as error:
            raise UsageError(f"{folder} is no whole data set of images with captions: {error}") from error

    def _split(self, folder: Path, split: str, watched: bool) -> Split:
        with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        captions = [row for row in rows if row["split"] == split]
        if not captions:
            raise UsageError(
                f"{folder} has no split {split!r}; splits in this folder: "
                f"{', '.join(sorted({row['split'] for row in rows})) or 'none'}"
            )
        sizes = {row["image"]: (int(row["width"]), int(row["height"])) for row in captions}
        number = {name: i for i, name in enumerate(dict.fromkeys(row["image"] for row in captions))}
        owners = [row["image"] for row in captions]
        return Split(
            items=[
                *(_item((folder / "images" / name).read_bytes(), sizes[name], watched) for name in number),
                *({"text": row["caption"]} for row in captions),
            ],
            labels=np.array([number[name] for name in [*number, *owners]]),
            ids=[*number, *(f"{row['image']}#{row['caption_index']}" for row in captions)],
            groups=[*number, *owners],
        )


def _item(file: bytes, size: tuple[int, int], watched: bool) -> Item:
    return {"video": still(file, *size)} if watched else {"image": file}


plugin = Flickr8k
