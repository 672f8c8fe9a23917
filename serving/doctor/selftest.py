"""The self-test: bundles through the engine, and through a real server on loopback, against stored reference answers.

Without a folder of models it makes one with a bundle of its own, whose reference is numpy in float64.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from serving.client import Client
from serving.cores import usable_cores
from serving.doctor.graphs import write_graph
from wander.bundle import EXAMPLE, PARITY, Bundle, Samples, drafting, versions, write_samples
from wander.engines import EngineOptions, engines
from wander.errors import BundleError, WanderError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import BATCH, Arrays, Signature, TensorSpec

PATIENCE_S = 60.0
TOLERANCE = 1e-5
"""Of the bundle that is made here: largest |a-b|, relative to max(1, max|reference|)."""
WIDTH, ROWS = 48, 8
MATMUL = 1024
SPEED_S = 1.0
"""How long the speed of each number of threads is measured."""


@dataclass(frozen=True)
class Finding:
    """One step of the self-test. `detail` says what was measured, or what is wrong."""

    name: str
    passed: bool
    detail: str


def self_test(models: Path | None, engine: str) -> Iterator[Finding]:
    """Yields a finding for every step; one that raises has failed. Raises BundleError for an empty folder."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="wander-doctor-")))
        if models is None:
            folder = scratch / "models"
            yield _finding("make a bundle", lambda: make_bundle(folder / "doctor", engine))
        else:
            folder = models.resolve()
        bundles = [Bundle.open(path) for path in sorted(folder.glob("[!.]*")) if versions(path)]
        if not bundles:
            if models is None:
                return
            raise BundleError(f"{models} holds no models; wander export makes them")
        for bundle in bundles:
            yield _finding(f"engine {engine}: {bundle.name}", lambda bundle=bundle: _by_engine(bundle, engine))  # type: ignore[misc]
        yield from _by_server(folder, bundles, engine, scratch)


def _finding(name: str, step: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, step())
    except (WanderError, OSError) as error:
        return Finding(name, False, str(error))


def make_bundle(folder: Path, engine: str) -> str:
    """Writes a bundle of one linear layer and a tanh, checked on the engine against numpy in float64."""
    random = np.random.default_rng(0)
    weights, bias = random.standard_normal((WIDTH, WIDTH)) / 7, random.standard_normal(WIDTH)
    constants = {"weights": weights.astype(np.float32), "bias": bias.astype(np.float32)}
    x, y = (TensorSpec(name=name, dtype="float32", dims=(BATCH, WIDTH)) for name in ("x", "output"))
    signature = Signature(inputs=(x,), outputs=(y,))
    rows = random.standard_normal((ROWS, WIDTH)).astype(np.float32)
    exact = np.tanh(rows.astype(np.float64) @ constants["weights"] + constants["bias"])
    samples = Samples({"x": rows}, {"output": exact.astype(np.float32)})
    nodes = [("MatMul", ("x", "weights"), "product"), ("Add", ("product", "bias"), "sum"), ("Tanh", ("sum",), "output")]
    graph = Graph(file="model.onnx", signature=signature, max_batch_size=ROWS)
    with drafting(folder) as draft:
        write_graph(draft.path / graph.file, nodes, signature, constants)
        with engines.get(engine).open(draft.path / graph.file, signature, EngineOptions()) as session:
            actual = session.run(samples.inputs)
        error = _error(samples.expected, actual)
        check = {
            "graph": "model",
            "max_abs": error,
            "max_rel": error,
            "cosine": _cosine(exact, actual["output"]),
            "agreement": 1.0,
            "tolerance": TOLERANCE,
            "passed": error <= TOLERANCE,
        }
        about = {"source": "random", "rows": ROWS}
        report = {"schema_version": 1, "reference": "numpy, float64", "samples": {"model": about}, "checks": [check]}
        write_samples(draft.path / "samples" / "model.npz", samples)
        (draft.path / PARITY).write_text(json.dumps(report), encoding="utf-8")
        (draft.path / EXAMPLE).write_text(json.dumps({"x": rows[0].tolist()}), encoding="utf-8")
        none = BackboneRef(kind="none", id="doctor", sha256="")
        draft.publish(Manifest(task="tensors", graphs={"model": graph}, adapter={"kind": "none"}, backbone=none))
    return f"one layer of {WIDTH} x {WIDTH}"


