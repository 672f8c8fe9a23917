"""What every layout of a data set offers: items as a task takes them, with labels. Knows no model and pads nothing.

Padding is the task's (`Task.preprocess`), in training as in serving, so the two cannot differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wander.errors import UsageError
from wander.signature import TensorSpec
from wander.tasks.base import Item


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        items: N items, as the task's `preprocess` takes them.
        labels: (N,), as the task's `metrics` takes them.
        ids: N names, unique in the data set.
        groups: N names of what an item was cut from (a video): items that share one must not be parted.
    """

    items: Sequence[Item]
    labels: NDArray[Any]
    ids: list[str]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Sequence[int]) -> Self:
        """The given rows, in that order."""
        return type(self)(
            items=[self.items[row] for row in rows],
            labels=self.labels[list(rows)],
            ids=[self.ids[row] for row in rows],
            groups=[self.groups[row] for row in rows],
        )

    def part(self, share: float, rng: np.random.Generator) -> Self:
        """The items of `share` of the groups (at least one), drawn at random, in their order."""
        groups = sorted(set(self.groups))
        kept = set(rng.permutation(groups)[: max(1, round(share * len(groups)))].tolist())
        return self.take([row for row, group in enumerate(self.groups) if group in kept])


class Dataset(ABC):
    """One layout of a data set.

    Class attributes:
        layout: the files by which the layout is known, for people.
        source: what the data is and under which terms, in one line, for the provenance of what is trained on it.
    """

    layout: ClassVar[str]
    source: ClassVar[str]

    @classmethod
    @abstractmethod
    def recognises(cls, folder: Path) -> bool:
        """Whether a folder is laid out like this."""

    @abstractmethod
    def load(self, folder: Path, split: str, inputs: tuple[TensorSpec, ...]) -> Split:
        """A split (`train`, `valid`, `test`) as items for a model with these inputs.

        Raises UsageError if there is no such split, or if its features do not fit the inputs.
        """

    def load_raw(self, folder: Path, split: str, fields: tuple[str, ...]) -> Split:
        """A split as raw input, for a model with front ends for these fields; it has no field that is not raw.

        Raises UsageError if there is no such split, or nothing raw for any of the fields.
        """
        raise UsageError(f"this data set holds nothing raw for a model that reads {', '.join(fields)}: {self.source}")


class SequenceDataset(Dataset):
    """A data set whose items are one feature sequence a modality."""

    @abstractmethod
    def widths(self, folder: Path) -> dict[str, int]:
        """Modalities in order, with the number of features of a row of each, as the training split has them."""
