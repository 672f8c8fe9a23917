"""`wander serve` with keys and limits, as a process: that what is set reaches the server."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from serving.settings import Settings
from tests.serving.auth.test_keys import KEY, entry
from tests.serving.building import PATIENCE, item
from tests.serving.conftest import WANDER, Command


def connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


@pytest.mark.parametrize("inline", [True, False])
def test_keys(
    command: Callable[..., Command], http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    """From a file, or from the variable; the lines that are announced work for who has the key."""
    text = json.dumps([entry()])
    path = tmp_path / "keys.json"
    path.write_text(text)
    monkeypatch.setenv("WANDER_KEYS", text if inline else str(path))
    started = command("--log-level", "debug")
    url = f"{started.url}/v1/sentiment"
    assert http.post(url, json=item()).status_code == 401
    assert http.post(url, json=item(), headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    line = next(line for line in started.announced if "curl" in line)
    environment = {"KEY": KEY, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=PATIENCE, check=True, env=environment)
    assert json.loads(done.stdout)["model"]
    _, written = started.stop()
    assert KEY not in "".join(started.announced) + written


def test_keys_that_cannot_be_used(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([entry(roles=["root"])]))
    done = subprocess.run(
        [WANDER, "serve", models, "--port", "0", "--keys", path], capture_output=True, timeout=PATIENCE, text=True
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: the keys in {path} cannot be used: 0.roles")


def test_limits_on_connections(command: Callable[..., Command]) -> None:
    started = command("--max-connections", "1", "--body-timeout-s", "0.2")
    with connect(started.url) as first:
        first.sendall(b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        with connect(started.url) as second:
            assert second.recv(12) == b"HTTP/1.1 503"
        assert first.recv(12) == b"HTTP/1.1 408"


def test_idle_connection_is_kept_as_long_as_asked(command: Callable[..., Command]) -> None:
    """Five seconds, as in uvicorn, are what many clients have too: both end it at once, and a request may be lost."""
    started = command("--keep-alive-s", "1")
    with connect(started.url) as one:
        one.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b"".join(iter(lambda: one.recv(1 << 16), b""))  # until the server ends it
        assert answer.startswith(b"HTTP/1.1 200")
    assert Settings(models=Path()).keep_alive_s > 60  # longer than the load balancers of the large clouds


def test_server_does_not_say_what_it_is_made_with(command: Callable[..., Command], http: httpx.Client) -> None:
    assert "server" not in http.get(f"{command().url}/livez").headers


def test_server_that_others_reach_says_so(command: Callable[..., Command]) -> None:
    announced = command("--host", "0.0.0.0").announced
    (line,) = [line for line in announced if "--keys" in line]
    assert "WARNING" in line
