"""The parity gate: does a graph, on the engine that will serve it, answer as the reference did? No torch in here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from export.gates import BARS
from wander.bundle import Bundle, Samples
from wander.engines import EngineOptions, engines
from wander.errors import ParityError
from wander.manifest import Graph, Precision
from wander.signature import BATCH, Arrays
from wander.tasks import Task, tasks


class Check(BaseModel):
    """One graph on one engine at one batch size, over all samples.

    Attributes:
        dims: sizes of the free dimensions beside the batch.
        max_abs: max |a-b|.
        max_rel: max_abs / max(1, max |reference|); what the tolerance is compared with.
        cosine: smallest cosine between a row of the graph's output and its reference.
        agreement: share of decisions that agree, of the `decisions` that count: for fp32 those that rounding cannot
            turn, for what is narrower all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: str
    engine: str
    provider: str
    precision: Precision
    batch: int
    dims: dict[str, int]
    rows: int
    max_abs: float
    max_rel: float
    cosine: float
    agreement: float
    decisions: int
    tolerance: float
    passed: bool


def batch_sizes(maximum: int) -> list[int]:
    """One, two, an odd one and the largest: where kernels and broadcasts differ."""
    return sorted({1, min(2, maximum), min(7, maximum), maximum})


def check_graph(
    name: str, graph: Graph, path: Path, samples: Samples, task: type[Task], precision: Precision, engine: str
) -> Iterator[Check]:
    """Runs the samples through the engine at every batch size of the gate; yields a check for each."""
    with engines.get(engine).open(path, graph.signature, _options(graph, precision)) as session:
        provider = session.describe()["provider"]
        for size in batch_sizes(graph.max_batch_size):
            rows = np.arange(max(samples.rows, size)) % samples.rows
            actual = _in_batches(session.run, {n: v[rows] for n, v in samples.inputs.items()}, size)
            expected = {n: v[rows] for n, v in samples.expected.items()}
            numbers = compare(expected, actual, task, precision)
            yield Check(
                graph=name,
                engine=engine,
                provider=provider,
                precision=precision,
                batch=size,
                dims=_free(graph, samples),
                rows=len(rows),
                **numbers,
            )


def verify(bundle: Bundle, engine: str) -> list[Check]:
    """Repeats the gate here, from the bundle alone: files first, then every graph against its stored references.

    Raises BundleError for altered files; does not raise for failed checks.
    """
    bundle.verify()
    manifest = bundle.manifest
    task = tasks.get(manifest.task)
    return [
        check
        for name, graph in manifest.graphs.items()
        for check in check_graph(
            name, graph, bundle.graph_path(name), bundle.samples(name), task, manifest.precision, engine
        )
    ]


def _free(graph: Graph, samples: Samples) -> dict[str, int]:
    shapes = ((spec.dims, samples.inputs[spec.name].shape) for spec in graph.signature.inputs)
    return {
        dim: size
        for dims, shape in shapes
        for dim, size in zip(dims, shape, strict=True)
        if isinstance(dim, str) and dim != BATCH
    }


def _options(graph: Graph, precision: Precision) -> EngineOptions:
    return EngineOptions(precision=precision, max_batch_size=graph.max_batch_size)


def answers(
    graph: Graph, path: Path, inputs: Arrays, engine: str, precision: Precision = "fp32"
) -> dict[str, NDArray[Any]]:
    """The engine's outputs for any number of rows, in batches of the largest size."""
    with engines.get(engine).open(path, graph.signature, _options(graph, precision)) as session:
        return _in_batches(session.run, inputs, graph.max_batch_size)


def _in_batches(run: Any, inputs: Arrays, size: int) -> dict[str, NDArray[Any]]:
    rows = len(next(iter(inputs.values())))
    parts = [run({name: value[i : i + size] for name, value in inputs.items()}) for i in range(0, rows, size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compare(expected: Arrays, actual: Arrays, task: type[Task], precision: Precision = "fp32") -> dict[str, Any]:
    """The numbers of a check. Anything that is not finite fails it."""
    bar, narrow = BARS[precision], precision != "fp32"
    max_abs = max_rel = 0.0
    cosine = 1.0
    for name, reference in expected.items():
        a, b = actual[name].astype(np.float64), reference.astype(np.float64)
        if a.shape != b.shape:
            raise ParityError(f"{name} came back as {a.shape}, the reference is {b.shape}")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ParityError(f"{name} holds values that are not finite")
        difference = float(np.abs(a - b).max())
        max_abs = max(max_abs, difference)
        max_rel = max(max_rel, difference / max(1.0, float(np.abs(b).max())))
        cosine = min(cosine, _cosine(a, b))
    wanted, margins = task.decisions(expected)
    decided, _ = task.decisions(actual)
    sure = np.ones_like(margins, bool) if narrow else margins > max_abs
    agreement = float((wanted == decided)[sure].mean()) if sure.any() else 1.0
    decisions = int(sure.sum())
    return {
        "max_abs": max_abs,
        "max_rel": max_rel,
        "cosine": cosine,
        "agreement": agreement,
        "decisions": decisions,
        "tolerance": bar.tolerance,
        "passed": bar.passes(max_rel, cosine, agreement, decisions, narrow=narrow),
    }


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Smallest over rows; rows of zeros count as equal to rows of zeros."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = (a * b).sum(1)
    return float(np.where(norms > 0, products / np.where(norms > 0, norms, 1), (a == b).all(1)).min())


def gate(checks: Sequence[Check]) -> None:
    """Raises ParityError that names the worst of the checks that failed."""
    failed = [check for check in checks if not check.passed]
    if failed:
        worst = max(failed, key=lambda check: check.max_rel)
        raise ParityError(
            f"{len(failed)} of {len(checks)} parity checks failed; the worst: graph {worst.graph} on {worst.engine} at "
            f"batch {worst.batch}: max |a-b| {worst.max_abs:.3g}, relative {worst.max_rel:.3g} "
            f"(allowed {worst.tolerance:.3g}), decisions that agree {worst.agreement:.2%}"
        )
