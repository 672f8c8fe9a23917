"""What the tests of the server are made of: a tiny real graph, its bundle, its items, and a server on loopback."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export import parity
from serving.app import create_app
from serving.connections import limited
from serving.service import Service
from serving.settings import Settings
from wander.bundle import EXAMPLE, PARITY, Bundle, Samples, drafting, write_samples
from wander.engines.fake import FakeSession
from wander.manifest import CONTRIBUTIONS, EXPLAIN, MAIN, RESIDUAL, BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec
from wander.tasks import tasks

SIZES = {"text": (3, 4), "audio": (2, 3), "vision": (4, 2)}
"""Modality -> length and width of its sequence."""

LABELS = {"sentiment": (), "emotion": ("angry", "happy", "sad")}
MAX_BATCH = 4
SAMPLE_ROWS = 6
PATIENCE = 30.0
"""Seconds after which a test that waits for something has failed."""

KEY = "wander_tests_" + "k" * 40
KEYS = json.dumps([{"name": "tests", "key": KEY, "roles": ["infer", "index-write", "admin"]}])
"""For `Settings.keys`, where models are to be loaded and unloaded: that takes a key. `Running.client` brings it."""

Item = dict[str, list[list[float]]]


class Linear:
    """All inputs of an item, flattened and joined, times a matrix, plus a bias: in numpy, and as an ONNX graph."""

    def __init__(self, task: str = "sentiment", seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        features = sum(length * width for length, width in SIZES.values())
        self.task = task
        self.output = tasks.get(task).output
        self.weights = random.normal(0, 0.3, (features, max(1, len(LABELS[task])))).astype(np.float32)
        self.bias = random.normal(0, 1, self.weights.shape[1]).astype(np.float32)

    def __call__(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """In float64, rounded once at the end."""
        flat = np.hstack([inputs[name].reshape(len(inputs[name]), -1).astype(np.float64) for name in SIZES])
        return {self.output: (flat @ self.weights + self.bias).astype(np.float32)}

    @property
    def signature(self) -> Signature:
        return Signature(
            inputs=tuple(TensorSpec(name=n, dtype="float32", dims=("batch", *size)) for n, size in SIZES.items()),
            outputs=(TensorSpec(name=self.output, dtype="float32", dims=("batch", self.weights.shape[1])),),
        )

    def explain(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What every token adds to the bias, which stands for the residual here. Unlike those of an adapter, these
        contributions add up over the modalities."""
        found = {**self(inputs), f"{RESIDUAL}{self.output}": np.tile(self.bias, (len(inputs["text"]), 1))}
        for name, weights in self._weights_of_tokens().items():
            told = np.einsum("blf,lfc->blc", inputs[name].astype(np.float64), weights)
            found[f"{CONTRIBUTIONS}{name}"] = told.astype(np.float32)
        return found

    def _weights_of_tokens(self) -> dict[str, NDArray[Any]]:
        """Modality -> (length, width, outputs)."""
        ends = np.cumsum([length * width for length, width in SIZES.values()])[:-1]
        parts = zip(SIZES.items(), np.split(self.weights, ends), strict=True)
        return {name: part.reshape(*size, -1) for (name, size), part in parts}

    @property
    def explanation(self) -> Signature:
        """Of the graph that explains."""
        score = self.signature.outputs[0]
        residual = score.model_copy(update={"name": f"{RESIDUAL}{score.name}"})
        told = [
            TensorSpec(name=f"{CONTRIBUTIONS}{n}", dtype="float32", dims=("batch", length, *score.item_dims))
            for n, (length, _) in SIZES.items()
        ]
        return Signature(inputs=self.signature.inputs, outputs=(score, residual, *told))

    def save_explanation(self, path: Path) -> None:
        self.save(path)
        model = onnx.load(path)
        weights = self._weights_of_tokens()
        for name, value in {**{f"weights.{n}": w for n, w in weights.items()}, "none": 0 * self.weights}.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        model.graph.node.append(helper.make_node("MatMul", ["flat", "none"], ["nothing"]))
        model.graph.node.append(helper.make_node("Add", ["nothing", "bias"], [f"{RESIDUAL}{self.output}"]))
        for name in weights:
            inputs, equation = [name, f"weights.{name}"], "blf,lfc->blc"
            model.graph.node.append(helper.make_node("Einsum", inputs, [f"{CONTRIBUTIONS}{name}"], equation=equation))
        for spec in self.explanation.outputs[1:]:
            model.graph.output.append(helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.dims))
        onnx.save(model, path)

    def save(self, path: Path) -> None:
        flatten = [helper.make_node("Flatten", [name], [f"flat.{name}"]) for name in SIZES]
        rest = [
            helper.make_node("Concat", [f"flat.{name}" for name in SIZES], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], [self.output]),
        ]
        ends = [
            [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.dims) for spec in specs]
            for specs in (self.signature.inputs, self.signature.outputs)
        ]
        constants = [onnx.numpy_helper.from_array(getattr(self, name), name) for name in ("weights", "bias")]
        graph = helper.make_graph([*flatten, *rest], "linear", *ends, constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def random_rows(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs (rows, length, width) of `Linear`."""
    random = np.random.default_rng(seed)
    return {name: random.normal(size=(rows, *size)).astype(np.float32) for name, size in SIZES.items()}


def items(rows: int, seed: int = 0) -> list[Item]:
    """The same as a client writes them."""
    arrays = random_rows(rows, seed)
    return [{name: value[row].tolist() for name, value in arrays.items()} for row in range(rows)]


def item(seed: int = 0) -> Item:
    return items(1, seed)[0]


def publish(
    folder: Path,
    model: Linear | None = None,
    answers: Linear | None = None,
    *,
    assets: Mapping[str, bytes] | None = None,
    explained: bool = False,
    **manifest: Any,
) -> tuple[Bundle, Linear]:
    """Writes the next version of a bundle for a model, as `wander export` would.

    Args:
        answers: gives the stored reference outputs, if they are not to be those of the model itself.
        assets: files that the preprocessing names.
        explained: whether it has the graph that explains.
        manifest: fields of the manifest in place of the usual ones.
    """
    model = model or Linear()
    inputs = random_rows(SAMPLE_ROWS, seed=99)
    answers = answers or model
    samples = {MAIN: Samples(inputs, answers(inputs))}
    graphs = {MAIN: Graph(file="model.onnx", signature=model.signature, max_batch_size=MAX_BATCH)}
    if explained:
        samples[EXPLAIN] = Samples(inputs, answers.explain(inputs))
        graphs[EXPLAIN] = Graph(file="explain.onnx", signature=model.explanation, max_batch_size=MAX_BATCH)
    task = tasks.get(model.task)
    fields: dict[str, Any] = {
        "task": model.task,
        "graphs": graphs,
        "labels": LABELS[model.task],
        "adapter": {"kind": "linear"},
        "backbone": BackboneRef(kind="none", id="tests", sha256="0" * 64),
    }
    described = Manifest(**(fields | manifest))
    with drafting(folder) as draft:
        for name, content in (assets or {}).items():
            (draft.path / name).write_bytes(content)
        model.save(draft.path / "model.onnx")
        if explained:
            model.save_explanation(draft.path / "explain.onnx")
        checks = []
        for name, graph in graphs.items():
            write_samples(draft.path / "samples" / f"{name}.npz", samples[name])
            checks += parity.check_graph(name, graph, draft.path / graph.file, samples[name], task, "fp32", "ort")
        report = {
            "schema_version": 1,
            "reference": "numpy",
            "samples": {name: {"source": "random", "rows": SAMPLE_ROWS} for name in graphs},
            "checks": [check.model_dump() for check in checks],
        }
        (draft.path / PARITY).write_text(json.dumps(report))
        (draft.path / EXAMPLE).write_text(json.dumps(task(described, draft.path).example({MAIN: samples[MAIN].row(0)})))
        return draft.publish(described), model


def npz(**arrays: NDArray[Any]) -> bytes:
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def wait_until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Waits for what another thread or process brings about."""
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@dataclass(frozen=True)
class Running:
    """A server that listens on loopback, and a client of it."""

    client: httpx.Client
    service: Service
    app: FastAPI

    @property
    def grpc(self) -> str:
        """Where gRPC is listened for."""
        said = [protocol.listening for protocol in self.app.state.protocols if protocol.listening]
        return str(said[0]).removeprefix("gRPC on ")

    @property
    def address(self) -> tuple[str, int]:
        return self.client.base_url.host, self.client.base_url.port or 80

    def session(self, model: str) -> FakeSession:
        """The engine of a model that is served by the fake one."""
        session = self.service.repository.get(model).queues["model"].sessions[0]
        assert isinstance(session, FakeSession)
        return session

    def post(self, path: str, **request: Any) -> httpx.Response:
        return self.client.post(path, **request)


@contextmanager
def running(
    settings: Settings, app: FastAPI | None = None, http: type[asyncio.Protocol] | None = None
) -> Iterator[Running]:
    """A real server in a thread, whose start-up is done.

    Args:
        http: what its connections are made with, if not as the settings say.
    """
    app = app or create_app(settings)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=http or limited(settings), ws="none", log_config=None, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="server")
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        headers = {"authorization": f"Bearer {KEY}"} if settings.keys == KEYS else {}
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, headers=headers) as client:
            assert client.get("/livez").status_code == 200
            yield Running(client, app.state.service, app)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
