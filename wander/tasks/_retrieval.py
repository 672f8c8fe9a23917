"""Measures of retrieval, out of any similarity and of who belongs to whom. Knows no model and no modality."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (1, 5, 10)


def ranks(similarity: NDArray[Any], own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rank (from 1) that each query (Q) gives to the best of its own candidates; its other own ones do not count.

    A tie counts against the model: a stranger as near as the best own candidate stands before it, so that equal vectors
    for everything earn nothing. A similarity that is no number is the worst on either side.

    Args:
        similarity: (Q, C), higher is nearer.
        own: (Q, C), which candidates belong to which query.

    Raises ValueError for a query without a candidate of its own.
    """
    if not own.any(axis=1).all():
        raise ValueError(f"query {int(own.any(axis=1).argmin())} has no candidate of its own")
    best = np.fmax.reduce(np.where(own, similarity, np.nan), axis=1)
    farther = similarity < best[:, None]
    return np.asarray(1 + (~farther & ~own).sum(axis=1), np.int64)


def recalls(found: NDArray[np.int64]) -> dict[str, float]:
    """R@1, R@5 and R@10 (shares of ranks up to these), the median rank MdR and the mean rank MnR."""
    shares = {f"r{cutoff}": float((found <= cutoff).mean()) for cutoff in CUTOFFS}
    return {**shares, "mdr": float(np.median(found)), "mnr": float(found.mean())}


def both_ways(
    sides: tuple[str, str], similarity: NDArray[Any], labels: tuple[NDArray[Any], NDArray[Any]]
) -> dict[str, float]:
    """`recalls` with each side asking the other, as `<asking>_to_<asked>.<measure>`.

    Args:
        sides: what rows and columns are, such as text and image.
        similarity: (R, C).
        labels: of rows (R) and of columns (C); equal labels belong together.

    Raises ValueError for a row or a column that belongs to nothing.
    """
    rows, columns = sides
    own = labels[0][:, None] == labels[1][None, :]
    found = {f"{rows}_to_{columns}": ranks(similarity, own), f"{columns}_to_{rows}": ranks(similarity.T, own.T)}
    return {f"{way}.{name}": value for way, part in found.items() for name, value in recalls(part).items()}
