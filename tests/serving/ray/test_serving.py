"""The application over replicas: the values, errors and routes of one machine; it scales, heals, and swaps models."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving.building import MAX_BATCH, PATIENCE, Linear, item, items, publish, random_rows, wait_until
from tests.serving.conftest import WANDER
from tests.serving.ray.conftest import MODEL, Cluster, Serving, children, free_port, wander_ray
from tests.serving.ray.load import CONNECTIONS, Load
from wander.manifest import Graph

LONG_S = 90.0
"""Ray hears of the load every 10 seconds, and then starts a process."""
SENTIMENT = f"/v1/sentiment?model={MODEL}"
WIDE = "wide"
ROWS = 6000
"""So many in one batch that their tensors go through Ray's object store, not within the call."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray") / "models"


@pytest.fixture(scope="module")
def serving(cluster: Cluster, folder: Path) -> Iterator[Serving]:
    """One replica; two under load. A second model takes large batches."""
    _, model = publish(folder / MODEL, Linear())
    graph = Graph(file="model.onnx", signature=model.signature, max_batch_size=ROWS)
    publish(folder / WIDE, model, graphs={"model": graph})
    port = free_port()
    options = ("--address", cluster.address, "--max-replicas", "2", "--upscale-delay-s", "1", "--max-items", str(ROWS))
    with wander_ray(folder, port, *options):
        started = Serving(f"http://127.0.0.1:{port}", cluster, model)
        wait_until(started.ready)
        yield started


@pytest.fixture
def http(serving: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serving.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


def v2(rows: int, seed: int = 0) -> dict[str, Any]:
    arrays = random_rows(rows, seed).items()
    return {
        "id": "mine",
        "inputs": [{"name": n, "shape": v.shape, "datatype": "FP32", "data": v.ravel().tolist()} for n, v in arrays],
    }


@pytest.mark.parametrize(
    ("model", "rows"), [(MODEL, 1), (MODEL, MAX_BATCH), (MODEL, 3 * MAX_BATCH + 1), (WIDE, 1), (WIDE, ROWS)]
)
def test_tensors(serving: Serving, http: httpx.Client, model: str, rows: int) -> None:
    answer = http.post(f"/v2/models/{model}/infer", json=v2(rows)).raise_for_status().json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", model, "1")
    (output,) = answer["outputs"]
    np.testing.assert_allclose(output["data"], serving.expected(random_rows(rows)).ravel(), rtol=1e-5, atol=1e-6)


def test_items(serving: Serving, http: httpx.Client) -> None:
    expected = serving.expected(random_rows(5, seed=3)).ravel()
    lone = http.post(SENTIMENT, json=items(5, seed=3)[0]).raise_for_status().json()
    assert (lone["model"], lone["version"], lone["adapter"]) == (MODEL, "1", "linear")
    assert lone["score"] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    many = [*items(5, seed=3), {"text": "nonsense"}]
    answers = http.post(SENTIMENT, json={"items": many}).raise_for_status().json()["results"]
    assert [answer["score"] for answer in answers[:5]] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)
    assert "items[5]" in answers[5]["error"]["field"]


def test_errors_are_those_of_one_machine(http: httpx.Client) -> None:
    wrong = http.post(SENTIMENT, json={"text": [[1.0]]})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "text")
    assert http.post("/v2/models/nobody/infer", json=v2(1)).status_code == 404
    late = http.post(SENTIMENT, json=item(), headers={"x-request-timeout-ms": "1"})
    assert (late.status_code, late.json()["type"]) == (504, "urn:wander:error:DeadlineExceeded")
    control = http.post(f"/v2/repository/models/{MODEL}/unload", json={})
    assert control.status_code == 403
    index = http.get("/v1/retrieval")
    assert (index.status_code, "holds no indexes" in index.json()["detail"]) == (403, True)


def test_what_runs_where_is_told(http: httpx.Client) -> None:
    engine = http.get("/v1/models").json()["models"][0]["engine"]
    assert (engine["on"], engine["provider"], engine["threads"]) == ("ray", "CPUExecutionProvider", "1")
    assert http.get("/livez").status_code == http.get("/docs").status_code == 200
    assert 'wander_stage_seconds_count{adapter="linear",engine="ort",model="mosi",stage="inference"' in (
        http.get("/metrics").text
    )


def test_load_brings_replicas(serving: Serving) -> None:
    assert len(serving.replicas) == 1
    with Load(serving) as load:
        wait_until(lambda: len(serving.replicas) == 2, LONG_S)
    assert load.wrong == []
    assert set(load.counted()) == {"200"}


def test_every_replica_dies(serving: Serving) -> None:
    """Nobody is left to ask: requests wait, and are answered by those that take the place, or refused in time."""
    with Load(serving) as load:
        wait_until(lambda: load.counted()["200"] > 20)
        before = serving.replicas
        for replica in before:
            os.kill(replica, signal.SIGKILL)
        wait_until(lambda: bool(set(serving.replicas) - set(before)), LONG_S)
        answered = load.counted()["200"]
        wait_until(lambda: load.counted()["200"] > answered + 50, LONG_S)
    assert load.wrong == []
    assert set(load.counted()) <= {"200", "429", "503", "504"}


def test_another_version_takes_the_place_under_load(serving: Serving, folder: Path, http: httpx.Client) -> None:
    """The command, run again beside the first, deploys what the folder holds now."""
    publish(folder / MODEL, Linear())
    with Load(serving) as load:
        command = [WANDER, "ray", folder, "--address", serving.cluster.address, "--detach", "--max-replicas", "2"]
        port = str(httpx.URL(serving.url).port)
        done = subprocess.run([*command, "--port", port], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "mosi version 2" in done.stderr
        wait_until(lambda: http.post(SENTIMENT, json=item()).json().get("version") == "2")
    assert load.wrong == []
    assert set(load.counted()) <= {"200", "503"}


def test_bad_bundle_is_refused_in_one_line_and_the_old_serve_on(
    serving: Serving, folder: Path, http: httpx.Client
) -> None:
    """Its answers are not those of its export, which only a replica can know."""
    bundle, _ = publish(folder / MODEL, Linear(), answers=Linear(seed=1))
    command = [WANDER, "ray", folder, "--address", serving.cluster.address, "--detach"]
    port = str(httpx.URL(serving.url).port)
    done = subprocess.run([*command, "--port", port], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "differs from its stored reference" in line
    assert http.post(SENTIMENT, json=item()).json()["version"] == "2"
    assert bundle.version == "3"


def test_application_dies(serving: Serving) -> None:
    """What it had in hand, Ray's proxy answers with a 500 of its own; what comes later waits for the next process."""
    (own,) = children(serving.cluster.raylet(serving.cluster.nodes.head_node), "ServeReplica:wander:ingress")
    with Load(serving) as load:
        wait_until(lambda: load.counted()["200"] > 20)
        os.kill(own, signal.SIGKILL)
        answered = load.counted()["200"]
        wait_until(lambda: load.counted()["200"] > answered + 50, LONG_S)
        settled = time.monotonic()
        wait_until(lambda: load.counted(settled)["200"] > 20)
    assert load.wrong == []
    assert set(load.counted()) <= {"200", "500", "503"}
    assert load.counted()["500"] <= CONNECTIONS
    assert set(load.counted(settled)) == {"200"}
