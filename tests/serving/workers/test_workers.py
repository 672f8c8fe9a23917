"""Several processes answer as one server does: any connection reaches the same models, indexes and numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.auth.test_keys import KEY, entry
from tests.serving.building import PATIENCE, Linear, item, publish, random_rows, wait_until
from tests.serving.conftest import WANDER, Command
from tests.serving.index.colours import publish as publish_colours

CONNECTIONS = 12
"""So many that all of them at one of two workers is no chance to reckon with: 1 in 2,048."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "models" / "mosi", Linear(seed=0))
    return tmp_path / "models"


@pytest.fixture
def team(folder: Path, tmp_path: Path, command: Callable[..., Command]) -> Command:
    return command(
        *("--workers", "2", "--model-control", "explicit", "--indexes", str(tmp_path / "indexes")), folder=folder
    )


@pytest.fixture
def clients(team: Command) -> Iterator[list[httpx.Client]]:
    """Each with a connection of its own, which the kernel gives to one of the workers."""
    opened = [httpx.Client(base_url=team.url, timeout=PATIENCE, trust_env=False) for _ in range(CONNECTIONS)]
    yield opened
    for client in opened:
        client.close()


def workers_of(parent: int) -> list[int]:
    """Process ids of the workers; the tracker of resources that Python starts beside them is none."""
    found = subprocess.run(
        ["pgrep", "-P", str(parent), "-f", "spawn_main"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def count(text: str, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(text)
    wanted = labels.items()
    return sum(s.value for f in families for s in f.samples if s.name == name and wanted <= s.labels.items())


def answers(clients: list[httpx.Client], body: Any) -> list[dict[str, Any]]:
    return [client.post("/v1/sentiment", json=body).raise_for_status().json() for client in clients]


def test_metrics_are_those_of_all(clients: list[httpx.Client]) -> None:
    expected = Linear(seed=0)(random_rows(1))["score"].item()
    for said in answers(clients, item()):
        assert said["score"] == pytest.approx(expected, abs=1e-5)
    for client in clients:
        text = client.get("/metrics").text
        assert count(text, "wander_request_seconds_count", route="/v1/sentiment", status="200") == CONNECTIONS
        assert count(text, "wander_batch_rows_sum", model="mosi") == CONNECTIONS


def test_killed_worker_comes_back(team: Command, clients: list[httpx.Client]) -> None:
    answers(clients, item())
    before = workers_of(team.process.pid)
    assert len(before) == 2
    for victim in before:  # the first too
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda victim=victim: victim not in workers_of(team.process.pid))
        wait_until(lambda: len(workers_of(team.process.pid)) == 2)

        def ready() -> bool:
            try:
                with httpx.Client(base_url=team.url, timeout=PATIENCE, trust_env=False) as client:
                    return client.get("/readyz").is_success and client.get("/v1/retrieval").is_success
            except httpx.TransportError:
                return False

        wait_until(lambda: all(ready() for _ in range(CONNECTIONS)))
    assert not set(before) & set(workers_of(team.process.pid))


def test_killed_parent_takes_its_workers_along(team: Command) -> None:
    workers = workers_of(team.process.pid)
    team.process.kill()
    team.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_ended_server_leaves_nothing(team: Command) -> None:
    workers = workers_of(team.process.pid)
    code, written = team.stop()
    assert code == 0
    assert "Traceback" not in written
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_what_there_is_once_is_reached_by_every_connection(
    folder: Path, tmp_path: Path, command: Callable[..., Command]
) -> None:
    """Also while items are written through one connection and read through another."""
    publish_colours(folder / "colours")
    program = (sys.executable, "-m", "tests.serving.index.colours")
    started = command("--workers", "2", "--indexes", str(tmp_path / "indexes"), folder=folder, program=program)
    clients = [httpx.Client(base_url=started.url, timeout=PATIENCE, trust_env=False) for _ in range(CONNECTIONS)]
    for number, client in enumerate(clients):
        put = client.put(f"/v1/retrieval/shop/items/item-{number}", json={"text": "red"})
        assert put.is_success, put.text
    for client in clients:
        listed = client.get("/v1/retrieval/shop/items").json()["items"]
        assert len(listed) == CONNECTIONS
        assert count(client.get("/metrics").text, "wander_index_items", index="shop") == CONNECTIONS
        refused = client.get("/v1/retrieval/shop/items/none")
        assert (refused.status_code, refused.headers["content-type"]) == (404, "application/problem+json")
        client.close()


def test_port_in_use_by_other_workers(team: Command, folder: Path) -> None:
    port = team.url.rpartition(":")[2]
    done = subprocess.run(
        [WANDER, "serve", folder, "--workers", "2", "--port", port],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert f"could not listen on 127.0.0.1:{port}" in done.stderr


def test_models_that_cannot_be_loaded_end_it_with_their_error(folder: Path) -> None:
    shutil.rmtree(folder / "mosi" / "1" / "samples")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = subprocess.run(
        [WANDER, "serve", folder, "--workers", "2", "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "samples/model.npz is missing" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_client_that_poses_as_a_worker(team: Command, clients: list[httpx.Client]) -> None:
    """Its request is that of any client, and is not sent round among the workers either."""
    headers = {"x-wander-worker": "0" * 32}
    for client in clients:
        assert client.get("/metrics", headers=headers).status_code == 200
        assert client.get("/v1/retrieval", headers=headers).json() == {"indexes": []}
        assert client.post("/v2/repository/models/mosi/unload", headers=headers).status_code == 403


def test_keys_are_asked_for_once(
    folder: Path, tmp_path: Path, command: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one worker lets in, the others do for it; no process counts a request for another."""
    monkeypatch.setenv("WANDER_KEYS", json.dumps([entry(roles=["infer", "admin"], rate=0.001, burst=8)]))
    options = ("--workers", "2", "--model-control", "explicit", "--indexes", str(tmp_path / "indexes"))
    team = command(*options, folder=folder)
    headers = {"Authorization": f"Bearer {KEY}"}
    statuses: list[int] = []
    for _ in range(4 * CONNECTIONS):
        with httpx.Client(base_url=team.url, timeout=PATIENCE, trust_env=False, headers=headers) as client:
            assert client.get("/v1/retrieval", headers={"Authorization": "Bearer x"}).status_code == 401
            statuses += [client.get(path).status_code for path in ("/v1/retrieval", "/metrics")]
    # Each of the two lets in 8; were the requests between them counted, it would be fewer.
    assert statuses.count(200) == 16
    assert statuses.count(429) == len(statuses) - 16
