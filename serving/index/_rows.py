"""What is known of every row of an index, in memory, and the exact search over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.index._vectors import VectorFile
from serving.index.base import Hit, Item, Metadata, Query, Scalar, Vector

SMALLEST = 16
"""Rows for which there is room at first."""
FEW = 0.1
"""Share of the rows up to which it is faster to gather them than to go through all."""
ABSENT = object()
"""Equals no value of a field."""

Rows64 = NDArray[np.int64]


class Rows:
    """The rows of one vector file. They are only added; one that was replaced or removed is `dead` and stays.

    So what a `View` has of the rows before its end never changes. Changes are not for several threads at once.

    Args:
        count: rows of the file that were given away; those that are not filled are dead.
    """

    def __init__(self, vectors: VectorFile, weights: int = 0, count: int = 0) -> None:
        self.vectors = vectors
        self.weights = weights
        self.count = count
        room = max(count, SMALLEST)
        self.live: NDArray[np.bool_] = np.zeros(room, np.bool_)
        self.ids = [""] * count
        self.metadata: list[Metadata] = [{}] * count
        self._modalities: NDArray[np.int16] = np.zeros(room, np.int16)
        self._numbers: dict[str, int] = {}  # of the modalities, in the order of the dictionary
        self._row: dict[str, int] = {}

    def __len__(self) -> int:
        """Items that are here."""
        return len(self._row)

    @property
    def dead(self) -> int:
        return self.count - len(self)

    def fill(self, row: int, id: str, modality: str, metadata: Metadata) -> None:
        """Tells of a row below `count`."""
        self.ids[row], self.metadata[row] = id, metadata
        self._modalities[row] = self._numbers.setdefault(modality, len(self._numbers))
        self.live[row] = True
        self._row[id] = row

    def append(self, items: Sequence[Item]) -> None:
        """Adds rows for items whose vectors are in the file, in place of those with the same ids."""
        self.ids += [""] * len(items)
        self.metadata += [{}] * len(items)
        for row, item in enumerate(items, self.count):
            if row == len(self.live):
                self._grow()
            self.remove(item.id)
            self.fill(row, item.id, item.modality, item.metadata)
        self.count += len(items)

    def _grow(self) -> None:
        """Twice the room, so that n items cost a number of copies in proportion to n."""
        for name in ("live", "_modalities"):
            old = getattr(self, name)
            new = np.zeros(2 * len(old), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def remove(self, id: str) -> bool:
        """Returns whether it was here."""
        row = self._row.pop(id, None)
        if row is not None:
            self.live[row] = False
        return row is not None

    def modality(self, row: int) -> str:
        return list(self._numbers)[int(self._modalities[row])]

    def get(self, id: str) -> Item | None:
        row = self._row.get(id)
        if row is None:
            return None
        return Item(id, self.modality(row), self.vectors.view(self.count)[row].copy(), self.metadata[row])

    def view(self, query: Query) -> View:
        """The rows as they are now, those that the query leaves out marked, but for its filter of metadata."""
        allowed = self.live[: self.count].copy()
        if query.modality is not None:
            allowed &= self._modalities[: self.count] == self._numbers.get(query.modality, -1)
        allowed[[self._row[id] for id in query.exclude if id in self._row]] = False
        return View(self, self.vectors.view(self.count), self.weights, allowed)


@dataclass(frozen=True)
class View:
    """The rows at one moment, for one query. May be used while others change them."""

    rows: Rows
    vectors: NDArray[np.float32]
    weights: int
    allowed: NDArray[np.bool_]

    def search(self, query: Query) -> list[Hit]:
        """As `Index.search`, exactly; the vector fits."""
        rows = self.passing(np.flatnonzero(self.allowed), query)
        if len(rows) <= FEW * len(self.vectors):
            return self.rank(rows, query)
        return self._best(rows, scores(self.vectors, query.vector, self.weights)[rows], query.top_k)

    def rank(self, rows: Rows64, query: Query) -> list[Hit]:
        """The best among some rows, all of which fit."""
        return self._best(rows, scores(self.vectors[rows], query.vector, self.weights), query.top_k)

    def passing(self, rows: Rows64, query: Query) -> Rows64:
        """Those among some rows whose metadata the query wants."""
        metadata, kept = self.rows.metadata, rows.tolist() if query.filter else []
        for name, value in query.filter.items():
            kept = [row for row in kept if _equal(metadata[row].get(name, ABSENT), value)]
        return np.array(kept, np.int64) if query.filter else rows

    def _best(self, rows: Rows64, among: Vector, top_k: int) -> list[Hit]:
        if len(rows) > top_k:
            # All that equal the last score that counts are kept: which of them are hits is decided by their ids.
            kept = among >= np.partition(among, -top_k)[-top_k]
            rows, among = rows[kept], among[kept]
        known = self.rows
        ranked = sorted((-score, known.ids[row], row) for score, row in zip(among.tolist(), rows.tolist(), strict=True))
        return [Hit(id, -score, known.modality(row), known.metadata[row]) for score, id, row in ranked[:top_k]]


def scores(rows: NDArray[np.float32], vector: Vector, weights: int) -> NDArray[Any]:
    """Of vectors (N, D), as `Index.weights` has it."""
    if not weights:
        product: NDArray[np.float32] = rows @ vector
        return product
    products = (rows[:, :-weights] @ vector[:-weights]).astype(np.float64)
    total = (rows[:, -weights:] @ vector[-weights:]).astype(np.float64)
    return np.divide(products, total, out=np.zeros_like(products), where=total > 0)


def _equal(one: object, other: Scalar) -> bool:
    """As JSON has it: `1` equals `1.0`, but not `true`."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
