"""Pairs of a text and a still picture that is watched as a video, as tensors for training.

A real clip brings a row every half second, a still one row. So that training knows several, a picture is seen in
several parts and mirrored, as by a camera that moves over it, and a pair has some of these views in random order.
"""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wander.errors import UsageError
from wander.extractors import VideoLimits, Watching
from wander.extractors._clip import Clip, Wanted, read_clip
from wander.training.datasets import open_dataset
from wander.training.datasets._stand_ins import words
from wander.training.datasets._stills import still
from wander.training.datasets.flickr8k import Flickr8k
from wander.training.datasets.msrvtt import Video
from wander.training.loop import Examples
from wander.training.recipes._stand_in_corpus import NOBODY, Corpus, Vocabulary

VIEWS = 8
"""Of a training picture, the whole one first."""
LEAST = 0.6
"""Sides of a part, as shares of the picture's."""
SIDE = 128
"""Shorter side of the pictures that parts are cut from."""


class Stills(Corpus):
    """The test split is never opened.

    Attributes:
        train, valid: a pair for every caption.
        tables: expert -> (views of all pictures, D_m).
    """

    def __init__(
        self, folder: Path, extractors: Mapping[str, Mapping[str, Any]], tokens: int, most_words: int, seed: int
    ) -> None:
        """Videos with at most `tokens` rows an expert, texts of at most so many words. Raises UsageError."""
        dataset = open_dataset(folder)
        if not isinstance(dataset, Flickr8k):
            raise UsageError(f"{folder} holds no pictures with captions ({dataset.source})")
        self.source = dataset.source
        self.tokens = tokens
        watching = Watching(extractors, folder, VideoLimits())
        self.widths = {name: one.dimension for name, one in watching.bound.items()}
        with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] in ("train", "valid")]
        self.train, self.valid = (
            [Video(row["image"], row["caption"], ()) for row in rows if row["split"] == split]
            for split in ("train", "valid")
        )
        said = [pair.query for pair in self.train]
        seen = Counter(word for caption in said for word in set(words(caption)))
        self._weights = {word: log(len(said) / count) for word, count in seen.items()}
        self._words = Vocabulary(said, most_words)
        self.vocabulary, self.text = self._words.tokens, self._words.text
        everything = list(dict.fromkeys(pair.query for pair in (*self.train, *self.valid)))
        self._numbers = {caption: number for number, caption in enumerate(everything)}
        self._ids = self._words.ids(everything)
        rng = np.random.default_rng(seed)
        self._views: dict[str, list[int]] = {}
        made: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self.widths}
        count = 0
        for row in {row["image"]: row for row in rows}.values():
            clip = still((folder / "images" / row["image"]).read_bytes(), int(row["width"]), int(row["height"]))
            found = _features(watching, clip, VIEWS if row["split"] == "train" else 1, rng)
            for name, values in found.items():
                made[name].append(values)
            number = len(next(iter(found.values())))
            self._views[row["image"]] = list(range(count, count + number))
            count += number
        self.tables = {name: torch.from_numpy(np.concatenate(values)) for name, values in made.items()}

    @property
    def tokenizer(self) -> bytes:
        return self._words.tokenizer

    def rarity(self) -> Tensor:
        return self._words.rarity(self._weights)

    def examples(self, chosen: Sequence[Video], seed: int) -> Examples:
        hands = torch.full((len(chosen), len(self.widths), self.tokens), NOBODY, dtype=torch.int64)
        for row, pair in enumerate(chosen):
            views = self._views[pair.id]
            rng = np.random.default_rng([seed, zlib.crc32(pair.id.encode()), self._numbers[pair.query]])
            number = int(rng.integers(1, min(len(views), self.tokens) + 1))
            hands[row, :, :number] = torch.from_numpy(rng.permutation(views)[:number])
        ids = self._ids[[self._numbers[pair.query] for pair in chosen]]
        names = {name: number for number, name in enumerate(dict.fromkeys(pair.id for pair in chosen))}
        return Examples((ids, hands), torch.tensor([names[pair.id] for pair in chosen]))

    def sample(self, chosen: Sequence[Video], number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        pairs = [(self._numbers[pair.query], view) for pair in chosen for view in self._views[pair.id]]
        drawn = [pairs[place] for place in np.sort(rng.permutation(len(pairs))[:number])]
        return self._ids[[text for text, _ in drawn]], torch.tensor([view for _, view in drawn])


def _features(watching: Watching, still: bytes, views: int, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Of the whole picture, as a server makes them, and of parts of it, a row each, by expert."""
    whole = watching(still)
    if unseen := [name for name in watching.bound if name not in whole]:
        raise UsageError(f"{unseen[0]} sees nothing in a single picture; leave it out")
    found = {name: [features.rows[0]] for name, features in whole.items()}
    picture = read_clip(still, Wanted(step=1, side=SIDE, sound=False)).pictures[0]
    height, width = picture.shape[:2]
    for _ in range(views - 1):
        h, w = (max(1, round(side * rng.uniform(LEAST, 1))) for side in (height, width))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        part = picture[top : top + h, left : left + w]
        part = part[:, ::-1] if rng.random() < 0.5 else part
        clip = Clip(np.ascontiguousarray(part)[None], np.zeros(1), np.zeros(0, np.float32))
        for name, extractor in watching.bound.items():
            features = extractor(clip)
            assert features is not None, f"{name} saw the whole picture"
            found[name].append(features.rows[0])
    return {name: np.stack(rows) for name, rows in found.items()}
