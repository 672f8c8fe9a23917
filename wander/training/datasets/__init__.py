"""The layouts of data sets that are read here, one a file. Items as the tasks take them; no torch."""

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


def load_arrays(folder: Path, split: str, task: Task, graph: str) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Inputs (N, ..) of one graph by name, and labels (N), of a split as the task preprocesses it.

    Raises UsageError if the folder or the split does not fit the model.
    """
    if graph not in task.manifest.graphs:
        names = ", ".join(task.manifest.graphs)
        raise UsageError(f"a {task.manifest.task} model has the graphs {names}, which take no labelled items")
    part = open_dataset(folder).load(folder, split, task.manifest.graphs[graph].signature.inputs)
    return arrays(part, task, graph), part.labels


def arrays(split: Split, task: Task, graph: str) -> dict[str, NDArray[Any]]:
    """The items of a split, preprocessed by the task's first operation: inputs (N, ..) of one graph by name.

    The one place where items become tensors, for training, evaluation and export alike. Raises UsageError, naming the
    item, for one that the task refuses.
    """
    operation = task.operation(next(iter(task.operations)))
    rows = []
    for name, item in zip(split.ids, split.items, strict=True):
        try:
            rows.append(operation.preprocess(item)[graph])
        except InputError as error:
            raise UsageError(f"item {name}: {error}") from error
    if not rows:
        raise UsageError("the split is empty")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


__all__ = ["Dataset", "SequenceDataset", "Split", "arrays", "datasets", "load_arrays", "open_dataset"]
