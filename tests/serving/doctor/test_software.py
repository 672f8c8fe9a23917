"""What a library says of itself is not believed, and what is absent is named with the line that installs it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from serving.doctor import software
from wander.engines import engines

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))


class Claims:
    """An onnxruntime that lists a provider, and behaves as a test wants."""

    def __init__(self, opened: str = "CUDAExecutionProvider", factor: float = 1.0) -> None:
        self.opened, self.factor = opened, factor
        self.SessionOptions = onnxruntime.SessionOptions

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def preload_dlls(self) -> None:
        """Looks for the libraries of a GPU."""

    def set_default_logger_severity(self, level: int) -> None:
        assert level == 4

    def InferenceSession(  # noqa: N802
        self, path: Path, options: Any, providers: list[str], enable_fallback: int
    ) -> Any:
        assert not enable_fallback
        real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return SimpleNamespace(
            get_providers=lambda: [self.opened],
            run=lambda names, inputs: [self.factor * real.run(names, inputs)[0]],
        )


def only(monkeypatch: pytest.MonkeyPatch, library: Any) -> software.State:
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    (state,) = software.providers()
    return state


def test_the_processor_works() -> None:
    states = {state.name: state for state in software.providers()}
    assert states["CPUExecutionProvider"].problem is None
    assert set(states) == set(onnxruntime.get_available_providers())


def test_a_provider_that_computes_elsewhere_does_not_work() -> None:
    """Azure's runs no ordinary operator: ONNX Runtime gives those to the processor without a word."""
    states = {state.name: state for state in software.providers()}
    if "AzureExecutionProvider" not in states:
        pytest.skip("this ONNX Runtime lists no provider that cannot run a product of matrices")
    assert "cannot run a graph" in str(states["AzureExecutionProvider"].problem)


def test_a_provider_that_is_replaced_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    state = only(monkeypatch, Claims(opened="CPUExecutionProvider"))
    assert state.problem == "listed, but ONNX Runtime takes CPUExecutionProvider in its place"


def test_a_provider_with_wrong_numbers_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wrong numbers" in str(only(monkeypatch, Claims(factor=1.1)).problem)
    assert only(monkeypatch, Claims()).problem is None


def test_numbers_that_are_none_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wrong numbers" in str(only(monkeypatch, Claims(factor=np.nan)).problem)


def test_without_onnxruntime_there_are_no_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert software.providers() == []
    assert "not installed" in str(software.libraries()[0].problem)


def test_every_extra_for_users_is_looked_at() -> None:
    declared = set(PROJECT["project"]["optional-dependencies"]) - set(software.NOT_FOR_USERS)
    assert {state.name for state in software.extras()} <= declared
    assert {"serve", "export"} <= {state.name for state in software.extras()}


def test_an_absent_package_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "installed", lambda name: None if name == "torch" else "1")
    states = {state.name: state.problem for state in software.extras()}
    assert states["export"] == "torch not installed; run: pip install 'wander[export]'"
    assert states["serve"] is None


def test_engines_speak_for_themselves() -> None:
    states = {state.name: state.problem for state in software.engine_states()}
    assert set(states) == set(engines.names()) - {"fake"}
    assert states == {name: engine.unavailable() for name, engine in engines if name != "fake"}


def test_torch_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert software.libraries()[-1].name == "torch"


def test_a_package_with_a_broken_library_below(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_below.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    state = software._imported("broken_below", "tensorrt")
    assert state.problem == "cannot be imported: libnvinfer.so.10: cannot open shared object file"
