"""A vocabulary of captions, and a space of sentences made of nothing but which words stand in captions of one thing.

Words are vectors by their positive pointwise mutual information: two are near if they describe the same pictures. A
sentence is the sum of its words, each weighted by how rare it is. numpy only, but for the decomposition.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray

from wander.errors import UsageError

Floats = NDArray[np.float32]
SEEN = 3
"""A word in fewer captions has no vector."""
SPARE = 40
"""Dimensions beyond those asked for, with which the decomposition is better."""


def vocabulary(captions: Sequence[str], size: int) -> bytes:
    """A SentencePiece model of at most `size` pieces, lower case."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def further_captions(path: Path) -> list[list[str]]:
    """Captions of other things without pictures, by `video_id`. Raises UsageError for a file that is none."""
    found: dict[str, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["video_id"], []).append(row["caption"])
    except (OSError, KeyError) as error:
        raise UsageError(
            f"{path} holds no further captions ({error}); name another file, or none with --set more_captions=null"
        ) from error
    return list(found.values())


class Sentences:
    """`Sentences(ids, things, more, pieces, size)(ids)`: unit vectors (N, size) float32 of sentences of token ids.

    The mean of the things' own vectors is 0, so that what all captions share says nothing.
    """

    def __init__(
        self,
        captions: Sequence[Sequence[int]],
        things: NDArray[np.int64],
        more: Sequence[Sequence[Sequence[int]]],
        tokens: int,
        size: int,
    ) -> None:
        """
        Args:
            captions, things: token ids of each caption, and the number of what it describes.
            more: further things, each a list of captions, which say only which words go together.
            tokens: size of the vocabulary.
            size: of the vectors.
        """
        self._tokens = tokens
        words = self._words(captions)
        seen = words.sum(0)
        self.rarity: Floats = np.where(seen < SEEN, 0, np.log((len(words) + 1) / (seen + 1))).astype(np.float32)
        described = np.zeros((int(things.max()) + 1 + len(more), tokens), np.float32)
        for row, thing in zip(words, things, strict=True):
            described[thing] += row
        for number, sentences in enumerate(more, int(things.max()) + 1):
            described[number] = self._words(sentences).sum(0)
        present = ((described > 0) & (self.rarity > 0)).astype(np.float32)
        self.words: Floats = word_vectors(present, size)
        self._mean: Floats = np.zeros(size, np.float32)
        placed = self(captions)
        own = [unit(placed[things == thing].mean(0, dtype=np.float32)) for thing in range(int(things.max()) + 1)]
        self._mean = np.asarray(np.mean(own, axis=0), np.float32)

    def __call__(self, captions: Sequence[Sequence[int]]) -> Floats:
        told = np.asarray((self._words(captions) * self.rarity) @ self.words, np.float32)
        return unit(unit(told) - self._mean)

    def _words(self, captions: Sequence[Sequence[int]]) -> Floats:
        """(N, tokens): 1 for each token that a caption holds."""
        found = np.zeros((len(captions), self._tokens), np.float32)
        for row, ids in zip(found, captions, strict=True):
            row[list(set(ids))] = 1
        return found


def word_vectors(present: Floats, size: int) -> Floats:
    """Factors (tokens, size) of the positive pointwise mutual information of words within things (things, tokens)."""
    together = present.T @ present / len(present)
    alone = np.diag(together) + 1e-9
    information = np.log((together + 1e-12) / np.outer(alone, alone)).clip(0)
    left, values, _ = torch.svd_lowrank(torch.from_numpy(information.astype(np.float32)), size + SPARE, niter=4)
    return np.asarray((left * values.sqrt())[:, :size].numpy(), np.float32)


def unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9), np.float32)
