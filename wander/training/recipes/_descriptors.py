"""Hand-made descriptors of pictures, as one vector each: what a vision tower can learn to see without any caption.

Three descriptors, each over a pyramid of cells: colours (a histogram in CIELAB), oriented gradients, and how much each
of a dictionary of whitened patches is found (Coates, Lee, Ng 2011). Each gives a Gaussian kernel; the vector is the
kernel PCA of their mean. Fitted on training pictures alone. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from wander.extractors._statistics import Floats, Pictures, colours, gradients, unit

CHUNK = 256
"""Pictures at once."""
PATCH, STEP, PLACES, SAMPLED, ROUNDS = 6, 2, 3, 100_000, 10
"""Side and spacing of a dictionary's patches in pictures of half the size; places a side where they are counted;
patches and rounds of k-means that it is made with."""
THRESHOLD = 1.0
"""A patch counts for an entry by how far its likeness is above this."""


class Descriptors:
    """`Descriptors(pictures, entries, size, rng)(others)`: (N, size) float32, of mean 0 over the fitted pictures."""

    def __init__(self, pictures: Pictures, entries: int, size: int, rng: np.random.Generator) -> None:
        """entries: of the dictionary. size: of the vector, at most the number of pictures."""
        self._describe: tuple[Callable[[Pictures], Floats], ...] = (
            colours,
            gradients,
            Dictionary(pictures, entries, rng),
        )
        found = [in_chunks(describe, pictures) for describe in self._describe]
        # A histogram's bins are left in proportion; of the others each feature weighs the same.
        self._mean = [values.mean(0) for values in found]
        self._scale = [1.0, *(values.std(0) + values.std(0).mean() / 10 for values in found[1:])]
        self._fitted = self._standard(found)
        self._width = [float(np.median(distances(values, values))) for values in self._fitted]
        kernel = self._kernel(self._fitted)
        self._rows, self._all = kernel.mean(0), float(kernel.mean())
        values, vectors = np.linalg.eigh(self._centred(kernel).astype(np.float64))
        # Components nearer to equal weight than they are, for the first few would drown the others.
        self._axes = (vectors[:, ::-1][:, :size] / values[::-1][:size].clip(1e-9) ** 0.65).astype(np.float32)

    def __call__(self, pictures: Pictures) -> Floats:
        return in_chunks(self._vectors, pictures)

    def _vectors(self, pictures: Pictures) -> Floats:
        found = self._standard([describe(pictures) for describe in self._describe])
        return self._centred(self._kernel(found)) @ self._axes

    def _standard(self, found: list[Floats]) -> list[Floats]:
        return [(v - mean) / scale for v, mean, scale in zip(found, self._mean, self._scale, strict=True)]

    def _kernel(self, found: list[Floats]) -> Floats:
        parts = zip(found, self._fitted, self._width, strict=True)
        return np.mean([np.exp(-distances(a, b) / width) for a, b, width in parts], axis=0)

    def _centred(self, kernel: Floats) -> Floats:
        return kernel - kernel.mean(1, keepdims=True) - self._rows + self._all


class Dictionary:
    """How much of each of `entries` patches there is, in the whole picture and in each of its places."""

    def __init__(self, pictures: Pictures, entries: int, rng: np.random.Generator) -> None:
        small = halved(pictures)
        places = small.shape[1] - PATCH + 1
        which, top, left = rng.integers((len(small), places, places), size=(SAMPLED, 3)).T
        windows = sliding_window_view(small, (PATCH, PATCH), axis=(1, 2))
        patches = even(windows[which, top, left].reshape(SAMPLED, -1))
        self._mean = patches.mean(0)
        values, vectors = np.linalg.eigh(np.cov((patches - self._mean).T))
        self._whiten = ((vectors / np.sqrt(values + 0.1)) @ vectors.T).astype(np.float32)
        self._entries = spherical_means((patches - self._mean) @ self._whiten, entries, rng)

    def __call__(self, pictures: Pictures) -> Floats:
        windows = sliding_window_view(halved(pictures), (PATCH, PATCH), axis=(1, 2))
        return np.stack([self._one(window) for window in windows[:, ::STEP, ::STEP]])

    def _one(self, windows: Floats) -> Floats:
        side = len(windows)
        patches = (even(windows.reshape(side * side, -1)) - self._mean) @ self._whiten
        found = np.maximum(patches @ self._entries.T - THRESHOLD, 0).reshape(side, side, -1)
        edges = [round(side * place / PLACES) for place in range(PLACES + 1)]
        cells = [
            found[top:bottom, left:right].mean((0, 1))
            for top, bottom in pairwise(edges)
            for left, right in pairwise(edges)
        ]
        return np.sqrt(np.concatenate([*cells, found.mean((0, 1))]))


def spherical_means(rows: Floats, count: int, rng: np.random.Generator) -> Floats:
    """k-means of directions: (count, D) of length 1."""
    means = unit(rng.normal(size=(count, rows.shape[1])).astype(np.float32))
    for _ in range(ROUNDS):
        sums: Floats = (means / 100).astype(np.float32)
        for chunk in np.array_split(rows, max(1, len(rows) // 20_000)):
            likeness = chunk @ means.T
            nearest = likeness.argmax(1)
            np.add.at(sums, nearest, chunk * likeness[np.arange(len(chunk)), nearest][:, None])
        means = unit(sums)
    return means


def even(patches: Floats) -> Floats:
    """Patches (n, D) without their mean, and of one contrast unless they have hardly any."""
    patches = patches - patches.mean(1, keepdims=True)
    return patches / np.sqrt(patches.var(1, keepdims=True) + 10)


def halved(pictures: Pictures) -> Floats:
    number, side = pictures.shape[:2]
    return pictures.reshape(number, side // 2, 2, side // 2, 2, 3).mean((2, 4), dtype=np.float32)


def distances(a: Floats, b: Floats) -> Floats:
    """Squared, of all rows of a (n, D) to all of b (m, D): (n, m)."""
    return np.asarray((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T)


def in_chunks(describe: Callable[[Pictures], Floats], pictures: Pictures) -> Floats:
    return np.concatenate([describe(pictures[at : at + CHUNK]) for at in range(0, len(pictures), CHUNK)])
