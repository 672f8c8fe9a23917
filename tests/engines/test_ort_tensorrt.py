"""ONNX Runtime's TensorRT provider against a stand-in. What it does on a GPU, `wander verify --engine ort_tensorrt`
proves, beside `--engine tensorrt`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.engines.fake_onnxruntime import CPU, TensorRtProvider
from tests.engines.fake_tensorrt import MODEL, OPTIONS, Machine
from tests.serving.building import Linear, random_rows
from wander.engines import EngineOptions, Session, _bound, _captured, auto, ort_cuda, ort_tensorrt
from wander.engines.ort import OrtSession, opened
from wander.engines.ort_tensorrt import OrtTensorRtEngine
from wander.errors import BundleError, InputError, MissingDependency

API = json.loads((Path(__file__).parent / "api_names.json").read_text(encoding="utf-8"))["onnxruntime"]
NAMES = API["libonnxruntime_providers_tensorrt.so"]


@pytest.fixture
def machine(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    return machine


@pytest.fixture
def provider(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Any:
    provider = TensorRtProvider(NAMES)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [ort_tensorrt.PROVIDER, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", provider.session)
    monkeypatch.setattr(_bound.BoundSession, "device", "cpu")
    _bound.refused.cache_clear()
    yield provider
    _bound.refused.cache_clear()


def start(graph: Path, options: EngineOptions = OPTIONS) -> Session:
    return OrtTensorRtEngine.open(graph, MODEL.signature, options)


def test_it_asks_for_what_the_native_engine_makes(provider: TensorRtProvider, graph: Path, tmp_path: Path) -> None:
    with start(graph) as session:
        inputs = random_rows(3)
        np.testing.assert_allclose(session.run(inputs)["logits"], MODEL(inputs)["logits"], atol=1e-5)
        assert session.describe() == {
            "engine": "ort_tensorrt",
            "provider": f"TensorrtExecutionProvider, {CPU}",
            "version": onnxruntime.__version__,
            "threads": "all",
        }
    base = tmp_path / "cache" / "ort_tensorrt"
    (plans,) = (path.parent for path in base.rglob("*.engine"))
    assert provider.options == {
        "trt_fp16_enable": "False",
        "trt_bf16_enable": "False",
        "trt_int8_enable": "False",
        "trt_profile_min_shapes": "text:1x3x4,audio:1x2x3,vision:1x4x2",
        "trt_profile_opt_shapes": "text:8x3x4,audio:8x2x3,vision:8x4x2",
        "trt_profile_max_shapes": "text:16x3x4,audio:16x2x3,vision:16x4x2",
        "trt_max_workspace_size": str(4 << 30),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(plans),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(base / f"{onnxruntime.__version__}-10.16.1.11-9.0"),
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_types_are_those_of_the_graph(provider: TensorRtProvider, graph: Path, precision: Any) -> None:
    """TensorRT is never told to choose types for itself, which it would be by any of the three."""
    start(graph, EngineOptions(precision=precision)).close()
    assert {provider.options[name] for name in NAMES if name.endswith(("fp16_enable", "int8_enable"))} == {"False"}


def test_a_plan_is_built_once(provider: TensorRtProvider, graph: Path) -> None:
    start(graph).close()
    start(graph).close()
    assert provider.calls == ["build", "load"]


@pytest.mark.parametrize("change", ["driver", "gpu", "tensorrt", "onnxruntime", "graph", "batch"])
def test_a_plan_from_elsewhere_is_not_looked_at(
    machine: Machine, provider: TensorRtProvider, graph: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    start(graph).close()
    model, options = MODEL, OPTIONS
    if change == "driver":
        machine.driver = "590.1"
    elif change == "gpu":
        machine.gpu = b"Another GPU"
    elif change == "tensorrt":
        sys.modules["tensorrt"].__version__ = "10.17"  # type: ignore[attr-defined]
    elif change == "onnxruntime":
        monkeypatch.setattr(onnxruntime, "__version__", "1.32.0")
    elif change == "batch":
        options = EngineOptions(max_batch_size=17, max_length=64)
    else:  # other weights under the same names: to ONNX Runtime the same graph
        model = Linear("emotion", seed=1)
        model.save(graph)
    with start(graph, options) as session:
        answer = session.run(random_rows(2))["logits"]
    assert provider.calls == ["build", "build", "run"]
    np.testing.assert_allclose(answer, model(random_rows(2))["logits"], atol=1e-5)


def test_a_cache_that_cannot_be_written_costs_time_only(
    provider: TensorRtProvider, graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDER_CACHE", str(graph))  # a file
    with start(graph) as session:
        assert session.run(random_rows(1))
    assert "cannot be written" in caplog.text
    assert not any("cache" in name for name in provider.options)


def test_shapes_beyond_the_profile_name_the_tensor(provider: TensorRtProvider, graph: Path) -> None:
    with start(graph) as session:
        with pytest.raises(InputError, match=r"text has shape \(17.*at most \(16") as caught:
            session.run(random_rows(17))
        assert caught.value.field == "text"
        assert "run" not in provider.calls
        assert session.run(random_rows(16))


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        ("device", r"nvidia-smi.*pip install"),
        ("tf32", r"with NVIDIA_TF32_OVERRIDE=0 before it"),
        ("provider", r"without TensorrtExecutionProvider; run: pip"),
        ("silent", r"cannot use it here.*pip install"),
        ("libraries", r"cannot use it here.*pip install"),
    ],
)
def test_what_is_lacking_is_one_line(
    machine: Machine,
    provider: TensorRtProvider,
    graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lack: str,
    words: str,
) -> None:
    machine.fail = provider.fail = {lack}
    if lack == "tf32":
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    elif lack == "provider":
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(MissingDependency, match=words) as caught:
        start(graph)
    assert "\n" not in str(caught.value)
    assert OrtTensorRtEngine.unavailable() == str(caught.value)
    assert not capsys.readouterr().out


def test_a_session_that_fell_back_is_refused(provider: TensorRtProvider, graph: Path) -> None:
    assert OrtTensorRtEngine.unavailable() is None
    provider.fail = {"silent"}
    with pytest.raises(MissingDependency, match="fell back from TensorrtExecutionProvider"):
        start(graph)


def test_a_graph_that_cannot_be_built_or_read(provider: TensorRtProvider, graph: Path) -> None:
    provider.fail = {"build"}
    with pytest.raises(BundleError, match=r"model\.onnx: TensorRT EP failed to create engine"):
        start(graph)
    with pytest.raises(BundleError, match=r"nowhere\.onnx cannot be read"):
        start(graph.with_name("nowhere.onnx"))


def test_the_cpu_gets_no_part_of_a_graph(graph: Path) -> None:
    """By the real ONNX Runtime, with no provider that could take anything."""

    class Alone(OrtSession):
        def _prepare(self, settings: Any, graph: Path, options: EngineOptions) -> list[Any]:
            for name, value in ort_tensorrt.WHOLE.items():
                settings.add_session_config_entry(name, value)
            return []

    with pytest.raises(BundleError, match="fallback to CPU EP has been explicitly disabled"):
        opened(Alone, graph, MODEL.signature, OPTIONS)


def test_auto_leaves_it_to_the_native_engine(provider: TensorRtProvider) -> None:
    found = auto.candidates()
    assert "tensorrt" in found
    assert "ort_tensorrt" not in found


def test_every_option_is_known_to_the_published_library() -> None:
    """`api_names.json` holds what was found in the wheel, by version; nothing beyond it is used, nor less."""
    profile = ort_tensorrt._plans.ranges(MODEL.signature, OPTIONS)
    options = ort_tensorrt.provider_options(profile, {"plans": Path("a"), "timings": Path("b")})
    assert sorted(options) == NAMES
    assert sorted({*ort_cuda.EXACT, *ort_cuda.RECORDING}) == API["libonnxruntime_providers_cuda.so"]
    others = {ort_cuda.PROVIDER, ort_tensorrt.PROVIDER, *ort_tensorrt.WHOLE, _captured.ID}
    assert sorted(others) == API["onnxruntime_pybind11_state"]
