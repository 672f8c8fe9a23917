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
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
"""(N, s, s, 3) RGB; s is a multiple of 32."""
Floats = NDArray[np.float32]

CHUNK = 256
"""Pictures at once."""
TONES = (5, 6, 6)
"""Bins of lightness and of the two opponent colours."""
ANGLES = 9
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


def colours(pictures: Pictures) -> Floats:
    """Square roots of the histograms of 1, 4 and 16 cells."""
    lab = cielab(pictures)
    tones = [
        np.clip((lab[..., axis] + shift) / 100 * bins, 0, bins - 1).astype(np.int64)
        for axis, (shift, bins) in enumerate(zip((0, 50, 50), TONES, strict=True))
    ]
    bins = int(np.prod(TONES))
    code = np.ravel_multi_index(tones, TONES)
    found = []
    for cells in (1, 2, 4):
        for cell in cut(code, cells):
            counts = np.stack([np.bincount(row.ravel(), minlength=bins) for row in cell])
            found.append(np.sqrt(counts / cell[0].size) / cells)
    return np.concatenate(found, 1).astype(np.float32)


def gradients(pictures: Pictures) -> Floats:
    """Orientations of the lightness's gradient in cells of four sizes, each evened out over its neighbourhood."""
    light = cielab(pictures)[..., 0]
    down, right = np.gradient(light, axis=(1, 2))
    strength, turn = np.hypot(down, right), (np.arctan2(down, right) % np.pi) / np.pi * ANGLES
    below = np.floor(turn).astype(np.int64)
    share = (turn - below).astype(np.float32)
    votes = np.zeros((*light.shape, ANGLES), np.float32)
    np.put_along_axis(votes, below[..., None] % ANGLES, (strength * (1 - share))[..., None], -1)
    np.put_along_axis(votes, (below[..., None] + 1) % ANGLES, (strength * share)[..., None], -1)
    number, side = light.shape[:2]
    found = []
    for size in (8, 16, 32, side):
        cells = side // size
        sums = votes.reshape(number, cells, size, cells, size, ANGLES).sum((2, 4))
        padded = np.pad((sums**2).sum(-1), ((0, 0), (1, 1), (1, 1)), "edge")
        energy = sliding_window_view(padded, (3, 3), axis=(1, 2)).mean((-2, -1))
        level = np.minimum(sums / np.sqrt(energy * ANGLES + 1e-3)[..., None], 1)
        found.append(unit(np.sqrt(level).reshape(number, -1)))
    return np.concatenate(found, 1).astype(np.float32)


def cielab(pictures: Pictures) -> Floats:
    """sRGB to CIELAB under D65: lightness 0..100 and two opponent colours."""
    rgb = pictures.astype(np.float32) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)
    x, y, z = np.moveaxis(np.cbrt(linear @ (matrix / matrix.sum(1, keepdims=True)).T), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def halved(pictures: Pictures) -> Floats:
    number, side = pictures.shape[:2]
    return pictures.reshape(number, side // 2, 2, side // 2, 2, 3).mean((2, 4), dtype=np.float32)


def cut(values: NDArray[np.int64], cells: int) -> list[NDArray[np.int64]]:
    """(N, s, s) to cells x cells parts, row by row."""
    return [part for band in np.split(values, cells, 1) for part in np.split(band, cells, 2)]


def unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def distances(a: Floats, b: Floats) -> Floats:
    """Squared, of all rows of a (n, D) to all of b (m, D): (n, m)."""
    return np.asarray((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T)


def in_chunks(describe: Callable[[Pictures], Floats], pictures: Pictures) -> Floats:
    return np.concatenate([describe(pictures[at : at + CHUNK]) for at in range(0, len(pictures), CHUNK)])
