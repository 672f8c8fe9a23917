"""Vectors in one file, a row each, mapped into memory: what is not looked at need not be there.

Rows are only added. Knows no ids, and not which rows count.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wander.errors import EngineError

ON_DISK = np.dtype("<f4")
LEAST_BYTES = 1 << 20
"""The file grows by a quarter, and by no less than this. What is not written yet takes no space on the disk."""


class VectorFile:
    """Several threads may read what one thread has written.

    Args:
        rows: that are known to be in the file. Raises EngineError if they are not.
    """

    def __init__(self, path: Path, dimension: int, rows: int = 0) -> None:
        self.path = path
        self.dimension = dimension
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(self._file).st_size < rows * self._row_bytes:
                raise EngineError(f"{path.name} is shorter than the {rows} vectors it should hold")
            self._map = self._mapped(rows)
        except BaseException:
            os.close(self._file)
            raise

    @property
    def _row_bytes(self) -> int:
        return self.dimension * ON_DISK.itemsize

    def _mapped(self, rows: int) -> NDArray[np.float32]:
        """At least so many rows. Arrays that were given out before stay what they are."""
        wanted = max(rows * self._row_bytes + max(LEAST_BYTES, rows * self._row_bytes // 4), self._row_bytes)
        size = max(os.fstat(self._file).st_size, wanted) // self._row_bytes
        os.truncate(self._file, size * self._row_bytes)
        return np.asarray(np.memmap(self.path, ON_DISK, "r", shape=(size, self.dimension)))

    def write(self, start: int, vectors: NDArray[np.float32], durable: bool = True) -> None:
        """Writes rows from `start` on; none of them is one that somebody reads. Raises OSError, as for a full disk."""
        if start + len(vectors) > len(self._map):
            self._map = self._mapped(start + len(vectors))
        # Not through the mapping, where a full disk would end the process.
        rest = np.ascontiguousarray(vectors, ON_DISK).reshape(-1).view(np.uint8).data
        where = start * self._row_bytes
        while len(rest):
            written = os.pwrite(self._file, rest, where)
            rest, where = rest[written:], where + written
        if durable:
            self.sync()

    def sync(self) -> None:
        os.fdatasync(self._file)

    def view(self, rows: int) -> NDArray[np.float32]:
        """The first rows, (rows, dimension); it may be read until the end of the process."""
        return self._map[:rows]

    def close(self) -> None:
        """Once. What was given out can still be read."""
        os.close(self._file)
