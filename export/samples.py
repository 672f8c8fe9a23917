"""Inputs for the parity gate: a user's own, those of a data set, or seeded random ones. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.backbones import Host
from wander.errors import InputError, UsageError
from wander.npz import read_npz_file
from wander.signature import BATCH, Signature
from wander.tasks import Task

RANDOM_ROWS = 16
DATA_ROWS = 512
"""At most so many rows of a data set go through the reference, which is slow; they are the first of the split."""


@dataclass(frozen=True)
class Inputs:
    """Rows of inputs for one tower, where they come from, and their labels (rows) if they have some."""

    arrays: dict[str, NDArray[Any]]
    source: str
    labels: NDArray[Any] | None = None

    @property
    def rows(self) -> int:
        return len(next(iter(self.arrays.values())))


def lengths(inputs: Inputs, signature: Signature) -> list[Inputs]:
    """The inputs; and, for a graph with free dimensions, also cut to half of them, and to one."""
    sizes = {
        dim: size
        for spec in signature.inputs
        for dim, size in zip(spec.dims, inputs.arrays[spec.name].shape, strict=True)
        if isinstance(dim, str) and dim != BATCH
    }
    cuts = sorted(
        {tuple(max(1, size // part) for size in sizes.values()) for part in (1, 2, max(sizes.values(), default=1))}
    )
    return [_cut(inputs, signature, dict(zip(sizes, cut, strict=True))) for cut in reversed(cuts)]


def _cut(inputs: Inputs, signature: Signature, sizes: dict[str, int]) -> Inputs:
    arrays = {}
    for spec in signature.inputs:
        window = tuple(slice(sizes[dim]) if isinstance(dim, str) and dim in sizes else slice(None) for dim in spec.dims)
        arrays[spec.name] = np.ascontiguousarray(inputs.arrays[spec.name][window])
    return Inputs(arrays, inputs.source, inputs.labels)


def random_inputs(host: Host, tower: str, seed: int, rows: int = RANDOM_ROWS) -> Inputs:
    """Seeded random rows; the report says that they are random."""
    arrays = host.random_inputs(tower, rows, np.random.default_rng(seed))
    return Inputs(arrays, f"random, seed {seed}")


def from_file(path: Path, signature: Signature) -> Inputs:
    """An .npz file with one array (rows, ..) for every input. Raises UsageError that names what does not fit."""
    try:
        found = read_npz_file(path)
        arrays = {spec.name: found[spec.name].astype(spec.dtype) for spec in signature.inputs}
        signature.check(arrays)
    except (KeyError, InputError) as error:
        raise UsageError(f"{path} cannot serve as samples: {error}") from error
    return Inputs(arrays, path.name)


def from_data(folder: Path, split: str, task: Task) -> dict[str, Inputs]:
    """The first rows of one split of a data set for every graph, preprocessed as the task does it.

    Where items differ in size (texts), those of the commonest size. Labels are given for a single graph only: what they
    say of several is said by all together, not by one (see `wander evaluate`).
    """
    from wander.training.datasets import load_rows

    found = load_rows(folder, split, task)
    inputs = {}
    for name, rows in found.items():
        shapes = list(rows.shapes().values())
        numbers = max(shapes, key=len)[:DATA_ROWS]
        source = f"{folder.name}, split {split}" + (", items of the commonest size" if len(shapes) > 1 else "")
        inputs[name] = Inputs(rows.stacked(numbers), source, rows.labels[numbers] if len(found) == 1 else None)
    return inputs
