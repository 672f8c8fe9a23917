"""The papers' metrics of a checkpoint or a bundle on a data set. Items are preprocessed as they are when served."""

from __future__ import annotations

from dataclasses import dataclass
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
from wander.tasks import tasks
from wander.training.datasets import load_arrays

BATCH = 32
"""Rows that go through torch at once; a bundle's graph takes its own `max_batch_size`."""


@dataclass(frozen=True)
class Evaluation:
    """`engine` is what computed the outputs; a metric that is not defined for these outputs is None."""

    task: str
    engine: str
    n: int
    metrics: dict[str, float | None]


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
    kind = tasks.get(about.task)
    inputs, labels = load_arrays(data, split, kind(draft_manifest(about, host), assets), "model")
    tower = host.towers(kind.output)["model"]
    outputs = joined([run(tower, part) for part in batches(inputs, BATCH)])
    return measured(about.task, "torch", outputs, labels)


def _bundle(bundle: Bundle, data: Path, split: str, engine: str) -> Evaluation:
    bundle.verify()
    inputs, labels = load_arrays(data, split, tasks.get(bundle.manifest.task)(bundle.manifest, bundle.path), "model")
    graph = bundle.manifest.graphs["model"]
    with engines.get(engine).open(bundle.graph_path("model"), graph.signature, EngineOptions()) as session:
        if not session.computes:
            raise UsageError(f"the engine {engine} runs no graph; there is nothing to measure")
        outputs = joined([session.run(part) for part in batches(inputs, graph.max_batch_size)])
    return measured(bundle.manifest.task, engine, outputs, labels)


def measured(task: str, engine: str, outputs: Arrays, labels: NDArray[Any]) -> Evaluation:
    """Raises UsageError for a task without metrics."""
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = tasks.get(task).metrics(outputs, labels)
    if not metrics:
        raise UsageError(f"the task {task} has no metrics")
    return Evaluation(task, engine, len(labels), {k: v if isfinite(v) else None for k, v in metrics.items()})


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


def batches(inputs: Arrays, size: int) -> list[dict[str, NDArray[Any]]]:
    """Inputs (N, ..) in pieces of at most `size` rows, in order."""
    rows = len(next(iter(inputs.values())))
    return [{name: value[at : at + size] for name, value in inputs.items()} for at in range(0, rows, size)]


def joined(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
