"""Training and validation split of captioned images as tensors, with crops and a vocabulary. Knows no model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wander.backbones.beit3 import PAD
from wander.errors import InputError, UsageError
from wander.tasks._images import ImagePreprocessing, image_array, load_image
from wander.tasks._texts import Beit3Text, Beit3Tokenizer
from wander.training.datasets import Split, open_dataset
from wander.training.datasets.flickr8k import Flickr8k
from wander.training.recipes._captions import further_captions, vocabulary

VOCABULARY = "captions.spm"
GRAY = (0.5, 0.5, 0.5)
LEAST_AREA = 0.5
"""A crop has at least so much of a picture; its sides are drawn apart."""

Pictures = NDArray[np.uint8]
Texts = tuple[Tensor, Tensor]
"""Ids and padding (1 at padding), int64 (N, T)."""


class Captioned:
    """The test split is never opened.

    Attributes:
        source: what the data is, for provenance.
        vocabulary: the SentencePiece model of the training captions.
        tokens: number of token ids.
        image, text: how the task is to read them.
        train, valid: images, captions, and of every caption the number of its image.
        more: token ids of the captions of further things, each a list.
    """

    def __init__(self, folder: Path, image_size: int, pieces: int, max_length: int, more: Path | None) -> None:
        """Raises UsageError for unfit data."""
        dataset = open_dataset(folder)
        if not isinstance(dataset, Flickr8k):
            raise UsageError(f"{folder} holds no images with captions ({dataset.source})")
        self.source = dataset.source
        train, valid = dataset.load(folder, "train", ()), dataset.load(folder, "valid", ())
        self.vocabulary = vocabulary([item["text"] for item in train.items if "text" in item], pieces)
        self.image = ImagePreprocessing(size=(image_size, image_size), resample="bicubic", mean=GRAY, std=GRAY)
        self.text = Beit3Text(file=VOCABULARY, max_length=max_length, pad=False)
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / VOCABULARY).write_bytes(self.vocabulary)
            self._tokenizer = Beit3Tokenizer(self.text, Path(place))
        self.tokens = self._tokenizer.size
        self.train, self.valid = self._part(train), self._part(valid)
        self.more = [[self.ids(text) for text in texts] for texts in further_captions(more)] if more else []

    def ids(self, text: str) -> list[int]:
        return self._tokenizer(text)["text_ids"].tolist()

    def _part(self, split: Split) -> CaptionedPart:
        labels: dict[str, list[Any]] = {side: [] for side in ("image", "text")}
        values: dict[str, list[Any]] = {side: [] for side in ("image", "text")}
        for name, item, label in zip(split.ids, split.items, split.labels, strict=True):
            ((side, value),) = item.items()
            try:
                values[side].append(load_image(value) if side == "image" else self.ids(value))
            except InputError as error:
                raise UsageError(f"item {name}: {error}") from error
            labels[side].append(label)
        return CaptionedPart(values["image"], values["text"], np.array(labels["text"]), self.image)


class CaptionedPart:
    """One split.

    Attributes:
        pictures: as they are, in RGB.
        captions: token ids of each caption.
        owners: (captions) int64, the number of the picture of each.
    """

    def __init__(
        self,
        pictures: Sequence[Image.Image],
        captions: Sequence[list[int]],
        owners: NDArray[np.int64],
        image: ImagePreprocessing,
    ) -> None:
        self.pictures, self.captions, self.owners, self._image = pictures, captions, owners, image

    def __len__(self) -> int:
        return len(self.pictures)

    def images(self) -> Tensor:
        """As they are served: float32 (N, 3, s, s)."""
        return torch.from_numpy(np.stack([image_array(picture, self._image) for picture in self.pictures]))

    def crops(self, each: int, side: int, seed: int) -> Pictures:
        """The whole picture and `each` - 1 parts of it, half of them mirrored: (N, each, side, side, 3).

        The same parts for any side.
        """
        rng = np.random.default_rng(seed)
        return np.stack([[crop(picture, side, rng, whole=not n) for n in range(each)] for picture in self.pictures])


def crop(picture: Image.Image, side: int, rng: np.random.Generator, *, whole: bool) -> Pictures:
    """(side, side, 3), resized as the task does it."""
    width, height = np.array(picture.size) * (1 if whole else np.sqrt(rng.uniform(LEAST_AREA, 1, 2)))
    left, top = (0, 0) if whole else (rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height))
    box = (left, top, left + width, top + height)
    part = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))
    return part[:, ::-1] if not whole and rng.random() < 0.5 else part


def patchwork(pictures: Pictures, *seed: int) -> Pictures:
    """A part of each picture beside or above a part of another. The same parts for pictures of any size."""
    rng = np.random.default_rng(seed)
    number, side = pictures.shape[:2]
    others, cuts = rng.permutation(number), np.asarray(rng.uniform(0.25, 0.75, number))
    turned = np.asarray(rng.random(number) < 0.5)
    first = (np.arange(side) + 0.5) / side < cuts[:, None]
    mask = np.where(turned[:, None, None], first[:, None, :], first[:, :, None])
    return np.where(mask[..., None], pictures, pictures[others])


def pixels(pictures: Pictures) -> Tensor:
    """Pictures (N, s, s, 3) as the task normalises them: float32 (N, 3, s, s)."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - GRAY[0]) / GRAY[0]


def padded(captions: Sequence[Sequence[int]]) -> Texts:
    """Captions as one batch, as long as the longest."""
    ids = pad_sequence([torch.tensor(caption) for caption in captions], batch_first=True, padding_value=PAD)
    return ids, (ids == PAD).long()
