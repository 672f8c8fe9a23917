"""Liveness, readiness and metrics."""

from __future__ import annotations

import threading
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app
from serving.settings import Settings
from tests.serving.building import PATIENCE, Running, item, publish, running
from wander.errors import BundleError, WanderError


def test_live_before_and_ready_after_loading(models: Path) -> None:
    failures: list[WanderError] = []
    ready, gate = threading.Event(), threading.Event()
    app = create_app(Settings(models=models), on_ready=lambda _: ready.set(), on_failure=failures.append)
    repository = app.state.service.repository
    load = repository.load

    def load_late() -> None:
        assert gate.wait(PATIENCE)
        load()

    repository.load = load_late
    with running(Settings(models=models), app) as server:
        try:
            assert server.client.get("/livez").status_code == 200
            for path in ("/readyz", "/v1/models/mosi"):
                answer = server.client.get(path)
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["type"] == "urn:wander:error:NotReady"
            assert "\nwander_ready 0.0\n" in server.client.get("/metrics").text
            for query in ({}, {"model": "mosi"}):
                assert server.post("/v1/sentiment", json=item(), params=query).status_code == 503
            assert server.client.get("/v1/models").json() == {"models": []}
            assert server.client.get("/openapi.json").status_code == 200
        finally:
            gate.set()
        assert ready.wait(PATIENCE)
        assert server.client.get("/readyz").json() == {"status": "ready", "models": ["iemocap", "mosi"]}
        assert "\nwander_ready 1.0\n" in server.client.get("/metrics").text
        assert server.post("/v1/sentiment", json=item()).status_code == 200
    assert failures == []


def test_failure_to_load_is_reported_and_never_ready(tmp_path: Path) -> None:
    failures: list[WanderError] = []
    failed = threading.Event()

    def fail(error: WanderError) -> None:
        failures.append(error)
        failed.set()

    settings = Settings(models=tmp_path)
    with running(settings, create_app(settings, on_failure=fail)) as server:
        assert failed.wait(PATIENCE)
        assert isinstance(failures[0], BundleError)
        assert server.client.get("/livez").status_code == 200
        assert server.client.get("/readyz").status_code == 503


def test_metrics(server: Running) -> None:
    server.post("/v1/sentiment", json=item())
    server.post("/v1/sentiment", json={"items": [item(), {}]})
    server.client.get("/v1/models/client-made")
    server.client.get("/client-made")
    server.client.request("BREW", "/client-made/too")
    server.post("/v1/sentiment", json={**item(), "model": "client-made"})
    answer = server.client.get("/metrics")
    assert answer.status_code == 200
    assert "client-made" not in answer.text
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = families["wander_request_seconds"].samples
    known = {"/v1/sentiment", "/v1/emotion", "/v1/models", "/v1/models/{name}", "/livez", "/readyz", "/metrics", "none"}
    assert {sample.labels["route"] for sample in requests} <= known
    counts = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in requests
        if sample.name.endswith("_count")
    }
    assert counts["/v1/sentiment", "200"] >= 2
    assert counts["/v1/models/{name}", "404"] >= 1
    assert counts["none", "404"] >= 1
    rejected = {tuple(sample.labels.values()): sample.value for sample in families["wander_rejections"].samples}
    assert any({"mosi", "InputError"} == set(labels) for labels in rejected)
    assert {sample.labels["model"] for sample in families["wander_queue_rows"].samples} == {"mosi", "iemocap"}
    stages = {sample.labels["stage"] for sample in families["wander_stage_seconds"].samples}
    assert stages == {"queue", "preprocess", "inference", "postprocess", "request"}


def test_two_servers_in_one_process_do_not_mix(models: Path, tmp_path: Path) -> None:
    publish(tmp_path / "other")
    with running(Settings(models=models)) as one, running(Settings(models=tmp_path)) as two:
        assert [model["name"] for model in two.client.get("/v1/models").json()["models"]] == ["other"]
        assert "mosi" in one.client.get("/metrics").text
        assert "mosi" not in two.client.get("/metrics").text
