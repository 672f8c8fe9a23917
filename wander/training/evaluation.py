"""The papers' metrics of a checkpoint or a bundle on a data set. Items are preprocessed as they are when served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.backbones import Host
from wander.backbones.base import run
from wander.bundle import MANIFEST as BUNDLE_MANIFEST
from wander.bundle import Bundle, versions
from wander.checkpoints import folder
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines
from wander.errors import UsageError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Arrays
from wander.tasks import Task, tasks
from wander.training.datasets import Rows, load_rows

BATCH = 32
"""Rows that go through torch at once; a bundle's graph takes its own `max_batch_size`."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        engine: what computed the outputs.
        rows: graph -> number of items that it was given.
        metrics: one that is not defined for these outputs is None.
    """

    task: str
    engine: str
    rows: dict[str, int]
    metrics: dict[str, float | None]

    @property
    def n(self) -> int:
        """Number of items."""
        return sum(self.rows.values())


def evaluate(path: Path, data: Path, split: str = "test", engine: str | None = None) -> Evaluation:
    """Metrics on a split of `data` of a folder with adapter and backbone (eager torch), or of a bundle (an engine).

    Raises UsageError if they do not fit each other, or if the task has no metrics.
    """
    if (path / BUNDLE_MANIFEST).is_file() or versions(path):
        return _bundle(Bundle.open(path), data, split, engine or DEFAULT_ENGINE)
    if engine is not None:
        raise UsageError(f"--engine is for bundles; {path} is a checkpoint, which runs in torch (or export it first)")
    return _checkpoint(path, data, split)


def _checkpoint(path: Path, data: Path, split: str) -> Evaluation:
    if path.is_file():
        raise UsageError(f"{path} is a file; run `wander convert` first, and evaluate the folder that it writes")
    adapter, backbone = folder.locate(path)
    if backbone is None:
        raise UsageError(f"{path} has no backbone beside it, and so cannot run")
    loaded = folder.load(adapter, backbone)
    return evaluate_host(loaded.host, loaded.about, adapter, data, split)


def evaluate_host(host: Host, about: folder.Description, assets: Path, data: Path, split: str) -> Evaluation:
    """Metrics of a host in memory, in eager torch. `assets` is where the files are that its preprocessing names."""
    task = tasks.get(about.task)(draft_manifest(about, host), assets)
    found = load_rows(data, split, task)
    towers = host.towers(task.output)
    outputs = {name: answered(rows, partial(run, towers[name]), BATCH) for name, rows in found.items()}
    return measured(task, "torch", outputs, {name: rows.labels for name, rows in found.items()})


def _bundle(bundle: Bundle, data: Path, split: str, engine: str) -> Evaluation:
    bundle.verify()
    manifest = bundle.manifest
    task = tasks.get(manifest.task)(manifest, bundle.path)
    found = load_rows(data, split, task)
    outputs = {}
    for name, rows in found.items():
        graph = manifest.graphs[name]
        options = EngineOptions.of(manifest, name)
        with engines.get(engine).open(bundle.graph_path(name), graph.signature, options) as session:
            if not session.computes:
                raise UsageError(f"the engine {engine} runs no graph; there is nothing to measure")
            outputs[name] = answered(rows, session.run, graph.max_batch_size)
    return measured(task, engine, outputs, {name: rows.labels for name, rows in found.items()})


def measured(task: Task, engine: str, outputs: Mapping[str, Arrays], labels: Mapping[str, NDArray[Any]]) -> Evaluation:
    """Outputs (N_g, ..) and labels (N_g) of every graph to their metrics. Raises UsageError for a task without any."""
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = task.joint_metrics(outputs, labels)
    name = task.manifest.task
    if not metrics:
        raise UsageError(f"the task {name} has no metrics")
    rows = {name: len(values) for name, values in labels.items()}
    return Evaluation(name, engine, rows, {k: v if isfinite(v) else None for k, v in metrics.items()})


def answered(rows: Rows, run: Callable[[Arrays], Arrays], size: int) -> dict[str, NDArray[Any]]:
    """What `run` gives for all rows, in their order; it is given batches of at most `size`, of rows of equal sizes."""
    order, parts = [], []
    for numbers in rows.shapes().values():
        for at in range(0, len(numbers), size):
            parts.append(run(rows.stacked(numbers[at : at + size])))
        order += numbers
    back = np.argsort(order)
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}


def draft_manifest(about: folder.Description, host: Host) -> Manifest:
    """What the manifest of a bundle of this host would say to its task. Names graph files that are not there."""
    module = host.adapter_module
    return Manifest(
        task=about.task,
        graphs={
            name: Graph(file=f"{name}.onnx", signature=tower.signature, max_batch_size=BATCH)
            for name, tower in host.towers(tasks.get(about.task).output).items()
        },
        labels=about.labels,
        preprocessing=about.preprocessing,
        adapter=module.config.model_dump(mode="json") if module is not None else {"kind": "none"},
        backbone=BackboneRef(kind=host.config.kind, id="unsaved", sha256=""),
    )
