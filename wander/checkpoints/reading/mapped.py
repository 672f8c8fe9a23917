"""A file in memory, mapped copy-on-write, and the tensors that lie in it."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch

from wander.errors import CheckpointError

_ALIGNMENT = 16


def map_file(path: Path) -> mmap.mmap:
    """The whole file; writing to the mapping does not reach the file.

    Raises:
        CheckpointError: no such file, not a regular file, not readable, or empty.
    """
    try:
        if not path.exists():
            raise CheckpointError("there is no such file")
        if not path.is_file():
            raise CheckpointError("this is not a file; name the checkpoint file itself")
        if path.stat().st_size == 0:
            raise CheckpointError("the file is empty; download or save it again")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the file cannot be read: {error}") from error


def bytes_at(file: mmap.mmap, offset: int, count: int) -> torch.Tensor:
    """`count` bytes from `offset`, which must lie in the file: uint8, shape (count,), in the mapping where aligned."""
    if count == 0:
        return torch.empty(0, dtype=torch.uint8)
    data = torch.frombuffer(file, dtype=torch.uint8, count=count, offset=offset)
    # The legacy format puts storages anywhere, and kernels may assume aligned elements.
    return data if offset % _ALIGNMENT == 0 else data.clone()
