"""What is peculiar to one engine."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.building import PATIENCE, Linear, random_rows, wait_until
from wander.engines import EngineOptions, engines
from wander.engines.fake import FakeSession, fingerprint
from wander.errors import BundleError, EngineError

MODEL = Linear()


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


@pytest.mark.parametrize("damage", ["operator", "edge", "opset", "weights", "outside"])
def test_ort_refuses_graphs_that_make_no_sense(graph: Path, tmp_path: Path, damage: str) -> None:
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
        engines.get("ort").open(tmp_path / "model.onnx", MODEL.signature, EngineOptions())


@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3))
def test_ort_opens_or_refuses_damaged_files(graph: Path, places: list[tuple[float, int]]) -> None:
    data = bytearray(graph.read_bytes())
    for place, value in places:
        data[int(place * len(data))] = value
    path = graph.with_name("damaged.onnx")
    path.write_bytes(data)
    with contextlib.suppress(BundleError):
        engines.get("ort").open(path, MODEL.signature, EngineOptions(threads=1)).close()


def test_ort_may_be_closed_while_it_runs(graph: Path) -> None:
    session = engines.get("ort").open(graph, MODEL.signature, EngineOptions(threads=1))
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
