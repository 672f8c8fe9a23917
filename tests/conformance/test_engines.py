"""One suite for every engine: a new file in `wander/engines` is tested here without a change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.building import Linear, random_rows
from wander.engines import DEFAULT_ENGINE, EngineOptions, Session, engines
from wander.errors import BundleError, EngineError, InputError
from wander.signature import Signature

MODEL = Linear("emotion")


def available(name: str) -> Any:
    reason = engines.get(name).unavailable()
    return pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    MODEL.save(path)
    return path


@pytest.fixture(scope="module", params=[available(name) for name in engines.names()])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def session(engine: str, graph: Path) -> Iterator[Session]:
    with engines.get(engine).open(graph, MODEL.signature, EngineOptions(threads=1)) as opened:
        yield opened


def test_the_default_engine_is_there() -> None:
    assert DEFAULT_ENGINE in engines.names()
    assert engines.get(DEFAULT_ENGINE).unavailable() is None


def test_an_unavailable_engine_says_why() -> None:
    for _, engine in engines:
        reason = engine.unavailable()
        assert reason is None or reason.strip()


@pytest.mark.parametrize("rows", [1, 2, 7, 32])
def test_outputs_fit_the_signature(session: Session, rows: int) -> None:
    inputs = random_rows(rows)
    outputs = session.run(inputs)
    assert list(outputs) == [spec.name for spec in MODEL.signature.outputs]
    for spec in MODEL.signature.outputs:
        spec.check(outputs[spec.name])
        assert len(outputs[spec.name]) == rows
    if session.computes:
        np.testing.assert_allclose(outputs["logits"], MODEL(inputs)["logits"], atol=1e-5)


def test_every_row_has_its_own_answer(session: Session) -> None:
    inputs = random_rows(5)
    together = session.run(inputs)["logits"]
    for row in range(5):
        alone = session.run({name: value[row : row + 1] for name, value in inputs.items()})["logits"]
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-5)


def test_inputs_may_lie_anyhow_in_memory_and_are_left_alone(session: Session) -> None:
    inputs = random_rows(3)
    strange = {name: np.asfortranarray(value) for name, value in inputs.items()}
    strange["audio"] = np.broadcast_to(inputs["audio"][:1], inputs["audio"].shape)
    for value in strange.values():
        value.flags.writeable = False
    expected = session.run({name: np.ascontiguousarray(value) for name, value in strange.items()})
    np.testing.assert_array_equal(session.run(strange)["logits"], expected["logits"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"audio": np.zeros((2, 2, 3), np.float64)}, "audio"),
        ({"audio": np.zeros((2, 2, 3), np.int64)}, "audio"),
        ({"audio": np.zeros((2, 2, 4), np.float32)}, "audio"),
        ({"audio": np.zeros((2, 6), np.float32)}, "audio"),
        ({"audio": np.zeros((3, 2, 3), np.float32)}, "audio"),
        ({"audio": None}, "audio"),
        ({"smell": np.zeros((2, 1), np.float32)}, "smell"),
        ({name: value[:0] for name, value in random_rows(1).items()}, "text"),
    ],
    ids=["float64", "int64", "size", "dimensions", "rows", "missing", "unknown", "empty batch"],
)
def test_inputs_that_do_not_fit_are_named(session: Session, change: dict[str, Any], field: str) -> None:
    inputs = {name: value for name, value in {**random_rows(2), **change}.items() if value is not None}
    with pytest.raises(InputError) as caught:
        session.run(inputs)
    assert caught.value.field == field


def test_a_closed_session_refuses(engine: str, graph: Path) -> None:
    session = engines.get(engine).open(graph, MODEL.signature, EngineOptions())
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(random_rows(1))
    assert session.describe()["engine"] == engine


def test_threads_share_a_session(session: Session) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        inputs = random_rows(1 + number, seed=number)
        expected = session.run(inputs)["logits"]
        if session.computes:
            np.testing.assert_allclose(expected, MODEL(inputs)["logits"], atol=1e-5)
        start.wait(30)
        return all(np.array_equal(session.run(inputs)["logits"], expected) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_it_describes_itself(session: Session, engine: str) -> None:
    described = session.describe()
    assert {"engine", "provider", "version", "threads"} <= set(described)
    assert all(isinstance(value, str) and value for value in described.values())
    assert described["engine"] == engine


@pytest.mark.parametrize("damage", ["absent", "empty", "garbage", "cut"])
def test_a_graph_that_cannot_be_read(session: Session, engine: str, graph: Path, tmp_path: Path, damage: str) -> None:
    if not session.computes:
        pytest.skip("it reads no graph")
    whole = graph.read_bytes()
    path = tmp_path / "model.onnx"
    if damage != "absent":
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 9, "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(BundleError, match=r"model\.onnx"):
        engines.get(engine).open(path, MODEL.signature, EngineOptions())


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_a_graph_of_another_signature(session: Session, engine: str, graph: Path, end: str) -> None:
    if not session.computes:
        pytest.skip("it reads no graph")
    specs = getattr(MODEL.signature, end)
    renamed = (specs[0].model_copy(update={"name": "other"}), *specs[1:])
    signature: Signature = MODEL.signature.model_copy(update={end: renamed})
    with pytest.raises(BundleError, match="signature"):
        engines.get(engine).open(graph, signature, EngineOptions())


def test_a_graph_whose_answer_does_not_fit_its_signature(session: Session, engine: str, graph: Path) -> None:
    if not session.computes:
        pytest.skip("it reads no graph")
    wider = MODEL.signature.outputs[0].model_copy(update={"dims": ("batch", 7)})
    signature = MODEL.signature.model_copy(update={"outputs": (wider,)})
    with (
        pytest.raises((BundleError, EngineError), match="logits"),
        engines.get(engine).open(graph, signature, EngineOptions()) as opened,
    ):
        opened.run(random_rows(1))
