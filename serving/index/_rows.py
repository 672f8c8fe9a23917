"""The items of an index in memory, and the exact search over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.index.base import Hit, Item, Metadata, Query, Scalar, Vector

SMALLEST = 16
"""Rows for which there is room at first."""
ABSENT = object()
"""Equals no value of a field."""


class Rows:
    """One contiguous float32 matrix (rows, dimension), and beside it what else is known of every row.

    Rows have no order: the last one takes the place of one that is removed. Not for several threads at once.
    """

    def __init__(self, dimension: int, capacity: int = 0) -> None:
        self._vectors: NDArray[np.float32] = np.empty((max(capacity, SMALLEST), dimension), np.float32)
        self._modalities: NDArray[np.int16] = np.empty(len(self._vectors), np.int16)
        self._numbers: dict[str, int] = {}  # of the modalities, in the order of the dictionary
        self._ids: list[str] = []
        self._metadata: list[Metadata] = []
        self._row: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, item: Item) -> None:
        row = self._row.setdefault(item.id, len(self))
        if row == len(self):
            self._ids.append(item.id)
            self._metadata.append(item.metadata)
            if row == len(self._vectors):
                self._grow()
        self._vectors[row] = item.vector
        self._modalities[row] = self._numbers.setdefault(item.modality, len(self._numbers))
        self._metadata[row] = item.metadata

    def _grow(self) -> None:
        """Twice the room, so that n items cost a number of copies in proportion to n."""
        for name in ("_vectors", "_modalities"):
            old = getattr(self, name)
            new = np.empty((2 * len(old), *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def remove(self, id: str) -> None:
        """Raises KeyError for an id that is not here."""
        row = self._row.pop(id)
        last_id, last_metadata = self._ids.pop(), self._metadata.pop()
        if row < len(self):
            self._ids[row], self._metadata[row], self._row[last_id] = last_id, last_metadata, row
            self._vectors[row] = self._vectors[len(self)]
            self._modalities[row] = self._modalities[len(self)]

    def get(self, id: str) -> Item | None:
        row = self._row.get(id)
        if row is None:
            return None
        return Item(id, self._modality(row), self._vectors[row].copy(), self._metadata[row])

    def search(self, query: Query) -> list[Hit]:
        """As `Index.search`; the vector fits."""
        allowed = self._allowed(query)
        scores: Vector = self._vectors[: len(self)] @ query.vector
        rows = np.flatnonzero(allowed)
        if len(rows) > query.top_k:
            # All that equal the last score that counts are kept: which of them are hits is decided by their ids.
            among = scores[rows]
            rows = rows[among >= np.partition(among, -query.top_k)[-query.top_k]]
        ranked = sorted((-float(scores[row]), self._ids[row], int(row)) for row in rows)[: query.top_k]
        return [Hit(id, -negative, self._modality(row), self._metadata[row]) for negative, id, row in ranked]

    def _allowed(self, query: Query) -> NDArray[np.bool_]:
        if query.modality is None:
            allowed = np.ones(len(self), np.bool_)
        else:
            allowed = self._modalities[: len(self)] == self._numbers.get(query.modality, -1)
        allowed[[self._row[id] for id in query.exclude if id in self._row]] = False
        if query.filter:
            rows: list[int] = np.flatnonzero(allowed).tolist()
            for name, value in query.filter.items():
                rows = [row for row in rows if _equal(self._metadata[row].get(name, ABSENT), value)]
            allowed[:] = False
            allowed[rows] = True
        return allowed

    def _modality(self, row: int) -> str:
        return list(self._numbers)[int(self._modalities[row])]


def _equal(one: object, other: Scalar) -> bool:
    """As JSON has it: `1` equals `1.0`, but not `true`."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
