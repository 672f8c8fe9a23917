"""What both engines of TensorRT are tried on: a made-up GPU, and a graph for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.engines.fake_tensorrt import MODEL, Machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine(MODEL)
    for name, module in machine.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("WANDER_CACHE", str(tmp_path / "cache"))
    return machine


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    MODEL.save(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"
