"""Training and validation split of a food data set as tensors, with the vocabulary. Knows no model.

Recipes and pictures are kept apart, since any recipe of a class may stand beside any picture of it: that is how the
data set itself pairs them.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wander.errors import UsageError
from wander.tasks._images import ImagePreprocessing, image_array
from wander.tasks._texts import BertText, BertTokenizer, bert_tokenizer_json
from wander.training.datasets import open_dataset
from wander.training.datasets.food import Food
from wander.training.loop import Examples

TOKENIZER = "tokenizer.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNKNOWN, START, END = 0, 1, 2, 3

SHARPER = 2
"""Pictures to be cropped are kept at so many times the size of the model's."""


class FoodCorpus:
    """The test split is never opened.

    Attributes:
        labels: names of the classes, by number.
        tokenizer_json: text of the file that the preprocessing names.
        texts, text_labels: ids (R, L) and classes (R) int64 of every training recipe, also those without a picture.
        images, image_labels: pictures (N, 3, 2s, 2s) float32, normalised, and classes (N) of the training split.
        valid: image (V, 3, s, s), input_ids and attention_mask (V, L), and classes (V), as they are served.
    """

    def __init__(self, folder: Path, image_size: int, text_length: int, least: int) -> None:
        """A word is in the vocabulary if `least` training recipes have it. Raises UsageError for unfit data."""
        dataset = open_dataset(folder)
        if not isinstance(dataset, Food):
            raise UsageError(f"{folder} holds no pictures with recipes ({dataset.source})")
        self.source = dataset.source
        self.labels = tuple(dataset.labels(folder))
        recipes = dataset.recipes(folder, "train")
        self.tokenizer_json = tokenizer_json([text for text, _ in recipes], least)
        self.image = ImagePreprocessing(size=(image_size, image_size))
        self.text = BertText(max_length=text_length)
        self.tokenizer = self._tokenizer()
        self.texts = torch.from_numpy(np.stack([self.tokenizer(text)["input_ids"] for text, _ in recipes]))
        self.text_labels = torch.tensor([label for _, label in recipes])
        large = ImagePreprocessing(size=(SHARPER * image_size,) * 2)
        train, valid = (dataset.load(folder, split, ()) for split in ("train", "valid"))
        self.images = torch.from_numpy(np.stack([image_array(item["image"], large) for item in train.items]))
        self.image_labels = torch.from_numpy(train.labels.astype(np.int64))
        for labels in (self.image_labels, self.text_labels):
            if len(labels.unique()) < len(self.labels):
                raise UsageError(f"{folder}: the training split lacks a picture or a recipe of some of the classes")
        rows = [
            (image_array(item["image"], self.image), *self.tokenizer(item["text"]).values()) for item in valid.items
        ]
        self.valid = Examples(
            tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)),
            torch.from_numpy(valid.labels.astype(np.int64)),
        )

    @property
    def vocabulary(self) -> list[str]:
        """The words, without the special tokens, in the order of their ids."""
        ids: dict[str, int] = json.loads(self.tokenizer_json)["model"]["vocab"]
        return sorted(set(ids) - set(SPECIAL), key=ids.__getitem__)

    @property
    def words(self) -> int:
        """Size of the vocabulary with the special tokens."""
        return len(SPECIAL) + len(self.vocabulary)

    def pairs(self, number: int, area: float, kept: float, absent: float) -> Examples:
        """Random pictures with random recipes of their class, every class as likely.

        Args:
            area: least share of a picture that a crop keeps.
            kept: share of the words that a text keeps.
            absent: share of the pairs without picture, and as many are without text, as the task serves them.
        """
        labels = torch.randint(len(self.labels), (number,))
        images = crops(self.images[_rows_of(self.image_labels, labels)], area)
        texts = thinned(self.texts[_rows_of(self.text_labels, labels)], kept)
        missing = torch.rand(number)
        images[missing < absent] = 0
        texts[missing >= 1 - absent] = torch.from_numpy(self.tokenizer("")["input_ids"])
        return Examples((images, texts, (texts != PAD).long()), labels)

    def _tokenizer(self) -> BertTokenizer:
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / TOKENIZER).write_text(self.tokenizer_json, encoding="utf-8")
            return self.text.load(Path(scratch))

    @property
    def assets(self) -> dict[str, bytes]:
        return {TOKENIZER: self.tokenizer_json.encode()}

    def preprocessing(self) -> dict[str, Any]:
        return {
            "image": self.image.model_dump(mode="json"),
            "text": self.text.model_dump(mode="json"),
            "missing": {"image": "mean", "text": "empty"},
        }