def _by_engine(bundle: Bundle, engine: str) -> str:
    """Files, then every graph on its samples. Raises BundleError if the answers differ by more than is allowed."""
    bundle.verify()
    worst = 0.0
    for name, graph in bundle.manifest.graphs.items():
        samples = bundle.samples(name)
        with engines.get(engine).open(bundle.graph_path(name), graph.signature, EngineOptions()) as session:
            worst = max(worst, _compared(bundle, name, samples, session.run(samples.inputs)))
    return f"differs from its reference by at most {worst:.1e}"


def _by_server(folder: Path, bundles: list[Bundle], engine: str, scratch: Path) -> Iterator[Finding]:
    """Starts `wander serve` on a free port and asks every graph there for its samples, over KServe v2."""
    started = time.perf_counter()
    try:
        with _server(folder, engine, scratch) as url, Client(url, trust_env=False) as client:
            yield Finding("server", True, f"ready after {time.perf_counter() - started:.1f} s on {url}")
            for bundle in bundles:
                yield _finding(f"server: {bundle.name}", lambda bundle=bundle: _asked(client, bundle))  # type: ignore[misc]
    except WanderError as error:
        yield Finding("server", False, str(error))


def _asked(client: Client, bundle: Bundle) -> str:
    worst, milliseconds = 0.0, []
    for model, graph in bundle.graph_names().items():
        samples = bundle.samples(graph)
        worst = max(worst, _compared(bundle, graph, samples, client.infer(model, samples.inputs)))
        one = {name: value[:1] for name, value in samples.inputs.items()}
        for _ in range(10):
            began = time.perf_counter()
            client.infer(model, one)
            milliseconds.append((time.perf_counter() - began) * 1000)
    middle = float(np.median(milliseconds))
    return f"differs from its reference by at most {worst:.1e}; a request of one row takes {middle:.2g} ms"


@contextmanager
def _server(folder: Path, engine: str, scratch: Path) -> Iterator[str]:
    """The address of a server in a process of its own. Raises BundleError with its last words if it does not start."""
    command = [sys.executable, "-m", "wander", "serve", str(folder), "--port", "0", "--engine", engine]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDER_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=scratch, env=environment) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            yield _address(process)
        finally:
            watchdog.cancel()
            process.terminate()
            process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    last = "nothing"
    for line in process.stderr:
        if found := re.search(r"serving on (http://\S+)", line):
            return found[1]
        last = line.strip() or last
    raise BundleError(f"the server does not start; it says: {last}")


def _compared(bundle: Bundle, graph: str, samples: Samples, actual: Arrays) -> float:
    """How far answers are from the stored ones. Raises BundleError if that is more than the bundle's gate allows."""
    allowed = max((c["tolerance"] for c in bundle.parity["checks"] if c["graph"] == graph), default=TOLERANCE)
    error = _error(samples.expected, actual)
    if not error <= allowed:
        raise BundleError(f"graph {graph} differs from its reference by {error:.3g}; {allowed:.3g} is allowed")
    return error


def _error(expected: Arrays, actual: Arrays) -> float:
    """max |a-b| over all outputs, relative to max(1, max |reference|); not a number if an answer is none."""
    return max(
        float(np.abs(actual[name].astype(np.float64) - value).max()) / max(1.0, float(np.abs(value).max()))
        for name, value in expected.items()
    )


def _cosine(a: Any, b: Any) -> float:
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min())


def speeds(engine: str) -> dict[str, float]:
    """Threads -> GFLOP/s of a product of two matrices of 1024 x 1024, the best of about a second of runs."""
    x, y = (TensorSpec(name=name, dtype="float32", dims=(BATCH, MATMUL)) for name in ("x", "y"))
    signature = Signature(inputs=(x,), outputs=(y,))
    values = np.random.default_rng(0).standard_normal((2, MATMUL, MATMUL)).astype(np.float32)
    found = {}
    with TemporaryDirectory(prefix="wander-doctor-") as scratch:
        path = Path(scratch) / "model.onnx"
        write_graph(path, [("MatMul", ("x", "w"), "y")], signature, {"w": values[1]})
        for threads in sorted({1, usable_cores()}):
            with engines.get(engine).open(path, signature, EngineOptions(threads=threads)) as session:
                best, until = float("inf"), time.perf_counter() + SPEED_S
                while time.perf_counter() < until:
                    began = time.perf_counter()
                    session.run({"x": values[0]})
                    best = min(best, time.perf_counter() - began)
            found[str(threads)] = 2 * MATMUL**3 / best / 1e9
    return found
