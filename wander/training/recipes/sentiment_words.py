"""Sentiment of a typed sentence, on CMU-MOSI: a host of one modality, the words of an utterance.

Word vectors are a closed form (`_word_vectors`) and stay as they are. The late-fusion host over them is trained with a
head of its own, then frozen, and the adapter and a new head learn over it. With one modality there is nothing to fuse:
what the adapter does here is to pool all words, where the head alone reads the first token. It has no residual, so that
the whole score comes from what it pools. The baseline (`head_only`) is a new head alone, over the same frozen host and
by the same schedule.

The audio and video features of the data set take no part: those of the training and validation videos seem to tell
their labels, so that a model which sees them learns to rely on them and not on words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wander.backbones.late_fusion import LateFusion, LateFusionHead
from wander.checkpoints.folder import Description
from wander.errors import UsageError
from wander.signature import BATCH, TensorSpec
from wander.tasks.front_ends.words import WordsOptions, tokens
from wander.training.datasets import Split, open_dataset
from wander.training.datasets.mosi import Mosi
from wander.training.loop import Examples, Schedule, fit, reproducible, train_mode
from wander.training.recipes._late_fusion import (
    SMALLEST_STD,
    FusionSettings,
    fresh_host,
    frozen_under,
    metrics,
    with_provenance,
)
from wander.training.recipes._word_vectors import npy, polarity, vocabulary, word_vectors
from wander.training.recipes.base import Notify, Recipe, Trained, provenance, told

NAME, TASK, FIELD = "sentiment_words", "sentiment", "text"
LABELS = ("negative", "positive")
HEAD = LateFusionHead(out_dim=1)
EXAMPLE_WORDS = 6


class HostSchedule(Schedule):
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=32, ge=1)
    weight_decay: float = Field(default=0.05, ge=0)
    learning_rate: float = Field(default=2e-3, gt=0)


class SentimentWordsSettings(FusionSettings):
    """Attributes beside those of the host and the adapter:

    words: most of a sentence.
    least: training sentences that must have a word for it to be in the vocabulary.
    width, window: of the word vectors, and how far apart words are together.
    penalty: of the ridge regression that gives a word's polarity, the first feature of its vector.
    folds: parts of the training videos; polarities in a training sentence come from the parts without it.
    unread: share of the words that are unknown to the host and the head while they learn.
    """

    embed_dim: int = 40
    encoder_layers: int = 0
    dropout: float = Field(default=0.3, ge=0, lt=1)
    residual: bool = False
    words: int = Field(default=64, ge=1)
    least: int = Field(default=2, ge=1)
    width: int = Field(default=8, ge=4)
    penalty: float = Field(default=10.0, gt=0)
    folds: int = Field(default=5, ge=2)
    window: int = Field(default=4, ge=1)
    unread: float = Field(default=0.3, ge=0, lt=1)
    host: HostSchedule = HostSchedule()
    adapter: Schedule = Schedule()


class Sentences:
    """Training and validation split; the test split is never opened.

    Attributes:
        words: the vocabulary; `vectors` (1 + words, width) float32 are zeros for unknown words, then its vectors.
        train, valid: vectors of words (N, words, width) float32, 0 after the end too; targets (N, 1). A training
            sentence has polarities of other videos: those of its own would know its target.
    """

    def __init__(self, folder: Path, settings: SentimentWordsSettings) -> None:
        """Raises UsageError for unfit data."""
        dataset = open_dataset(folder)
        if not isinstance(dataset, Mosi):
            raise UsageError(f"{folder} holds no transcripts with sentiment ({dataset.source})")
        self.source = dataset.source
        self.inputs = (TensorSpec(name=FIELD, dtype="float32", dims=(BATCH, settings.words, settings.width)),)
        train, valid = (dataset.load_raw(folder, split, (FIELD,)) for split in ("train", "valid"))
        texts = [tokens(item[FIELD]) for item in train.items]
        self.words = vocabulary(texts, settings.least)
        where = word_vectors(texts, self.words, settings.width - 1, settings.window)
        whole = polarity(texts, self.words, train.labels, settings.penalty)
        scale = max(float(whole.std()), SMALLEST_STD)
        self.vectors = joined(whole / scale, where)
        self.valid = examples(valid, self._numbers(valid, settings.words), self.vectors)
        numbers = self._numbers(train, settings.words)
        self.train = examples(train, numbers, self.vectors)
        fold = np.unique(train.groups, return_inverse=True)[1] % settings.folds
        for part in range(settings.folds):
            own, other = np.flatnonzero(fold == part), np.flatnonzero(fold != part)
            found = polarity([texts[row] for row in other], self.words, train.labels[other], settings.penalty)
            self.train.inputs[0][own] = torch.from_numpy(joined(found / scale, where)[numbers[own]])

    def _numbers(self, split: Split, most: int) -> NDArray[np.int64]:
        """Rows of the vectors. What is longer than a sentence may be is cut, in training alone."""
        number = {word: row for row, word in enumerate(self.words, 1)}
        rows = np.zeros((len(split), most), np.int64)
        for row, item in zip(rows, split.items, strict=True):
            found = [number.get(word, 0) for word in tokens(item[FIELD])[:most]]
            row[: len(found)] = found
        return rows

    def describe(self) -> Description:
        """What a trained model is for; its provenance is still to be told."""
        preprocessing = {"front_ends": {FIELD: WordsOptions().model_dump(mode="json")}}
        return Description(task=TASK, labels=LABELS, preprocessing=preprocessing)

    def assets(self) -> dict[str, bytes]:
        """The files that the preprocessing names."""
        options = WordsOptions()
        return {options.vocabulary: ("\n".join(self.words) + "\n").encode(), options.vectors: npy(self.vectors)}

    def example(self, seed: int) -> dict[str, Any]:
        """Random words of the vocabulary; no sentence of the data set."""
        return {FIELD: " ".join(np.random.default_rng(seed).choice(self.words, EXAMPLE_WORDS).tolist())}


def joined(first: NDArray[np.float64], where: NDArray[np.float32]) -> NDArray[np.float32]:
    """A table of vectors with one feature more, which comes first and is 0 for unknown words."""
    return np.concatenate([np.append(0, first)[:, None], where], 1).astype(np.float32)


def examples(split: Split, numbers: NDArray[np.int64], vectors: NDArray[np.float32]) -> Examples:
    return Examples((torch.from_numpy(vectors[numbers]),), torch.from_numpy(split.labels).unsqueeze(1))


class Reader(nn.Module):
    """A host that misses words while it learns."""

    def __init__(self, host: LateFusion, unread: float) -> None:
        super().__init__()
        self.host = host
        self.unread = unread

    def train(self, mode: bool = True) -> Self:
        """Parts of the host without a trained parameter run as they will be served, in `fit` as everywhere."""
        super().train(mode)
        if mode:
            train_mode(self.host)
        return self

    def forward(self, words: Tensor) -> Tensor:
        """Vectors of words (N, words, width) to scores (N, 1)."""
        if self.training:
            words = words.masked_fill((torch.rand(words.shape[:2]) < self.unread)[..., None], 0.0)
        return self.host(words)


class SentimentWords(Recipe):
    """`train_host`, then `train_adapted`."""

    summary: ClassVar[str] = "Wander over the words of a sentence, in a frozen late-fusion host, on CMU-MOSI"
    Settings: ClassVar[type[FusionSettings]] = SentimentWordsSettings

    def train(
        self,
        folder: Path,
        settings: Any,
        *,
        seed: int = 0,
        head_only: bool = False,
        notify: Notify = lambda stage, epoch, epochs, loss: None,
    ) -> Trained:
        assert isinstance(settings, SentimentWordsSettings)
        sentences = Sentences(folder, settings)
        reader, host_report = train_host(sentences, settings, seed, notify)
        adapted, report = train_adapted(sentences, settings, reader, seed, notify, head_only=head_only)
        about = with_provenance(
            sentences.describe(),
            provenance(
                NAME,
                settings,
                seed,
                trained="head" if head_only else "adapter and head",
                data=sentences.source,
                selection=f"lowest MAE on the {len(sentences.valid)} utterances of the validation split",
                host=host_report,
                **report,
            ),
        )
        example, assets = sentences.example(seed), sentences.assets()
        return Trained(adapted.host, HEAD.model_dump(), about, f"late_fusion-mosi-words-seed{seed}", example, assets)


def train_host(
    sentences: Sentences, settings: SentimentWordsSettings, seed: int, notify: Notify
) -> tuple[Reader, dict[str, Any]]:
    """Host with its own head, and how that went."""
    with reproducible(seed, 0):
        reader = _reader(sentences, settings, adapter=False)
        kept = fit(
            reader, sentences.train, sentences.valid, F.l1_loss, settings.host, told(notify, "host", settings.host)
        )
    return reader, {
        "utterances": len(sentences.train),
        "epoch": kept.epoch,
        "valid": metrics(TASK, reader, sentences.valid),
    }


def train_adapted(
    sentences: Sentences,
    settings: SentimentWordsSettings,
    reader: Reader,
    seed: int,
    notify: Notify,
    *,
    head_only: bool = False,
) -> tuple[Reader, dict[str, Any]]:
    """A new head, and unless `head_only` an adapter, over the frozen encoder, and how that went."""
    with reproducible(seed, 1):
        adapted = _reader(sentences, settings, adapter=not head_only)
        frozen_under(reader.host, adapted.host, settings)
        told_ = told(notify, "adapter", settings.adapter)
        kept = fit(adapted, sentences.train, sentences.valid, F.l1_loss, settings.adapter, told_)
    return adapted, {
        "utterances": len(sentences.train),
        "epoch": kept.epoch,
        "valid": metrics(TASK, adapted, sentences.valid),
    }


def _reader(sentences: Sentences, settings: SentimentWordsSettings, *, adapter: bool) -> Reader:
    # Word vectors are of one size already, and padding is 0: the host leaves them as they are.
    scale = {FIELD: (np.zeros(settings.width, np.float32), np.ones(settings.width, np.float32))}
    return Reader(fresh_host(sentences.inputs, scale, settings, HEAD, adapter=adapter), settings.unread)


plugin = SentimentWords
