import os
from pathlib import Path

import torch

from benchmarks.startup import FORBIDDEN, mapped
from tests.benchmarks.running import quick, run
from tests.serving.building import publish


def test_a_server_becomes_ready_without_torch(tmp_path: Path) -> None:
    publish(tmp_path / "models" / "tiny")
    found = quick("startup", tmp_path / "startup.json", str(tmp_path / "models"))
    assert found["models"] == ["tiny"]
    assert found["torch_mapped"] == []
    (seconds,) = found["seconds"]
    assert 0.05 < seconds < 60


def test_torch_in_a_process_is_seen() -> None:
    assert torch.__version__
    assert any(name.startswith(FORBIDDEN) for name in mapped(os.getpid(), FORBIDDEN))


def test_a_server_that_ends_is_one_line_and_exit_1(tmp_path: Path) -> None:
    done = run("startup", str(tmp_path))
    assert done.returncode == 1
    assert "error: the server ended" in done.stderr
    assert "Traceback" not in done.stderr
