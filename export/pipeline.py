"""Checkpoint to bundle: reference, fold, trace, parity, publish. The bundle exists only if the gate was passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from export import parity, samples
from export.fold import folded
from export.trace import OPSET, trace
from wander import __version__
from wander.backbones.base import run
from wander.bundle import EXAMPLE, PARITY, Bundle, Draft, Samples, drafting, write_samples
from wander.checkpoints.folder import Loaded, write_json
from wander.engines import DEFAULT_ENGINE
from wander.errors import ParityError
from wander.manifest import Graph, Manifest
from wander.tasks import Task, tasks

KEPT_SAMPLES = 8
REFERENCE = "unfolded model, eager PyTorch, float32, CPU"


@dataclass(frozen=True)
class Options:
    """Attributes:

    fold: apply the host's exact rewrites.
    max_batch_size: largest batch that the gate checks and the server forms.
    samples: an .npz of inputs; `data`: the folder of a data set, of which `split` is used. Without both, random inputs.
    seed: of random inputs.
    engine: the engine that has to answer as the reference does.
    """

    fold: bool = True
    max_batch_size: int = 32
    samples: Path | None = None
    data: Path | None = None
    split: str = "test"
    seed: int = 0
    engine: str = DEFAULT_ENGINE


@dataclass
class Tower:
    """What the pipeline knows of one graph."""

    graph: Graph
    inputs: samples.Inputs
    expected: dict[str, NDArray[Any]]
    checks: list[parity.Check] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def export(loaded: Loaded, model: Path, options: Options, step: Callable[[str], None] = lambda _: None) -> Bundle:
    """Writes the next version of the bundle in folder `model`.

    Args:
        step: is told what is being done, for a progress display.

    Raises ParityError, after keeping the graphs and the report in `<model>.rejected`, if the gate is not passed.
    """
    task = tasks.get(loaded.about.task)
    step("fold")
    host, folds = folded(loaded.host) if options.fold else (loaded.host, [])
    reference = loaded.host.towers(task.output)
    graphs = {
        name: Graph(file=f"{name}.onnx", signature=tower.signature, max_batch_size=options.max_batch_size)
        for name, tower in reference.items()
    }
    manifest = _manifest(loaded, graphs, folds)
    with drafting(model) as draft:
        for name, content in loaded.assets.items():
            (draft.path / name).write_bytes(content)
        bound = task(manifest, draft.path)  # what the server will need of the manifest must be there now
        towers = {}
        for name, graph in graphs.items():
            step(f"reference {name}")
            inputs = _inputs(loaded, name, bound, options)
            towers[name] = Tower(graph, inputs, run(reference[name], inputs.arrays))
        for name, graph in graphs.items():
            step(f"trace {name}")
            onnx.save(trace(host, name, task.output), draft.path / graph.file)
        try:
            for name, tower in towers.items():
                step(f"parity {name}")
                _check(draft, name, tower, task, options)
            checks = [check for tower in towers.values() for check in tower.checks]
            _write_report(draft, towers, folds, passed=all(check.passed for check in checks))
            parity.gate(checks)
        except ParityError as error:
            raise ParityError(f"{error}; see {draft.reject() / PARITY}") from error
        step("publish")
        for name, tower in towers.items():
            kept = (
                {k: v[:KEPT_SAMPLES] for k, v in arrays.items()} for arrays in (tower.inputs.arrays, tower.expected)
            )
            write_samples(draft.path / "samples" / f"{name}.npz", Samples(*kept))
        rows = {name: {k: v[0] for k, v in tower.inputs.arrays.items()} for name, tower in towers.items()}
        write_json(draft.path / EXAMPLE, bound.example(rows))
        return draft.publish(manifest)


def verify(bundle: Bundle, engine: str) -> list[parity.Check]:
    """Repeats the gate here, from the bundle alone: files first, then every graph against its stored references.

    Raises BundleError for altered files; does not raise for failed checks.
    """
    bundle.verify()
    task = tasks.get(bundle.manifest.task)
    return [
        check
        for name, graph in bundle.manifest.graphs.items()
        for check in parity.check_graph(
            name, graph, bundle.graph_path(name), bundle.samples(name), task, bundle.manifest.precision, engine
        )
    ]


def _manifest(loaded: Loaded, graphs: dict[str, Graph], folds: list[str]) -> Manifest:
    about = loaded.about
    return Manifest(
        task=about.task,
        graphs=graphs,
        labels=about.labels,
        preprocessing=about.preprocessing,
        adapter=about.adapter or {"kind": "none"},
        backbone=about.backbone,
        precision="fp32",
        folds=tuple(folds),
        producer={
            "wander": __version__,
            "opset": str(OPSET),
            **{package: version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
        provenance=about.provenance,
    )


def _inputs(loaded: Loaded, tower: str, task: Task, options: Options) -> samples.Inputs:
    if options.samples is not None:
        return samples.from_file(options.samples, task.manifest.graphs[tower].signature)
    if options.data is not None:
        return samples.from_data(options.data, options.split, tower, task)
    return samples.random_inputs(loaded.host, tower, options.seed)


def _check(draft: Draft, name: str, tower: Tower, task: type[Task], options: Options) -> None:
    path = draft.path / tower.graph.file
    stored = Samples(tower.inputs.arrays, tower.expected)
    tower.checks = list(parity.check_graph(name, tower.graph, path, stored, task, "fp32", options.engine))
    if tower.inputs.labels is not None:
        exported = parity.answers(tower.graph, path, tower.inputs.arrays, options.engine)
        tower.metrics = {
            "reference": task.metrics(tower.expected, tower.inputs.labels),
            "exported": task.metrics(exported, tower.inputs.labels),
        }


def _write_report(draft: Draft, towers: dict[str, Tower], folds: list[str], *, passed: bool) -> None:
    report = {
        "schema_version": 1,
        "passed": passed,
        "reference": REFERENCE,
        "folds": folds,
        "samples": {
            name: {"source": tower.inputs.source, "rows": len(next(iter(tower.inputs.arrays.values())))}
            for name, tower in towers.items()
        },
        "checks": [check.model_dump() for tower in towers.values() for check in tower.checks],
        "metrics": {name: tower.metrics for name, tower in towers.items() if tower.metrics},
    }
    write_json(draft.path / PARITY, report)
