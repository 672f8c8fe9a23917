"""Checkpoint to bundle: reference, fold, trace, parity, publish. The bundle exists only if the gate was passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from export import parity, samples, triton
from export.fold import fold
from export.trace import OPSET, trace
from wander import __version__
from wander.backbones import Host
from wander.backbones.base import run
from wander.bundle import EXAMPLE, PARITY, Bundle, Draft, Samples, drafting, write_samples
from wander.checkpoints.folder import Loaded, write_json
from wander.engines import DEFAULT_ENGINE
from wander.errors import ParityError
from wander.manifest import EXPLAIN, MAIN, Graph, Manifest
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
    explain: also make the graph that explains, where the task has a use for it and the host can.
    """

    fold: bool = True
    max_batch_size: int = 32
    samples: Path | None = None
    data: Path | None = None
    split: str = "test"
    seed: int = 0
    engine: str = DEFAULT_ENGINE
    explain: bool = True


@dataclass
class Tower:
    """What the pipeline knows of one graph. `cases` are inputs of the same rows at one length or several."""

    graph: Graph
    cases: list[tuple[samples.Inputs, dict[str, NDArray[Any]]]]
    checks: list[parity.Check] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def stored(self) -> Samples:
        """The first rows of the first case, which the bundle keeps."""
        inputs, expected = self.cases[0]
        return Samples(*({k: v[:KEPT_SAMPLES] for k, v in arrays.items()} for arrays in (inputs.arrays, expected)))


def export(loaded: Loaded, model: Path, options: Options, step: Callable[[str], None] = lambda _: None) -> Bundle:
    """Writes the next version of the bundle in folder `model`. The host is used up: its folds are applied in place, and
    its weights are let go before an engine loads the graphs.

    Args:
        step: is told what is being done, for a progress display.

    Raises ParityError, after keeping the graphs and the report in `<model>.rejected`, if the gate is not passed.
    """
    task, host = tasks.get(loaded.about.task), loaded.host
    towers = host.graphs(task.output) if task.explains and options.explain else host.towers(task.output)
    graphs = {
        name: Graph(file=f"{name}.onnx", signature=tower.signature, max_batch_size=options.max_batch_size)
        for name, tower in towers.items()
    }
    with drafting(model) as draft:
        for name, content in loaded.assets.items():
            (draft.path / name).write_bytes(content)
        manifest = _manifest(loaded, graphs)
        bound = task(manifest, draft.path)  # what the server will need of the manifest must be there now
        inputs, known = _inputs(loaded, bound, options), {}
        for name, graph in graphs.items():
            step(f"reference {name}")
            cases = samples.lengths(inputs[name], graph.signature)
            known[name] = Tower(graph, [(case, run(towers[name], case.arrays)) for case in cases])
        step("fold")
        manifest = manifest.model_copy(update={"folds": tuple(fold(host)) if options.fold else ()})
        for name, graph in graphs.items():
            step(f"trace {name}")
            trace(host, name, task.output, draft.path / graph.file)
        _let_go(host)
        try:
            for name, tower in known.items():
                step(f"parity {name}")
                _check(draft, name, tower, task, options)
            checks = [check for tower in known.values() for check in tower.checks]
            _write_report(draft, known, manifest, passed=all(check.passed for check in checks))
            parity.gate(checks)
        except ParityError as error:
            raise ParityError(f"{error}; see {draft.reject() / PARITY}") from error
        step("publish")
        for name, tower in known.items():
            write_samples(draft.path / "samples" / f"{name}.npz", tower.stored)
        write_json(draft.path / EXAMPLE, bound.example({name: tower.stored.row(0) for name, tower in known.items()}))
        published = draft.publish(manifest)
    triton.configure(model)
    return published


def _let_go(host: Host) -> None:
    """Frees the weights, for the engine has a copy of its own.

    The parameters themselves stay, empty: the exporter's rewrite rules refer for good to the graph that they saw last.
    """
    for parameter in host.parameters():
        parameter.data = torch.empty(0)


def _manifest(loaded: Loaded, graphs: dict[str, Graph]) -> Manifest:
    about = loaded.about
    return Manifest(
        task=about.task,
        graphs=graphs,
        labels=about.labels,
        preprocessing=about.preprocessing,
        adapter=about.adapter or {"kind": "none"},
        backbone=about.backbone,
        precision="fp32",
        producer={
            "wander": __version__,
            "opset": str(OPSET),
            **{package: version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
        provenance=about.provenance,
    )


def _inputs(loaded: Loaded, task: Task, options: Options) -> dict[str, samples.Inputs]:
    graphs = task.manifest.answering
    if options.samples is not None:
        found = {name: samples.from_file(options.samples, graph.signature) for name, graph in graphs.items()}
    elif options.data is not None:
        found = samples.from_data(options.data, options.split, task)
    else:
        found = {name: samples.random_inputs(loaded.host, name, options.seed) for name in graphs}
    if EXPLAIN in task.manifest.graphs:
        found[EXPLAIN] = replace(found[MAIN], labels=None)  # it answers as the model does, which is measured there
    return found


def _check(draft: Draft, name: str, tower: Tower, task: type[Task], options: Options) -> None:
    path, graph = draft.path / tower.graph.file, tower.graph
    for inputs, expected in tower.cases:
        stored = Samples(inputs.arrays, expected)
        tower.checks += parity.check_graph(name, graph, path, stored, task, "fp32", options.engine)
    inputs, expected = tower.cases[0]
    if inputs.labels is not None:
        exported = parity.answers(graph, path, inputs.arrays, options.engine)
        tower.metrics = {
            "reference": task.metrics(expected, inputs.labels),
            "exported": task.metrics(exported, inputs.labels),
        }


def _write_report(draft: Draft, towers: dict[str, Tower], manifest: Manifest, *, passed: bool) -> None:
    report = {
        "schema_version": 1,
        "passed": passed,
        "reference": REFERENCE,
        "folds": list(manifest.folds),
        "samples": {
            name: {"source": tower.cases[0][0].source, "rows": tower.cases[0][0].rows} for name, tower in towers.items()
        },
        "checks": [check.model_dump() for tower in towers.values() for check in tower.checks],
        "metrics": {name: tower.metrics for name, tower in towers.items() if tower.metrics},
    }
    write_json(draft.path / PARITY, report)
