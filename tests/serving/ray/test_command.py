"""`wander ray` as a person meets it, with a cluster of its own, and without one where it was said to be."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest

from tests.serving.building import PATIENCE, Linear, item, publish, wait_until
from tests.serving.conftest import WANDER
from tests.serving.ray.conftest import START_S, free_port, wander_ray

pytestmark = pytest.mark.usefixtures("needs_ray")


def test_cluster_of_its_own_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "models" / "mosi", Linear())
    with tempfile.TemporaryDirectory(prefix="wander-") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        port = free_port()
        with wander_ray(tmp_path / "models", port, "--max-replicas", "1") as process:
            url = f"http://127.0.0.1:{port}/v1/sentiment"
            answer = httpx.post(url, json=item(), timeout=PATIENCE, trust_env=False)
            assert answer.raise_for_status().json()["model"] == "mosi"
            assert processes(folder)
        assert process.returncode == 0
        wait_until(lambda: not processes(folder))


def processes(folder: str) -> list[str]:
    """Those of Ray that were started for a folder."""
    return subprocess.run(["pgrep", "-f", folder], capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_no_cluster_there(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "models" / "mosi", Linear())
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = [WANDER, "ray", tmp_path / "models", "--address", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert line.startswith(f"error: --address: there is no Ray cluster at {address}")
    assert "Traceback" not in done.stderr
