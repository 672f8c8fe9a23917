"""The layouts of data sets that are read here, one a file. Items as the tasks take them; no torch."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.errors import InputError, UsageError
from wander.manifest import Manifest
from wander.registry import Registry
from wander.tasks import Task, tasks
from wander.training.datasets.base import Dataset, Split

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


def load_arrays(folder: Path, split: str, manifest: Manifest) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Inputs (N, ..) of the graph `model` by name, and labels (N), of a split as the manifest's task preprocesses it.

    Raises UsageError if the folder or the split does not fit the model.
    """
    task = tasks.get(manifest.task)(manifest)
    graph = manifest.graphs.get("model")
    if graph is None:
        raise UsageError(
            f"a {manifest.task} model has the graphs {', '.join(manifest.graphs)}, which take no labelled items"
        )
    part = open_dataset(folder).load(folder, split, graph.signature.inputs)
    return arrays(part, task), part.labels


def arrays(split: Split, task: Task) -> dict[str, NDArray[Any]]:
    """The items of a split, preprocessed by the task that will serve: inputs (N, ..) of the graph `model` by name.

    The one place where items become tensors, for training, evaluation and serving alike. Raises UsageError, naming the
    item, for one that the task refuses.
    """
    rows = []
    for name, item in zip(split.ids, split.items, strict=True):
        try:
            rows.append(task.preprocess(item)["model"])
        except InputError as error:
            raise UsageError(f"item {name}: {error}") from error
    if not rows:
        raise UsageError("the split is empty")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


__all__ = ["Dataset", "Split", "arrays", "datasets", "load_arrays", "open_dataset"]
