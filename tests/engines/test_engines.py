"""What is peculiar to one engine."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.serving.building import PATIENCE, Linear, random_rows, wait_until
from wander.engines import EngineOptions, Session, engines, ort_cuda
from wander.engines.fake import FakeSession, fingerprint
from wander.errors import BundleError, EngineError, InputError, MissingDependency
from wander.signature import Signature, TensorSpec

MODEL = Linear()
ORT = ["ort", "ort_branches"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    MODEL.save(path)
    return path


# ort


@pytest.mark.parametrize(("threads", "said"), [(0, "all"), (1, "1"), (2, "2")])
def test_ort_describes_itself(graph: Path, threads: int, said: str) -> None:
    with engines.get("ort").open(graph, MODEL.signature, EngineOptions(threads)) as session:
        assert session.describe()["provider"] == "CPUExecutionProvider"
        assert session.describe()["threads"] == said


@pytest.mark.parametrize("engine", ORT)
@pytest.mark.parametrize("damage", ["operator", "edge", "opset", "weights", "outside"])
def test_ort_refuses_graphs_that_make_no_sense(graph: Path, tmp_path: Path, damage: str, engine: str) -> None:
    model = onnx.load(graph)
    weights = model.graph.initializer[0]
    if damage == "operator":
        model.graph.node[0].op_type = "Teleport"
    elif damage == "edge":
        model.graph.node[3].input[0] = "nowhere"
    elif damage == "opset":
        model.opset_import[0].version = 999
    elif damage == "weights":
        weights.dims[0] = 3
    else:  # weights that are read from any file of the machine
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        weights.external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"model\.onnx"):
        engines.get(engine).open(tmp_path / "model.onnx", MODEL.signature, EngineOptions(threads=2))


@pytest.mark.parametrize("engine", ORT)
@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3))
def test_ort_opens_or_refuses_damaged_files(graph: Path, engine: str, places: list[tuple[float, int]]) -> None:
    data = bytearray(graph.read_bytes())
    for place, value in places:
        data[int(place * len(data))] = value
    path = graph.with_name("damaged.onnx")
    path.write_bytes(data)
    with contextlib.suppress(BundleError):
        engines.get(engine).open(path, MODEL.signature, EngineOptions(threads=2)).close()


@pytest.mark.parametrize("engine", ORT)
@pytest.mark.parametrize("id", [5, -6, 2**62])
def test_ort_says_which_number_is_beyond_the_table(tmp_path: Path, id: int, engine: str) -> None:
    """The user sent it, and nobody else can: the engine is sound."""
    table = numpy_helper.from_array(np.eye(5, dtype=np.float32), "table")
    ends = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 5]),
    ]
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"])]
    look_up = helper.make_graph(nodes, "g", *([end] for end in ends), [table])
    path = tmp_path / "table.onnx"
    onnx.save(helper.make_model(look_up, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    signature = Signature(
        inputs=(TensorSpec(name="ids", dtype="int64", dims=("batch",)),),
        outputs=(TensorSpec(name="rows", dtype="float32", dims=("batch", 5)),),
    )
    with engines.get(engine).open(path, signature, EngineOptions()) as session:
        with pytest.raises(InputError, match=r"a number in ids is beyond what the graph knows: idx=") as caught:
            session.run({"ids": np.array([1, id])})
        assert caught.value.field == "ids"
        np.testing.assert_array_equal(session.run({"ids": np.array([1, 4])})["rows"], np.eye(5)[[1, 4]])


@pytest.mark.parametrize(("engine", "threads"), [("ort", 1), ("ort_branches", 2)])
def test_ort_may_be_closed_while_it_runs(graph: Path, engine: str, threads: int) -> None:
    session = engines.get(engine).open(graph, MODEL.signature, EngineOptions(threads))
    errors: list[Exception] = []
    ran = threading.Event()

    def work() -> None:
        try:
            while True:
                session.run(random_rows(1))
                ran.set()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert ran.wait(PATIENCE)
    session.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert [type(error) for error in errors] == [EngineError] * 4


@pytest.mark.parametrize("engine", ORT)
def test_ort_says_who_computes_bf16(graph: Path, engine: str) -> None:
    with pytest.raises(MissingDependency, match="--engine openvino"):
        engines.get(engine).open(graph, MODEL.signature, EngineOptions(precision="bf16"))


# fake


def fake() -> FakeSession:
    session = engines.get("fake").open(Path("nowhere"), MODEL.signature, EngineOptions())
    assert isinstance(session, FakeSession)
    return session


def test_fake_answers_with_fingerprints() -> None:
    inputs = random_rows(5)
    session = fake()
    marks = fingerprint(inputs)
    np.testing.assert_allclose(session.run(inputs)["score"][:, 0], marks, rtol=1e-6)
    assert len(set(marks.tolist())) == 5
    assert session.batches == [5]
    assert not session.computes


def test_fake_fails_at_poison() -> None:
    session, inputs = fake(), random_rows(3)
    mark = fingerprint(inputs)[1]
    session.poison = lambda one: one == mark
    with pytest.raises(EngineError):
        session.run(inputs)
    session.run({name: value[[0, 2]] for name, value in inputs.items()})


def test_fake_waits_at_its_gate() -> None:
    session = fake()
    session.gate.clear()
    thread = threading.Thread(target=session.run, args=(random_rows(1),))
    thread.start()
    wait_until(lambda: session.batches == [1])
    assert thread.is_alive()
    session.gate.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# openvino

openvino_only = pytest.mark.skipif(engines.get("openvino").unavailable() is not None, reason="no OpenVINO")


@openvino_only
@pytest.mark.parametrize(("threads", "said"), [(0, "all"), (1, "1")])
def test_openvino_describes_itself(graph: Path, threads: int, said: str) -> None:
    with engines.get("openvino").open(graph, MODEL.signature, EngineOptions(threads)) as session:
        assert session.describe()["provider"] == "CPU, f32"
        assert session.describe()["threads"] == said


@openvino_only
def test_openvino_computes_fp32_in_full_where_the_processor_has_bf16(graph: Path) -> None:
    """Left to itself it would not."""
    inputs, expected = random_rows(32), MODEL(random_rows(32))["score"]
    engine = engines.get("openvino")
    with engine.open(graph, MODEL.signature, EngineOptions(precision="fp32")) as session:
        np.testing.assert_allclose(session.run(inputs)["score"], expected, atol=1e-5)


@openvino_only
def test_openvino_says_what_to_do_without_bf16(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(MissingDependency, match="--precision fp32"):
        engines.get("openvino").open(graph, MODEL.signature, EngineOptions(precision="bf16"))


@openvino_only
def test_openvino_may_be_closed_while_it_runs(graph: Path) -> None:
    session = engines.get("openvino").open(graph, MODEL.signature, EngineOptions(threads=1))
    expected = session.run(random_rows(1))["score"]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(_until_closed, session) for _ in range(4)]
        time.sleep(0.05)
        session.close()
        for one in running:
            np.testing.assert_array_equal(one.result(PATIENCE), expected)


def _until_closed(session: Session) -> np.ndarray:
    answer = np.zeros(0)
    try:
        while True:
            answer = session.run(random_rows(1))["score"]
    except EngineError:
        return answer


# ort_cuda


def test_ort_cuda_is_not_taken_in_by_a_name_in_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """`onnxruntime-gpu` lists CUDA as available on a machine without a GPU, and runs on the CPU in silence."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ort_cuda.PROVIDER, ort_cuda.CPU])
    ort_cuda.refused.cache_clear()
    opened: list[list[str]] = []

    class Silent:
        def __init__(self, graph: bytes, settings: Any, providers: list[str], enable_fallback: bool) -> None:
            assert not enable_fallback
            opened.append(providers)

        def get_providers(self) -> list[str]:
            return [ort_cuda.CPU]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Silent)
    reason = ort_cuda.OrtCudaEngine.unavailable()
    ort_cuda.refused.cache_clear()
    assert opened == [[ort_cuda.PROVIDER, ort_cuda.CPU]]
    assert reason is not None
    assert "cannot use it here" in reason
    assert "pip install" in reason