def tokenizer_json(texts: list[str], least: int) -> str:
    """The text of a `tokenizer.json` of whole words: letters alone, without case and plural s, or else [UNK]."""
    from tokenizers import Regex, Tokenizer, normalizers

    plain = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=True),
            normalizers.Replace(Regex("[^a-z]+"), " "),
            normalizers.Replace(Regex(r"s\b"), ""),
        ]
    )
    found = Counter(word for text in texts for word in set(plain.normalize_str(text).split()))
    words = sorted(word for word, recipes in found.items() if recipes >= least)
    tokenizer = Tokenizer.from_str(bert_tokenizer_json("\n".join((*SPECIAL, *words)), lower_case=True))
    tokenizer.normalizer = plain
    return str(tokenizer.to_str(pretty=True)) + "\n"


def crops(images: Tensor, least: float) -> Tensor:
    """Of every picture a random part of at least `least` of its area, perhaps mirrored, shrunk."""
    rows = len(images)
    scale, aspect = torch.empty(rows).uniform_(least, 1).sqrt(), torch.empty(rows).uniform_(-0.15, 0.15).exp()
    width, height = (scale * aspect).clamp(max=1), (scale / aspect).clamp(max=1)
    theta = torch.zeros(rows, 2, 3)
    theta[:, 0, 0] = width * torch.where(torch.rand(rows) < 0.5, 1.0, -1.0)
    theta[:, 0, 2] = (2 * torch.rand(rows) - 1) * (1 - width)
    theta[:, 1, 1] = height
    theta[:, 1, 2] = (2 * torch.rand(rows) - 1) * (1 - height)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return shrunk(F.grid_sample(images, grid, padding_mode="reflection", align_corners=False))


def shrunk(images: Tensor) -> Tensor:
    """Pictures to be cropped in the size of the model's."""
    return F.avg_pool2d(images, SHARPER)


def thinned(ids: Tensor, kept: float) -> Tensor:
    """Texts (N, L) that keep a word with this probability; the rest closes up, as if they had been written so."""
    stays = (torch.rand(ids.shape) < kept) | (ids == START) | (ids == END)
    order = torch.argsort((~stays | (ids == PAD)).long(), dim=1, stable=True)
    return torch.where(stays, ids, PAD).gather(1, order)


def _rows_of(labels: Tensor, wanted: Tensor) -> Tensor:
    """For every class in `wanted` the number of a random row of it."""
    rows = torch.empty_like(wanted)
    for number in wanted.unique():
        places = wanted == number
        own = (labels == number).nonzero()[:, 0]
        rows[places] = own[torch.randint(len(own), (int(places.sum()),))]
    return rows


def ridge(
    features: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64], penalty: float
) -> NDArray[np.float64]:
    """Coefficients (F, C) of a weighted ridge regression without intercept, in its dual form if that is smaller."""
    scaled = features * np.sqrt(weights)[:, None]
    goal = targets * np.sqrt(weights)[:, None]
    rows, columns = scaled.shape
    if rows < columns:
        return np.asarray(scaled.T @ np.linalg.solve(scaled @ scaled.T + penalty * np.eye(rows), goal))
    return np.asarray(np.linalg.solve(scaled.T @ scaled + penalty * np.eye(columns), scaled.T @ goal))
