"""The layouts of data sets that are read here, one a file. Items as the tasks take them; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.errors import InputError, UsageError
from wander.registry import Registry
from wander.tasks import Task
from wander.training.datasets.base import Dataset, SequenceDataset, Split

datasets: Registry[Dataset] = Registry("wander.training.datasets", Dataset)


def open_dataset(folder: Path) -> Dataset:
    """The reader of a folder's layout. Raises UsageError that lists the known layouts if it is none of them."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    known = dict(datasets)
    for kind in known.values():
        if kind.recognises(folder):
            return kind()
    layouts = "; ".join(f"{name}: {kind.layout}" for name, kind in known.items())
    raise UsageError(f"{folder} is laid out as no data set known here ({layouts})")


@dataclass(frozen=True)
class Rows:
    """What one graph is given: the tensors of each item by name, in order, and the items' labels (N).

    Where a graph has free dimensions (a text of any length), the tensors of two items may differ in size.
    """

    items: list[dict[str, NDArray[Any]]]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.items)

    def shapes(self) -> dict[tuple[tuple[int, ...], ...], list[int]]:
        """Numbers of the items, by the sizes of their tensors: those of equal sizes can stand in one batch."""
        found: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for number, tensors in enumerate(self.items):
            found.setdefault(tuple(value.shape for value in tensors.values()), []).append(number)
        return found

    def stacked(self, numbers: Sequence[int]) -> dict[str, NDArray[Any]]:
        """The tensors (n, ..) of the items of these numbers, which must be of equal sizes, in that order."""
        return {name: np.stack([self.items[number][name] for number in numbers]) for name in self.items[0]}


def load_rows(folder: Path, split: str, task: Task) -> dict[str, Rows]:
    """What every graph of a model is given of a split: the items that ask it, preprocessed by the task.

    A model with front ends is given raw input alone, as a user has it.

    Raises UsageError if the folder or the split does not fit the model.
    """
    graphs = task.manifest.answering
    inputs = tuple(spec for graph in graphs.values() for spec in graph.signature.inputs)
    dataset, raw = open_dataset(folder), task.raw()
    part = dataset.load_raw(folder, split, raw) if raw else dataset.load(folder, split, inputs)
    found = rows(part, task)
    if idle := [name for name in graphs if name not in found]:
        raise UsageError(f"{folder} holds nothing for the graph {idle[0]} of a {task.manifest.task} model")
    return found


def arrays(split: Split, task: Task, graph: str) -> dict[str, NDArray[Any]]:
    """The items of a split that ask a graph: its inputs (N, ..) by name. Raises UsageError as `rows` does."""
    found = rows(split, task)[graph]
    return found.stacked(range(len(found)))


def rows(split: Split, task: Task) -> dict[str, Rows]:
    """The items of a split, preprocessed by the operation that data sets are made for, by the graphs that they ask.

    The one place where items become tensors, for training, evaluation and export alike. Raises UsageError, naming the
    item, for one that the task refuses.
    """
    if not split.items:
        raise UsageError("the split is empty")
    operation = task.operation(task.measured or next(iter(task.operations)))
    calls: dict[str, list[tuple[int, dict[str, NDArray[Any]]]]] = {}
    for number, (name, item) in enumerate(zip(split.ids, split.items, strict=True)):
        try:
            for graph, tensors in operation.preprocess(item).items():
                calls.setdefault(graph, []).append((number, tensors))
        except InputError as error:
            raise UsageError(f"item {name}: {error}") from error
    return {
        graph: Rows([tensors for _, tensors in found], split.labels[[number for number, _ in found]])
        for graph, found in calls.items()
    }


__all__ = [
    "Dataset",
    "Rows",
    "SequenceDataset",
    "Split",
    "arrays",
    "datasets",
    "load_rows",
    "open_dataset",
    "rows",
]