def test_ort_cudas_trial_graph_is_one_that_runs() -> None:
    ort_cuda.refused.cache_clear()
    assert ort_cuda.refused(ort_cuda.CPU) is None
    assert "pip install" in str(ort_cuda.refused("NoSuchProvider"))
    ort_cuda.refused.cache_clear()


def test_a_session_that_fell_back_to_the_cpu_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_cuda.CudaSession, "providers", [ort_cuda.CPU])
    with pytest.raises(MissingDependency, match="fell back"):
        ort_cuda.CudaSession(graph, MODEL.signature, EngineOptions())


def test_tensors_are_bound_to_a_device(graph: Path) -> None:
    """The same calls as on a GPU, on the device there is."""

    class Bound(ort_cuda.BoundSession):
        device = "cpu"

    with Bound(graph, MODEL.signature, EngineOptions(threads=1)) as session, ThreadPoolExecutor(4) as pool:
        for rows, answer in enumerate(pool.map(lambda n: session.run(random_rows(n)), range(1, 9)), 1):
            np.testing.assert_allclose(answer["score"], MODEL(random_rows(rows))["score"], atol=1e-5)
        strange = {name: np.asfortranarray(value) for name, value in random_rows(3).items()}
        np.testing.assert_allclose(session.run(strange)["score"], MODEL(random_rows(3))["score"], atol=1e-5)
