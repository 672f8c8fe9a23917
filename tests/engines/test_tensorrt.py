"""The TensorRT engine against stand-ins of its API. What it does on a GPU, `wander verify --engine tensorrt` proves."""

from __future__ import annotations

import ast
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.engines.fake_tensorrt import MARK, MODEL, OPTIONS, Machine
from tests.serving.building import Linear, random_rows
from wander.engines import EngineOptions, Session, _plans, engines
from wander.engines.tensorrt import TensorRtEngine
from wander.errors import BundleError, EngineError, InputError, MissingDependency
from wander.signature import Signature, TensorSpec

API = json.loads((Path(__file__).parent / "api_names.json").read_text(encoding="utf-8"))


def opened(graph: Path, options: EngineOptions = OPTIONS) -> Session:
    return TensorRtEngine.open(graph, MODEL.signature, options)


def test_it_builds_in_order_and_then_runs_in_order(machine: Machine, graph: Path) -> None:
    with opened(graph) as session:
        built, machine.calls = machine.calls, []
        inputs = random_rows(3)
        np.testing.assert_allclose(session.run(inputs)["logits"], MODEL(inputs)["logits"], rtol=1e-6)
        assert session.describe() == {
            "engine": "tensorrt",
            "provider": "Fake GPU, driver 580.95.05",
            "version": "10.16.1.11",
            "threads": "1",
        }
    assert built == [
        "network 2", "parse", "clear TF32", "limit WORKSPACE", "shape text", "shape audio", "shape vision", "profile",
        "timing 0", "build", "deserialize", "context",
    ]  # fmt: skip
    assert machine.calls == ["upload", "upload", "upload", "execute", "download", "wait"]
    assert machine.memory == {}


def test_its_profile_is_that_of_the_signature() -> None:
    signature = Signature(
        inputs=(
            TensorSpec(name="image", dtype="float32", dims=("batch", 3, 8, 8)),
            TensorSpec(name="ids", dtype="int64", dims=("batch", "length")),
        ),
        outputs=(TensorSpec(name="score", dtype="float32", dims=("batch", 1)),),
    )
    assert _plans.ranges(signature, EngineOptions(max_batch_size=16, max_length=64)) == {
        "image": _plans.Range((1, 3, 8, 8), (8, 3, 8, 8), (16, 3, 8, 8)),
        "ids": _plans.Range((1, 1), (8, 32), (16, 64)),
    }
    assert _plans.ranges(signature, EngineOptions(max_batch_size=2, max_length=5))["ids"] == _plans.Range(
        (1, 1), (2, 5), (2, 5)
    )


def test_a_plan_is_built_once(machine: Machine, graph: Path) -> None:
    opened(graph).close()
    machine.calls = []
    with opened(graph) as first, opened(graph) as second:
        assert machine.calls == ["deserialize", "context"] * 2  # a context for every instance
        for session in (first, second):
            np.testing.assert_allclose(
                session.run(random_rows(2))["logits"], MODEL(random_rows(2))["logits"], rtol=1e-6
            )


@pytest.mark.parametrize("change", ["driver", "gpu", "version", "graph", "batch", "weights"])
def test_a_plan_from_elsewhere_is_not_looked_at(machine: Machine, graph: Path, change: str) -> None:
    """Nor one of another graph or profile."""
    opened(graph).close()
    machine.calls = []
    options = OPTIONS
    if change == "driver":
        machine.driver = "590.1"
    elif change == "gpu":
        machine.gpu = b"Another GPU"
    elif change == "version":
        sys.modules["tensorrt"].__version__ = "10.17"  # type: ignore[attr-defined]
    elif change == "batch":
        options = EngineOptions(max_batch_size=17, max_length=64)
    elif change == "weights":
        graph.with_name("model.onnx.data").write_bytes(b"weights")
    else:
        Linear("emotion", seed=1).save(graph)
    opened(graph, options).close()
    assert machine.calls.count("build") == 1


def test_timings_are_kept_for_the_next_build(machine: Machine, graph: Path) -> None:
    opened(graph).close()
    opened(graph, EngineOptions(max_batch_size=3)).close()
    assert [call for call in machine.calls if call.startswith("timing")] == ["timing 0", "timing 1"]


