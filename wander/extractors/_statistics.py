"""Statistics of pictures that need no training: colours, and the orientations of what is in them. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
"""(N, s, s, 3) RGB; s is a multiple of 32."""
Floats = NDArray[np.float32]

TONES = (5, 6, 6)
"""Bins of lightness and of the two opponent colours."""
ANGLES = 9
GRIDS = (1, 2, 4)
"""Cells a side in which colours are counted."""
CELLS = (8, 16, 32)
"""Sides of the cells in which orientations are; and the whole picture."""


def colours(pictures: Pictures, grids: tuple[int, ...] = GRIDS) -> Floats:
    """Square roots of the histograms of cells x cells parts, for each of the `grids`."""
    # Grey is zero on both opponent axes, which is where bins meet, and comes out of float32 as a little more or less,
    # as the processor rounds: without this, its pixels would be counted now here, now there.
    lab = cielab(pictures).round(3)
    tones = [
        np.clip((lab[..., axis] + shift) / 100 * bins, 0, bins - 1).astype(np.int64)
        for axis, (shift, bins) in enumerate(zip((0, 50, 50), TONES, strict=True))
    ]
    bins = int(np.prod(TONES))
    code = np.ravel_multi_index(tones, TONES)
    found = []
    for cells in grids:
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
    for size in (*CELLS, side):
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


def cut(values: NDArray[np.int64], cells: int) -> list[NDArray[np.int64]]:
    """(N, s, s) to cells x cells parts, row by row."""
    return [part for band in np.split(values, cells, 1) for part in np.split(band, cells, 2)]


def unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
