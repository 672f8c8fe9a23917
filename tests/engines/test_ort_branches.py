"""Branches side by side: the answers of `ort`, from several threads, and after failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.serving.building import PATIENCE
from wander.engines import EngineOptions, Session, engines
from wander.errors import EngineError
from wander.signature import Signature, TensorSpec

LENGTH, WIDTH = 12, 8
INPUTS = ("a", "b", "c")
SIGNATURE = Signature(
    inputs=tuple(TensorSpec(name=name, dtype="float32", dims=("batch", WIDTH)) for name in INPUTS),
    outputs=(TensorSpec(name="out", dtype="float32", dims=("batch", WIDTH)),),
)


def save(path: Path, *, external: bool = False) -> None:
    """Three chains of products, of one matrix each, and what they have in common."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for name in INPUTS:
        matrix = random.normal(0, 0.3, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"W_{name}"))
        for step in range(LENGTH):
            before = name if step == 0 else f"{name}{step}"
            nodes.append(helper.make_node("MatMul", [before, f"W_{name}"], [f"{name}{step + 1}"]))
    nodes.append(helper.make_node("Sum", [f"{name}{LENGTH}" for name in INPUTS], ["sum"]))
    nodes.append(helper.make_node("Reshape", ["sum", "shape"], ["out"]))
    weights.append(numpy_helper.from_array(np.array([-1, WIDTH]), "shape"))
    ends = [
        [helper.make_tensor_value_info(one.name, TensorProto.FLOAT, ["batch", WIDTH]) for one in specs]
        for specs in (SIGNATURE.inputs, SIGNATURE.outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=100)


def rows(count: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((count, WIDTH)).astype(np.float32) for name in INPUTS}


@pytest.fixture(scope="module", params=[False, True], ids=["inline", "external"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    save(path, external=request.param)
    return path


@pytest.fixture(params=[1, 2, 3, 7])
def session(request: pytest.FixtureRequest, graph: Path) -> Iterator[Session]:
    with engines.get("ort_branches").open(graph, SIGNATURE, EngineOptions(request.param)) as opened:
        yield opened


def test_it_answers_as_ort_does(graph: Path, session: Session) -> None:
    with engines.get("ort").open(graph, SIGNATURE, EngineOptions(1)) as whole:
        for count in (1, 5):
            np.testing.assert_allclose(session.run(rows(count))["out"], whole.run(rows(count))["out"], rtol=1e-4)


@pytest.mark.parametrize(
    ("threads", "said", "pieces"),
    [(1, "1 side by side, 1 each", "1"), (2, "2 side by side, 1 each", "7"), (7, "3 side by side, 2 each", "4")],
)
def test_it_says_what_runs_side_by_side(graph: Path, threads: int, said: str, pieces: str) -> None:
    with engines.get("ort_branches").open(graph, SIGNATURE, EngineOptions(threads)) as session:
        assert session.describe()["threads"] == said
        assert session.describe()["pieces"] == pieces


def test_pieces_are_on_their_way_together(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pieces meet at a barrier, which one thread after another could not."""
    from wander.engines.ort_branches import _Piece

    meeting, run, seen = threading.Barrier(2, timeout=PATIENCE), _Piece.run, set()

    def meet(piece: _Piece, values: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        if piece.inputs & set(INPUTS) and len(seen) < 2:
            seen.add(threading.get_ident())
            meeting.wait()
        return run(piece, values)

    monkeypatch.setattr(_Piece, "run", meet)
    with engines.get("ort_branches").open(graph, SIGNATURE, EngineOptions(2)) as session:
        session.run(rows(1))
    assert len(seen) == 2


def test_many_threads_get_their_own_answers(graph: Path, session: Session) -> None:
    with engines.get("ort").open(graph, SIGNATURE, EngineOptions(1)) as whole, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda seed: session.run(rows(1 + seed % 3, seed))["out"], range(100))
        for seed, answer in enumerate(answers):
            np.testing.assert_allclose(answer, whole.run(rows(1 + seed % 3, seed))["out"], rtol=1e-4)


def test_a_piece_that_fails_fails_its_batch_alone(tmp_path: Path) -> None:
    """Every branch adds a constant of five rows."""
    path = tmp_path / "model.onnx"
    save(path)
    model = onnx.load(path)
    for name in INPUTS:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((5, WIDTH), np.float32), f"five_{name}"))
        model.graph.node.insert(0, helper.make_node("Add", [name, f"five_{name}"], [f"{name}0"]))
        next(node for node in model.graph.node if node.output[0] == f"{name}1").input[0] = f"{name}0"
    onnx.save(model, path)
    with engines.get("ort_branches").open(path, SIGNATURE, EngineOptions(2)) as session:
        for _ in range(20):
            with pytest.raises(EngineError, match="ONNX Runtime failed"):
                session.run(rows(3))
            assert session.run(rows(5))["out"].shape == (5, WIDTH)


def test_it_may_be_closed_while_it_runs(graph: Path) -> None:
    for _ in range(20):
        session = engines.get("ort_branches").open(graph, SIGNATURE, EngineOptions(2))
        with ThreadPoolExecutor(4) as pool:
            ran = threading.Event()

            def work(session: Session = session, ran: threading.Event = ran) -> None:
                while True:
                    session.run(rows(1))
                    ran.set()

            running = [pool.submit(work) for _ in range(4)]
            assert ran.wait(PATIENCE)
            session.close()
            for one in running:
                with pytest.raises(EngineError, match="closed"):
                    one.result(PATIENCE)


def test_it_is_missing_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else object())
    assert "pip install" in str(engines.get("ort_branches").unavailable())
