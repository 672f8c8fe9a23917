"""Stand-ins for the features of MMT's experts, made of a video's captions. What is measured on them is a proxy.

MSR-VTT's features are not at hand, its captions are. So a caption stands for something that an expert saw: its words,
weighted by how rare they are, are hashed into a vector of the expert's real width. Like real features these are not
negative, and the maximum over rows is the words of all of them. Nothing is learned but the weights of the words, from
training captions.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

PLACES = 4
"""Of a word in a vector."""
WORD = re.compile(r"[a-z0-9]+")
Features = NDArray[np.float32]


def words(caption: str) -> list[str]:
    return WORD.findall(caption.lower())


class StandIns:
    """Attributes:

    weights: idf of every word of the training captions; `rarest` that of any other word.
    """

    def __init__(self, captions: Iterable[str], missing: float, most: int) -> None:
        """Learns from training captions.

        Args:
            missing: how likely a video lacks an expert. One is always there.
            most: captions that an expert gets, at most.
        """
        self.missing, self.most = missing, most
        seen: Counter[str] = Counter()
        number = 0
        for caption in captions:
            seen.update(set(words(caption)))
            number += 1
        self.weights = {word: log(number / count) for word, count in seen.items()}
        self.rarest = log(number)
        self._places: dict[tuple[str, int, str], NDArray[np.int64]] = {}

    def rows(self, captions: Sequence[str], expert: str, width: int) -> Features:
        """Captions as features of one expert: (n, width), each of length 1 unless it has no word."""
        said = [sorted(set(words(one)), key=lambda word: (self._weight(word), word)) for one in captions]
        flat = [word for own in said for word in own]
        found = np.zeros((len(captions), width), np.float32)
        if flat:
            places = np.stack([self._place(expert, width, word) for word in flat])
            weights = np.array([self._weight(word) for word in flat], np.float32)
            owners = np.repeat(np.arange(len(captions)), [len(own) for own in said])
            # Where words share a place, the rarest has it: it is assigned last.
            found[np.repeat(owners, PLACES), places.ravel()] = np.repeat(weights, PLACES)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)

    def _weight(self, word: str) -> float:
        return self.weights.get(word, self.rarest)

    def _place(self, expert: str, width: int, word: str) -> NDArray[np.int64]:
        key = (expert, width, word)
        if key not in self._places:
            named = (f"{expert}/{place}/{word}".encode() for place in range(PLACES))
            self._places[key] = np.array([zlib.crc32(name) % width for name in named])
        return self._places[key]

    def deal(
        self, captions: Sequence[str], experts: Sequence[str], rng: np.random.Generator
    ) -> Mapping[str, Sequence[str]]:
        """Some experts, and the captions that each of them saw.

        All captions are dealt, in random order; if they are fewer than the experts, they are dealt again.
        """
        there = [name for name in experts if rng.random() >= self.missing] or [str(rng.choice(experts))]
        cards = [captions[i] for i in rng.permutation(len(captions))]
        cards *= max(1, -(-len(there) // len(cards)))
        return {name: cards[place :: len(there)][: self.most] for place, name in enumerate(there)}

    def video(
        self, captions: Sequence[str], widths: Mapping[str, int], rng: np.random.Generator
    ) -> dict[str, dict[str, dict[str, Features]]]:
        """A video as the task takes it: features (rows, width) of the experts that it has."""
        hands = self.deal(captions, list(widths), rng)
        return {"experts": {name: {"features": self.rows(hand, name, widths[name])} for name, hand in hands.items()}}
