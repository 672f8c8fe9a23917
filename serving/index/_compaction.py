"""A new generation of an index, without the rows that are dead; written while the old one is read and written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from serving.index._rows import Rows
from serving.index._table import Table, new_generation
from serving.index._vectors import VectorFile
from serving.index.base import Item
from wander.errors import EngineError

PIECE_BYTES = 8 << 20
"""Of vectors that are copied while writers wait."""


class Compaction:
    """Copies the rows of one generation into another, piece by piece, and in the end what was changed meanwhile.

    Its methods are called while nobody writes; between them, anybody may.
    """

    def __init__(self, table: Table, old: Rows, folder: Path) -> None:
        self.table = table
        self.old = old
        self.generation = new_generation()
        self.rows = Rows(VectorFile(vector_path(folder, self.generation), table.dimension), table.weights)
        self.copied = 0
        """Rows of the old generation that were looked at."""
        self._source: list[int] = []  # of every new row, the old one
        with table.transaction():
            table.begin(self.generation)

    @property
    def left(self) -> int:
        return self.old.count - self.copied

    def step(self) -> None:
        """Copies the next piece."""
        size = max(1, PIECE_BYTES // (4 * self.table.dimension))
        end = min(self.copied + size, self.old.count)
        found = self.copied + np.flatnonzero(self.old.live[self.copied : end])
        vectors = self.old.vectors.view(end)
        items = [Item(self.old.ids[r], self.old.modality(r), vectors[r], self.old.metadata[r]) for r in found.tolist()]
        if items:
            first = self.rows.count
            self.rows.vectors.write(first, vectors[found], durable=False)
            entries = [(row, i.id, i.modality, i.metadata) for row, i in enumerate(items, first)]
            with self.table.transaction():
                self.table.insert(self.generation, entries)
            self.rows.append(items)
            self._source += found.tolist()
        self.copied = end

    def finish(self) -> None:
        """Copies the rest, removes what was removed since it was copied, and makes this the current generation."""
        while self.left:
            self.step()
        kept = self.old.live[np.array(self._source, np.int64)] if self._source else np.zeros(0, np.bool_)
        gone = np.flatnonzero(self.rows.live[: self.rows.count] & ~kept).tolist()
        self.rows.vectors.sync()
        with self.table.transaction():
            self.table.remove(self.generation, gone)
            self.table.switch(self.generation, self.rows.count)
        self.table.follow(self.generation)
        for row in gone:
            self.rows.remove(self.rows.ids[row])

    def abandon(self) -> None:
        """Removes what was written, as far as that goes; what is left is removed when the index is opened."""
        self.rows.vectors.close()
        with suppress(OSError):
            self.rows.vectors.path.unlink()
        with suppress(EngineError), self.table.transaction():
            self.table.drop_others()


def vector_path(folder: Path, generation: str) -> Path:
    return folder / f"vectors.{generation}.f32"
