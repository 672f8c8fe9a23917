"""Checkpoint to bundle: reference, fold, trace, narrow, parity, publish. It exists only if the gate was passed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from export import parity, samples, triton
from export.attention import Choice, choose
from export.fold import fold
from export.gates import gate_metrics, losses
from export.narrowing import Outcome, Search
from export.options import FULL, Options
from export.precisions import Narrowing
from export.together import hold_together
from wander import __version__
from wander.backbones import Host
from wander.backbones.base import run
from wander.bundle import EXAMPLE, PARITY, Bundle, Draft, Samples, drafting, write_samples
from wander.checkpoints.folder import Loaded, write_json
from wander.engines import DEFAULT_ENGINE, EngineOptions, engines
from wander.errors import ParityError
from wander.manifest import EXPLAIN, MAIN, Graph, Manifest, Precision
from wander.tasks import Task, tasks
from wander.training.datasets import load_rows
from wander.training.evaluation import answered

KEPT_SAMPLES = 8
DECIDING_SPLIT = "valid"
"""The split of a data set whose rows calibrate, and decide what is narrowed; the gate uses another."""
REFERENCE = "unfolded model, eager PyTorch, float32, CPU"


@dataclass
class Tower:
    """What the pipeline knows of one graph. `cases` are inputs of the same rows at one length or several."""

    graph: Graph
    cases: list[tuple[samples.Inputs, dict[str, NDArray[Any]]]]
    checks: list[parity.Check] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    narrowed: Outcome | None = None

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
    task, host, kind = tasks.get(loaded.about.task), loaded.host, options.narrowing
    explained = task.explains and options.explain and kind is None
    towers = host.graphs(task.output) if explained else host.towers(task.output)
    graphs = {
        name: Graph(file=f"{name}.onnx", signature=tower.signature, max_batch_size=options.max_batch_size)
        for name, tower in towers.items()
    }
    with drafting(model) as draft:
        for name, content in loaded.assets.items():
            (draft.path / name).write_bytes(content)
        manifest = _manifest(loaded, graphs)
        bound = task(manifest, draft.path)  # what the server will need of the manifest must be there now
        inputs, known = _inputs(loaded, bound, options, options.split), {}
        deciding = _inputs(loaded, bound, options, DECIDING_SPLIT) if kind else {}
        for name, graph in graphs.items():
            step(f"reference {name}")
            cases = samples.lengths(inputs[name], graph.signature)
            known[name] = Tower(graph, [(case, run(towers[name], case.arrays)) for case in cases])
        step("fold")
        folds = tuple(fold(host, narrowed=kind is not None)) if options.fold else ()
        attention = {}
        for name, graph in graphs.items():
            step(f"trace {name}")
            path = draft.path / graph.file
            attention[name] = choose(host, name, task.output, path, graph, options.attention, options.checked_on)
        opsets = ", ".join(sorted({str(choice.opset) for choice in attention.values()}))
        manifest = manifest.model_copy(
            update={
                "precision": kind.precision if kind else FULL,
                "folds": folds,
                "producer": {**manifest.producer, "opset": opsets},
            }
        )
        _let_go(host)
        joint: dict[str, dict[str, dict[str, float]]] = {}
        try:
            with tempfile.TemporaryDirectory(prefix=f".{model.name}.", dir=model.parent) as scratch:
                if kind:
                    _narrow(kind, draft, bound, known, deciding, options, manifest, Path(scratch), step)
                for name, tower in known.items():
                    step(f"parity {name}")
                    _check(draft, name, tower, task, options, manifest.precision)
                score = partial(_joint_metrics, bound, options, options.split, manifest)
                together = score(Path(scratch), FULL) if kind else {}
                if together:
                    exported = score(draft.path, manifest.precision)
                    joint = {"all graphs": {"reference": together, "exported": exported}}
            checks = [check for tower in known.values() for check in tower.checks]
            metrics = {**{name: tower.metrics for name, tower in known.items() if tower.metrics}, **joint}
            _write_report(draft, known, manifest, metrics, attention, passed=all(check.passed for check in checks))
            parity.gate(checks)
            if kind:
                for found in metrics.values():
                    gate_metrics(found["reference"], found["exported"])
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
        producer={
            "wander": __version__,
            **{package: version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
        provenance=about.provenance,
    )


def _inputs(loaded: Loaded, task: Task, options: Options, split: str) -> dict[str, samples.Inputs]:
    graphs = task.manifest.answering
    if options.samples is not None:
        found = {name: samples.from_file(options.samples, graph.signature) for name, graph in graphs.items()}
    elif options.data is not None:
        found = samples.from_data(options.data, split, task)
    else:
        rows = samples.RANDOM_ROWS * (4 if options.precision != FULL else 1)
        seed = options.seed + (split == DECIDING_SPLIT)
        found = {name: samples.random_inputs(loaded.host, name, seed, rows) for name in graphs}
    if EXPLAIN in task.manifest.graphs:
        found[EXPLAIN] = replace(found[MAIN], labels=None)  # it answers as the model does, which is measured there
    return found


def _narrow(
    kind: type[Narrowing],
    draft: Draft,
    task: Task,
    towers: Mapping[str, Tower],
    rows: Mapping[str, samples.Inputs],
    options: Options,
    manifest: Manifest,
    scratch: Path,
    step: Callable[[str], None],
) -> None:
    """Every graph is checked as it is first, so that what is narrowed is known to be right."""
    searches, outcomes = {}, {}
    for name, tower in towers.items():
        step(f"narrow {name}")
        path, graph = draft.path / tower.graph.file, tower.graph
        stored = Samples(tower.cases[0][0].arrays, tower.cases[0][1])
        parity.gate(list(parity.check_graph(name, graph, path, stored, type(task), FULL, DEFAULT_ENGINE)))
        say = partial(_say, step, f"narrow {name}: ")
        searches[name] = Search(kind, graph, path, rows[name], type(task), options.checked_on, scratch)
        outcomes[name] = searches[name].narrow(say)

    score = partial(_joint_metrics, task, options, DECIDING_SPLIT, manifest)
    reference = score(scratch, FULL)

    def lost() -> float | None:
        return max(losses(reference, score(draft.path, manifest.precision)).values(), default=None)

    for name, outcome in hold_together(searches, outcomes, lost, partial(_say, step, "narrow: ")).items():
        towers[name].narrowed = outcome


def _say(step: Callable[[str], None], prefix: str, what: str) -> None:
    step(prefix + what)


def _joint_metrics(
    task: Task, options: Options, split: str, manifest: Manifest, folder: Path, precision: Precision
) -> dict[str, float]:
    """What the graphs of a folder score together on a split; nothing for a single graph, or without data."""
    if options.data is None or len(manifest.graphs) == 1:
        return {}
    rows = load_rows(options.data, split, task)
    outputs = {}
    for name, graph in manifest.graphs.items():
        settings = EngineOptions(precision=precision, max_batch_size=graph.max_batch_size)
        with engines.get(options.checked_on).open(folder / graph.file, graph.signature, settings) as session:
            outputs[name] = answered(rows[name], session.run, graph.max_batch_size)
    return task.joint_metrics(outputs, {name: one.labels for name, one in rows.items()})


def _check(draft: Draft, name: str, tower: Tower, task: type[Task], options: Options, precision: Precision) -> None:
    path, graph = draft.path / tower.graph.file, tower.graph
    for inputs, expected in tower.cases:
        stored = Samples(inputs.arrays, expected)
        tower.checks += parity.check_graph(name, graph, path, stored, task, precision, options.checked_on)
    inputs, expected = tower.cases[0]
    if inputs.labels is not None:
        exported = parity.answers(graph, path, inputs.arrays, options.checked_on, precision)
        tower.metrics = {
            "reference": task.metrics(expected, inputs.labels),
            "exported": task.metrics(exported, inputs.labels),
        }


def _write_report(
    draft: Draft,
    towers: dict[str, Tower],
    manifest: Manifest,
    metrics: dict[str, Any],
    attention: dict[str, Choice],
    *,
    passed: bool,
) -> None:
    narrowed = {name: tower.narrowed.report() for name, tower in towers.items() if tower.narrowed}
    report = {
        "schema_version": 1,
        "passed": passed,
        "reference": REFERENCE,
        "folds": list(manifest.folds),
        "attention": {name: choice.report() for name, choice in attention.items()},
        "samples": {
            name: {"source": tower.cases[0][0].source, "rows": tower.cases[0][0].rows} for name, tower in towers.items()
        },
        "checks": [check.model_dump() for tower in towers.values() for check in tower.checks],
        "metrics": metrics,
        **({"narrowed": narrowed, "gate": _gated_by(metrics)} if narrowed else {}),
    }
    write_json(draft.path / PARITY, report)


def _gated_by(metrics: dict[str, Any]) -> str:
    """For people: what stood between these graphs and a user."""
    if metrics:
        return "the task's metrics, and the decisions that agree"
    return "the decisions that agree, or cosines where nothing is decided: no labelled data were given"
