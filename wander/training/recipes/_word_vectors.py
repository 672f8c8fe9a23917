"""Word vectors in closed form: where words stand, and what they say of the target.

The former is a truncated singular value decomposition of positive pointwise mutual information (Levy, Goldberg, "Neural
Word Embedding as Implicit Matrix Factorization", NIPS 2014), the latter a ridge regression. Knows no model.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.75
"""Power of the frequencies of contexts, so that rare ones do not count for too much."""


def vocabulary(texts: Sequence[Sequence[str]], least: int) -> list[str]:
    """The words that `least` texts have, sorted."""
    having = Counter(word for text in texts for word in set(text))
    return sorted(word for word, texts_ in having.items() if texts_ >= least)


def word_vectors(texts: Sequence[Sequence[str]], words: Sequence[str], width: int, window: int) -> NDArray[np.float32]:
    """(1 + words, width): zeros for unknown words, then a vector for every word, of mean length 1.

    Two words count as together if at most `window` words apart, the less the further.
    """
    number = {word: row for row, word in enumerate(words)}
    together = np.zeros((len(words), len(words)))
    for text in texts:
        rows = np.array([number.get(word, -1) for word in text])
        for apart in range(1, min(window, len(rows) - 1) + 1):
            one, other = rows[:-apart], rows[apart:]
            both = (one >= 0) & (other >= 0)
            np.add.at(together, (one[both], other[both]), 1 / apart)
    together += together.T
    share = together / together.sum()
    context = share.sum(0) ** SMOOTHING
    chance = share.sum(1)[:, None] * (context / context.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.where(share > 0, np.log(share / chance), 0).clip(0)
    left, values, _ = np.linalg.svd(information, full_matrices=False)
    width_ = min(width, len(words))
    vectors = np.zeros((len(words), width))
    # The sign of a singular vector is free; here its largest entry is positive, on every machine.
    signs = np.sign(np.take_along_axis(left, np.abs(left).argmax(0)[None], 0)[0])
    vectors[:, :width_] = (left * signs * np.sqrt(values))[:, :width_]
    vectors /= np.linalg.norm(vectors, axis=1).mean()
    return np.concatenate([np.zeros((1, width)), vectors]).astype(np.float32)


def polarity(
    texts: Sequence[Sequence[str]], words: Sequence[str], targets: NDArray[np.float32], penalty: float
) -> NDArray[np.float64]:
    """(words): what having a word adds to the target, by ridge regression of targets on which words a text has."""
    number = {word: column for column, word in enumerate(words)}
    having = np.zeros((len(texts), len(words)))
    for row, text in enumerate(texts):
        having[row, [number[word] for word in set(text) if word in number]] = 1
    having -= having.mean(0)
    inner = having @ having.T
    inner[np.diag_indices_from(inner)] += penalty
    return having.T @ np.linalg.solve(inner, targets - targets.mean())


def npy(array: NDArray[np.float32]) -> bytes:
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
