"""`wander doctor` as a process: what it prints, when it fails, and that it needs neither torch nor onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.doctor import selftest
from serving.doctor.selftest import make_bundle, self_test
from tests.serving.building import Linear, publish
from wander.bundle import Bundle
from wander.errors import BundleError


def doctor(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As on a machine that only serves: torch and onnx are hidden from the process."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'onnx', 'transformers', 'gradio'))\n"
        "from wander.__main__ import main; main(['doctor', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_report_of_a_machine_that_serves() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert report["passed"]
    assert [finding["name"] for finding in report["self_test"]] == [
        "make a bundle",
        "engine ort: doctor",
        "server",
        "server: doctor",
    ]
    assert report["processor"]["usable"] >= 1
    assert all(speed > 0 for speed in report["gflops"].values())
    assert {state["name"] for state in report["engines"] if state["works"]} >= {"ort"}


def test_a_folder_of_models_is_tested_and_told_in_words(models: Path) -> None:
    done = doctor(models)
    assert done.returncode == 0, done.stderr
    for line in ("ok      engine ort: mosi", "ok      server: iemocap", "speed   ", "instructions  "):
        assert line in done.stdout


def test_a_model_that_answers_otherwise_fails_the_test(tmp_path: Path) -> None:
    publish(tmp_path / "models" / "wrong", Linear(seed=1), answers=Linear(seed=2))
    done = doctor(tmp_path / "models")
    assert done.returncode == 1
    assert "FAILED  engine ort: wrong: graph model differs from its reference by" in done.stdout
    assert "FAILED  server: the server does not start; it says: error: " in done.stdout


def test_an_altered_file_fails_the_test(bundle: Bundle) -> None:
    (bundle.path / "example.json").write_text("{}")
    by_engine, server = self_test(bundle.path.parents[1], "ort")
    assert not by_engine.passed
    assert "example.json was altered" in by_engine.detail
    assert not server.passed


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no models"):
        list(self_test(tmp_path, "ort"))


def test_an_engine_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = self_test(None, "nonsense")
    assert not first.passed
    assert "nonsense" in first.detail
    assert rest == []


def test_a_server_that_never_gets_ready_is_ended(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "PATIENCE_S", 0.01)
    *_, last = self_test(models, "ort")
    assert not last.passed
    assert "does not start" in last.detail


def test_the_answer_of_the_server_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison that a right answer passes is one that a wrong answer fails."""
    make_bundle(tmp_path / "doctor", "ort")
    bundle = Bundle.open(tmp_path / "doctor")
    samples = bundle.samples("model")
    assert selftest._compared(bundle, "model", samples, samples.expected) == 0
    for wrong in (1e-3, np.nan):
        with pytest.raises(BundleError, match="differs"):
            selftest._compared(bundle, "model", samples, {"output": samples.expected["output"] + np.float32(wrong)})