def test_a_damaged_plan_is_built_anew(machine: Machine, graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened(graph).close()
    (plan,) = (graph.parent / "cache" / "tensorrt").glob("*.plan")
    plan.write_bytes(b"garbage")
    opened(graph).close()
    assert machine.calls.count("build") == 2
    assert "damaged" in caplog.text
    assert plan.read_bytes().startswith(MARK)


def test_a_cache_that_cannot_be_written_costs_time_only(
    machine: Machine, graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDER_CACHE", str(graph))  # a file
    with opened(graph) as session:
        assert session.run(random_rows(1))
    assert "cannot be written" in caplog.text


def test_shapes_beyond_the_profile_name_the_tensor(machine: Machine, graph: Path) -> None:
    with opened(graph) as session, pytest.raises(InputError, match=r"text has shape \(17.*at most \(16") as caught:
        session.run(random_rows(17))
    assert caught.value.field == "text"
    assert "execute" not in machine.calls


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        ("parse", BundleError, r"cannot read .*model\.onnx: unsupported operator Teleport"),
        ("build", BundleError, r"cannot build .*model\.onnx: no kernel fits"),
        ("context", EngineError, "no memory left"),
        ("dtype", BundleError, "another type for text"),
        ("device", MissingDependency, r"nvidia-smi.*pip install"),
    ],
)
def test_what_fails_at_opening(machine: Machine, graph: Path, failure: str, error: type[Exception], words: str) -> None:
    machine.fail = {failure}
    with pytest.raises(error, match=words):
        opened(graph)
    machine.fail = set()
    opened(graph).close()


@pytest.mark.parametrize(("failure", "words"), [("execute", "TensorRT failed"), ("memory", "CUDA failed: error 2")])
def test_a_run_that_fails_leaves_the_session_usable(machine: Machine, graph: Path, failure: str, words: str) -> None:
    with opened(graph) as session:
        machine.fail = {failure}
        with pytest.raises(EngineError, match=words):
            session.run(random_rows(2))
        machine.fail = set()
        np.testing.assert_allclose(session.run(random_rows(4))["logits"], MODEL(random_rows(4))["logits"], rtol=1e-6)
    assert machine.memory == {}


def test_threads_take_turns_and_buffers_grow(machine: Machine, graph: Path) -> None:
    def work(number: int) -> bool:
        inputs = random_rows(1 + number, seed=number)
        return all(np.allclose(session.run(inputs)["logits"], MODEL(inputs)["logits"], rtol=1e-5) for _ in range(20))

    with opened(graph) as session, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_a_closed_session_refuses_and_frees(machine: Machine, graph: Path) -> None:
    session = opened(graph)
    session.run(random_rows(1))
    session.close()
    session.close()
    assert machine.memory == {}
    with pytest.raises(EngineError, match="closed"):
        session.run(random_rows(1))


def test_a_graph_of_another_signature(machine: Machine, graph: Path) -> None:
    specs = MODEL.signature.inputs
    renamed = (specs[0].model_copy(update={"name": "other"}), *specs[1:])
    with pytest.raises(BundleError, match="signature"):
        TensorRtEngine.open(graph, MODEL.signature.model_copy(update={"inputs": renamed}), OPTIONS)


def test_without_its_libraries_it_says_what_to_install() -> None:
    reason = engines.get("tensorrt").unavailable()
    assert reason is None or "pip install" in reason


def test_every_name_of_the_api_is_in_the_published_bindings() -> None:
    """`api_names.json` holds what was found in the wheels, by version; the sources may use nothing beyond it."""
    known = {*API["tensorrt"]["names"], *API["cuda"]["names"]}
    used = {name for file in ("_plans", "tensorrt", "_cuda", "ort_tensorrt") for name in names_used(file)}
    assert used == known, f"look up in the wheels: {sorted(used - known)}; no longer used: {sorted(known - used)}"


OBJECTS = {
    "trt", "builder", "network", "parser", "config", "shapes", "cache", "engine", "context", "runtime", "nvml",
    "found", "_context", "_engine", "_trt", "_runtime",
}  # fmt: skip
OURS = {"values", "update"}


def names_used(file: str) -> set[str]:
    """Attributes of what comes from the two packages, by the names it has in our sources."""
    source = (Path(_plans.__file__).parent / f"{file}.py").read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute):
            name = owner.func.attr if owner.func.attr in ("get_timing_cache", "get_error") else ""
            owner_name = "engine" if name else ""
        elif isinstance(owner, ast.Attribute):
            chain = owner.attr
            owner_name = "trt" if chain in OBJECTS or chain[:1].isupper() or chain == "cudaMemcpyKind" else ""
        else:
            owner_name = owner.id if isinstance(owner, ast.Name) else ""
        if owner_name in OBJECTS and node.attr not in OURS and node.attr != "__init__":
            found.add(node.attr)
    return found
