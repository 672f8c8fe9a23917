"""CUDA graphs of `ort_cuda`, on the CPU and against a stand-in that replays. No GPU has run them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.engines.fake_onnxruntime import CPU, CapturingProvider
from tests.serving.building import Linear, random_rows
from wander.engines import EngineOptions, Session, _bound, _captured, ort_cuda
from wander.errors import BundleError, ConfigError, EngineError
from wander.signature import Signature, TensorSpec

MODEL = Linear("emotion")
OPTIONS = EngineOptions(threads=1)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    MODEL.save(path)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[CapturingProvider]:
    provider = CapturingProvider()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ort_cuda.PROVIDER, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", provider.session)
    monkeypatch.setattr(_bound.BoundSession, "device", "cpu")
    monkeypatch.setenv(_captured.VARIABLE, "4,1")
    _bound.refused.cache_clear()
    yield provider
    _bound.refused.cache_clear()


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """Where inputs were written, by their size in bytes."""
    found: dict[int, set[int]] = {}
    real = onnxruntime.OrtValue.update_inplace

    def update(self: Any, data: Any) -> None:
        found.setdefault(data.nbytes, set()).add(self.data_ptr())
        real(self, data)

    monkeypatch.setattr(onnxruntime.OrtValue, "update_inplace", update)
    return found


def start(graph: Path) -> Session:
    return ort_cuda.OrtCudaEngine.open(graph, MODEL.signature, OPTIONS)


def right(session: Session, rows: int, seed: int = 0) -> bool:
    inputs = random_rows(rows, seed=seed)
    return bool(np.allclose(session.run(inputs)["logits"], MODEL(inputs)["logits"], atol=1e-5))


def test_they_are_off_unless_asked_for(
    gpu: CapturingProvider, graph: Path, monkeypatch: pytest.MonkeyPatch, addresses: dict[int, set[int]]
) -> None:
    monkeypatch.delenv(_captured.VARIABLE)
    with start(graph) as session:
        assert gpu.providers == [(ort_cuda.PROVIDER, {"use_tf32": "0"}), CPU]
        assert right(session, 1)
        assert "CUDA graphs" not in session.describe()["provider"]
    assert gpu.calls == ["none"]
    assert not addresses


def test_sizes_are_recorded_when_it_opens_and_replayed_after(gpu: CapturingProvider, graph: Path) -> None:
    with start(graph) as session:
        assert gpu.providers == [(ort_cuda.PROVIDER, {"use_tf32": "0", "enable_cuda_graph": "1"}), CPU]
        assert gpu.calls == [*"1111", "-1", *"2222", "-1"]  # recorded in three, replayed, compared with a plain run
        gpu.calls.clear()
        assert all(right(session, rows, seed) for seed in range(3) for rows in (1, 4, 3))
        assert gpu.calls == ["1", "2", "-1"] * 3  # an id for every size; -1 for one that is not recorded
        assert session.describe()["provider"] == f"{ort_cuda.PROVIDER}, {CPU}; CUDA graphs of 1, 4 rows"


def test_a_session_without_recordings_keeps_to_the_thread_too(
    gpu: CapturingProvider, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_captured.VARIABLE, "64")
    with start(graph) as session:
        assert gpu.providers == [(ort_cuda.PROVIDER, {"use_tf32": "0"}), CPU]
        assert right(session, 1)
    assert threading.get_ident() not in gpu.threads
    assert gpu.calls == ["-1"]


def test_buffers_stay_where_they_were_recorded(
    gpu: CapturingProvider, graph: Path, addresses: dict[int, set[int]]
) -> None:
    with start(graph) as session:
        opened = {size: set(found) for size, found in addresses.items()}
        assert all(right(session, rows, seed) for seed in range(5) for rows in (4, 1))
        assert addresses == opened
        assert [len(found) for found in addresses.values()] == [1] * 6  # three inputs in two sizes


def test_answers_are_the_callers_own(gpu: CapturingProvider, graph: Path) -> None:
    with start(graph) as session:
        first = session.run(random_rows(1))["logits"]
        kept = first.copy()
        session.run(random_rows(1, seed=9))
        np.testing.assert_array_equal(first, kept)


def test_one_thread_does_it_all(gpu: CapturingProvider, graph: Path) -> None:
    """The stand-in fails if runs overlap, here of two sessions in eight threads."""

    def work(number: int) -> bool:
        return all(right(session, 1 + number % 4, seed) for seed in range(10) for session in both)

    with start(graph) as first, start(graph) as second, ThreadPoolExecutor(8) as pool:
        both = first, second
        assert all(pool.map(work, range(8)))
    assert len(gpu.threads) == 1
    assert threading.get_ident() not in gpu.threads


def test_a_closed_session_refuses(gpu: CapturingProvider, graph: Path) -> None:
    session = start(graph)
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(random_rows(1))
    assert "CUDA graphs" not in session.describe()["provider"]


def test_a_replay_that_answers_otherwise_is_refused(
    gpu: CapturingProvider, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here one that never reads what was written since it was recorded."""
    monkeypatch.setattr(onnxruntime.OrtValue, "update_inplace", lambda *_: None)
    with pytest.raises(EngineError, match=r"1 rows answers otherwise than a plain run \(logits\); unset WANDER"):
        start(graph)


def test_a_graph_that_cannot_be_recorded_says_what_to_leave_out(gpu: CapturingProvider, graph: Path) -> None:
    gpu.fail = {"nodes"}
    with pytest.raises(BundleError, match=r"not been partitioned.*may run without WANDER_CUDA_GRAPHS"):
        start(graph)


def test_the_real_calls_on_the_device_there_is(graph: Path) -> None:
    class OnCpu(_captured.CapturedSession):
        device = "cpu"

    kind = functools.partial(OnCpu, sizes=(1, 4))
    with kind(graph, MODEL.signature, OPTIONS) as session, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda rows: right(session, rows), [1, 2, 3, 4] * 5))
        strange = {name: np.asfortranarray(value) for name, value in random_rows(4).items()}
        np.testing.assert_allclose(session.run(strange)["logits"], MODEL(random_rows(4))["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("1", (1,)), (" 8, 1,8", (1, 8)), ("1,64,", (1,)), ("64", ())],
)
def test_sizes_that_are_asked_for(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[int, ...] | None) -> None:
    """No more rows than a batch may have."""
    monkeypatch.setenv(_captured.VARIABLE, text)
    assert _captured.sizes(MODEL.signature, EngineOptions(max_batch_size=32)) == expected


@pytest.mark.parametrize("text", ["all", " ", "0", "-1", "1;2", "1.5", ",".join(map(str, range(1, 18)))])
def test_sizes_that_make_no_sense(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(_captured.VARIABLE, text)
    with pytest.raises(ConfigError, match="WANDER_CUDA_GRAPHS must be 1 to 16 batch sizes"):
        _captured.sizes(MODEL.signature, OPTIONS)


@pytest.mark.parametrize("free", ["inputs", "outputs"])
def test_free_dimensions_are_not_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: str
) -> None:
    monkeypatch.setenv(_captured.VARIABLE, "1")
    caplog.set_level("INFO")
    spec = TensorSpec(name="ids", dtype="int64", dims=("batch", "length"))
    fixed = TensorSpec(name="score", dtype="float32", dims=("batch", 1))
    signature = Signature(
        inputs=(spec if free == "inputs" else fixed,), outputs=(spec if free == "outputs" else fixed,)
    )
    assert _captured.sizes(signature, OPTIONS) == ()
    assert "ids" in caplog.text
