"""Pairs of a text and a video made of captions, as tensors for training.

The rows of all captions are made once, for every expert; a video is then the numbers of the captions that its experts
saw. So a batch is as the task would make it, without making it again in every epoch.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from wander.backbones._mmt_sizes import PUBLISHED
from wander.backbones.mmt import MMT
from wander.errors import UsageError
from wander.tasks._texts import BertText, bert_tokenizer_json
from wander.training.datasets import open_dataset
from wander.training.datasets._stand_ins import StandIns, words
from wander.training.datasets.msrvtt import MISSING, Msrvtt, Video, training_captions, videos
from wander.training.loop import Examples

TOKENIZER = "tokenizer.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LEAST = 2
"""How often a word must be said in training to have a token of its own; the others are spelt."""
QUERIES = (0, 1, 2, 3)
CHUNK = 2048
NOBODY = -1


class Corpus(Protocol):
    """Pairs of a text and a video, as the recipes of text-video take them.

    Attributes:
        source: what the data is, for provenance.
        widths: expert -> D_m.
        tokens: rows of an expert that a video may have.
        train, valid: the pairs.
        vocabulary: the tokens, in the order of their ids; `tokenizer` is their file, `text` how words become ids.
        tables: expert -> (rows, D_m), all the features that there are.
    """

    source: str
    widths: dict[str, int]
    tokens: int
    train: list[Video]
    valid: list[Video]
    vocabulary: list[str]
    text: BertText
    tables: dict[str, Tensor]

    @property
    def tokenizer(self) -> bytes: ...

    def rarity(self) -> Tensor:
        """idf of every token, 0 for those that are no words."""

    def examples(self, chosen: Sequence[Video], seed: int) -> Examples:
        """Ids (N, L) of the texts, numbers (N, M, T) of the rows that experts have; targets (N) are the videos."""

    def sample(self, chosen: Sequence[Video], number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """So many texts, and for each the number of a row that stands for it: ids (N, L) and numbers (N)."""


class Vocabulary:
    """The words of training captions as tokens.

    Attributes:
        tokens: in the order of their ids.
        text: how words become ids, with at most `most_words` of a text.
    """

    def __init__(self, captions: Sequence[str], most_words: int) -> None:
        seen = Counter(word for caption in captions for word in words(caption))
        letters = sorted({letter for word in seen for letter in word})
        own = sorted(word for word, count in seen.items() if count >= LEAST and word not in letters)
        self.tokens = [*SPECIAL, ".", "?", "!", *letters, *(f"##{letter}" for letter in letters), *own]
        # [CLS], the words, a full stop, [SEP].
        self.text = BertText(file=TOKENIZER, max_length=most_words + 3, pad=False, max_words=most_words, sentence=True)

    @property
    def tokenizer(self) -> bytes:
        """The file that the task reads."""
        return bert_tokenizer_json("\n".join(self.tokens) + "\n", lower_case=True).encode()

    def ids(self, captions: Sequence[str]) -> Tensor:
        """(N, L), padded with 0."""
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / TOKENIZER).write_bytes(self.tokenizer)
            tokenizer = self.text.load(Path(scratch))
        found = torch.zeros(len(captions), self.text.max_length, dtype=torch.int64)
        for row, caption in enumerate(captions):
            ids = torch.from_numpy(tokenizer(caption)["input_ids"])
            found[row, : len(ids)] = ids
        return found

    def rarity(self, weights: Mapping[str, float]) -> Tensor:
        """The weights of words, 0 for tokens that are none."""
        return torch.tensor([weights.get(token, 0.0) if token not in SPECIAL else 0.0 for token in self.tokens])


class Captions(Corpus):
    """The test split is never opened.

    Attributes:
        source: what the data is, for provenance.
        widths: expert -> D_m, of the published models.
        train, valid: videos, of train once for each of their captions.
        vocabulary: the tokens, in the order of their ids.
        tables: expert -> float16 (captions, D_m), the features that each caption stands for.
    """

    def __init__(self, folder: Path, tokens: int, most_words: int) -> None:
        """Videos with at most `tokens` rows an expert, texts of at most so many words. Raises UsageError."""
        dataset = open_dataset(folder)
        if not isinstance(dataset, Msrvtt):
            raise UsageError(f"{folder} holds no captions of videos ({dataset.source})")
        self.source = dataset.source
        self.widths = {name: width for name, (width, _) in PUBLISHED.items()}
        self.train, self.valid = videos(folder, "train", QUERIES), videos(folder, "valid")
        self.made = StandIns(training_captions(folder), MISSING, tokens)
        self.tokens = tokens
        self._words = Vocabulary(training_captions(folder), most_words)
        self.vocabulary, self.text = self._words.tokens, self._words.text
        everything = dict.fromkeys(
            caption for one in (*self.train, *self.valid) for caption in (one.query, *one.others)
        )
        self._numbers = {caption: number for number, caption in enumerate(everything)}
        self.tables = {name: self._table(list(everything), name) for name in self.widths}
        self._ids = self._words.ids(list(everything))

    @property
    def tokenizer(self) -> bytes:
        return self._words.tokenizer

    def rarity(self) -> Tensor:
        return self._words.rarity(self.made.weights)

    def _table(self, captions: list[str], name: str) -> Tensor:
        parts = (captions[at : at + CHUNK] for at in range(0, len(captions), CHUNK))
        rows = [self.made.rows(part, name, self.widths[name]).astype(np.float16) for part in parts]
        return torch.from_numpy(np.concatenate(rows))

    def examples(self, chosen: Sequence[Video], seed: int) -> Examples:
        """Ids (N, L) of the queries, numbers (N, M, T) of the captions that experts saw; targets (N) are the videos."""
        hands = torch.full((len(chosen), len(self.widths), self.tokens), NOBODY, dtype=torch.int64)
        for row, video in enumerate(chosen):
            # The query is part of the draw, so that two pairs of one video are dealt differently.
            rng = np.random.default_rng([*video.rng(seed).integers(1 << 30, size=2), self._numbers[video.query]])
            dealt = self.made.deal(video.others, list(self.widths), rng)
            for place, name in enumerate(self.widths):
                for token, caption in enumerate(dealt.get(name, ())):
                    hands[row, place, token] = self._numbers[caption]
        ids = self._ids[[self._numbers[video.query] for video in chosen]]
        names = {name: number for number, name in enumerate(dict.fromkeys(video.id for video in chosen))}
        return Examples((ids, hands), torch.tensor([names[video.id] for video in chosen]))

    def sample(self, chosen: Sequence[Video], number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """So many captions of the videos: their ids (N, L) and their numbers (N)."""
        said = sorted({self._numbers[caption] for one in chosen for caption in (one.query, *one.others)})
        drawn = torch.from_numpy(np.sort(rng.permutation(said)[:number]))
        return self._ids[drawn], drawn


class Watching(nn.Module):
    """A host that is given captions' numbers: ids (B, L) and hands (B, M, T) to both its vectors (B, 2·M·E)."""

    def __init__(self, host: MMT, captions: Corpus) -> None:
        super().__init__()
        self.host = host
        self._captions = (captions,)

    def video(self, hands: Tensor) -> tuple[Tensor, ...]:
        """What the video tower takes."""
        there = hands != NOBODY
        features = [
            table[hands[:, place].clamp(min=0)].float() * there[:, place, :, None]
            for place, table in enumerate(self._captions[0].tables.values())
        ]
        return (*features, *(rows.amax(1) for rows in features), torch.ones_like(hands), there.long())

    def forward(self, ids: Tensor, hands: Tensor) -> Tensor:
        # What no item of the batch has is not computed: an adapter alone would tell the difference.
        ids = ids[:, : int((ids != 0).sum(1).max())]
        if self.host.adapter is None:
            hands = hands[:, :, : max(1, int((hands != NOBODY).sum(2).max()))]
        query, _ = self.host.text(ids, (ids != 0).long())
        video, _ = self.host.video(*self.video(hands))
        return torch.cat([query, video], 1)
