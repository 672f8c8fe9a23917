"""Food images with recipe texts: `images.csv`, `recipes.csv` and the folder `images`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.training.datasets.base import Dataset, Split


class Food(Dataset):
    """Items are `{"image": bytes, "text": ingredients}`; a recipe's title nearly names its class and is not used."""

    layout = "images.csv, recipes.csv, images/"
    source = "ten classes of Food-101 with recipes of the same class; the pairing of image and text is constructed"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        return all((folder / name).is_file() for name in ("images.csv", "recipes.csv"))

    def labels(self, folder: Path) -> list[str]:
        """Names of the classes, by number."""
        names = {int(row["label"]): row["label_name"] for row in _rows(folder / "images.csv")}
        return [names[number] for number in sorted(names)]

    def recipes(self, folder: Path, split: str) -> list[tuple[str, int]]:
        """Ingredients and class of every recipe of a split, also of those that stand beside no image."""
        rows = _rows(folder / "recipes.csv")
        return [(row["ingredients"], int(row["label"])) for row in rows if row["split"] == split]

    def load(self, folder: Path, split: str, inputs: tuple[TensorSpec, ...]) -> Split:
        recipes = {row["recipe_id"]: row["ingredients"] for row in _rows(folder / "recipes.csv")}
        rows = [row for row in _rows(folder / "images.csv") if row["split"] == split]
        if not rows:
            raise UsageError(f"{folder} has no split {split!r}; it has train, valid and test")
        return Split(
            items=[
                {"image": (folder / "images" / row["image"]).read_bytes(), "text": recipes[row["recipe_id"]]}
                for row in rows
            ],
            labels=np.array([int(row["label"]) for row in rows]),
            ids=[row["image"] for row in rows],
            groups=[row["recipe_id"] for row in rows],
        )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


plugin = Food
