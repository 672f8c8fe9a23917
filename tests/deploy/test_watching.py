"""The dashboard and the alerts: of one mind with the server's metrics, and, where Prometheus is installed, alive.

Debian has it: apt-get install prometheus. The live test scrapes a real server under a little load and asks every panel.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serving.app import create_app
from serving.settings import Settings
from tests.deploy.dockerfile import ROOT
from tests.serving.building import PATIENCE, Linear, Running, item, publish, running, wait_until
from tests.serving.index import colours

DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "wander.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
CONFIG = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
KINDS = {"": "gauge", "_total": "counter", "_count": "histogram", "_sum": "histogram", "_bucket": "histogram"}


def expressions() -> Iterator[Any]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for rule in ALERTS:
        yield pytest.param(rule["expr"], id=rule["alert"])


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, set[str]]]:
    """Every metric of a server -> its kind, and the labels that it has."""
    service = create_app(Settings(models=tmp_path_factory.mktemp("none"))).state.service
    found = {family.name: (family.type, _labels(family)) for family in service.metrics.registry.collect()}
    for collector in service.metrics.registry._collector_to_names:
        if names := getattr(collector, "_labelnames", None):
            name = collector._name
            found[name] = (found[name][0], set(names))
    return found


def _labels(family: Any) -> set[str]:
    return set(getattr(family, "_labelnames", ()))


@pytest.mark.parametrize("expression", list(expressions()))
def test_expressions_ask_for_metrics_and_labels_that_there_are(
    expression: str, families: dict[str, tuple[str, set[str]]]
) -> None:
    asked = re.findall(r"(wander_\w+)(?:\{([^}]*)\})?", expression)
    assert asked or expression.startswith("up{")
    for name, matchers in asked:
        stem = next(name.removesuffix(end) for end in ("_bucket", "_count", "_sum", "_total", "") if name.endswith(end))
        kind, labels = families[stem]
        assert KINDS[name.removeprefix(stem)] == kind, name
        used = set(re.findall(r"(\w+)(?:=~|!=|=)\"", matchers)) - {"job", "instance"}
        assert used <= labels, name


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_are_complete(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    assert panel["datasource"]["uid"] == _datasource()["uid"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24


def test_no_two_panels_lie_on_each_other() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))


def _datasource() -> dict[str, Any]:
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (source,) = yaml.safe_load(path.read_text("utf-8"))["datasources"]
    return dict(source)


def test_provisioning_names_what_compose_mounts_and_runs() -> None:
    assert _datasource()["url"] == "http://prometheus:9090"
    path = DEPLOY / "grafana" / "provisioning" / "dashboards" / "wander.yaml"
    (provider,) = yaml.safe_load(path.read_text("utf-8"))["providers"]
    mounts = {volume.split(":")[0]: volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]}
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/wander.json"
    (job,) = CONFIG["scrape_configs"]
    assert job["job_name"] == "wander"
    assert job["static_configs"][0]["targets"] == ["server:8000"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus")
def test_prometheus_reads_its_configuration_and_the_alerts() -> None:
    command = ["promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    inside = ",".join(f'{key}="{value}"' for key, value in {"job": "wander", "instance": "a", **labels}.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


QUIET = [
    series("up", "1x60"),
    series("wander_ready", "1x60"),
    series("wander_request_seconds_count", "0+300x60", status="200"),
    series("wander_request_seconds_count", "0+1x60", status="500"),
    series("wander_rejections_total", "0+5x60", model="m", reason="InputError"),
    series("wander_stage_seconds_bucket", "0+300x60", stage="request", model="m", le="0.1"),
    series("wander_stage_seconds_bucket", "0+300x60", stage="request", model="m", le="+Inf"),
]
FIRING = {
    "WanderDown": [series("up", "0x60")],
    "WanderNotReady": [series("wander_ready", "0x60")],
    "WanderErrors": [
        series("wander_request_seconds_count", "0+300x60", status="200"),
        series("wander_request_seconds_count", "0+10x60", status="503"),
    ],
    "WanderQueueFull": [series("wander_rejections_total", "0+5x60", model="m", reason="Overloaded")],
    "WanderSlow": [
        series("wander_stage_seconds_bucket", "0+100x60", stage="request", model="m", le="0.5"),
        series("wander_stage_seconds_bucket", "0+300x60", stage="request", model="m", le="1"),
        series("wander_stage_seconds_bucket", "0+300x60", stage="request", model="m", le="+Inf"),
    ],
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here: apt-get install prometheus")
@pytest.mark.parametrize("name", [rule["alert"] for rule in ALERTS])
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    """Promtool runs each rule over an hour of made-up samples, a minute apart: a quiet server, and one in trouble."""
    for number, (input_series, fires) in enumerate(((QUIET, False), (FIRING[name], True))):
        done = _alert_at_the_end(tmp_path / str(number), name, input_series)
        # Nothing is expected to fire: promtool fails exactly if it does.
        assert (done.returncode != 0) == fires, done.stdout + done.stderr
        assert ("got:[" in done.stdout + done.stderr) == fires


def _alert_at_the_end(folder: Path, name: str, input_series: list[dict[str, str]]) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    expected = [{"eval_time": "50m", "alertname": name, "exp_alerts": []}]
    test = {"interval": "1m", "input_series": input_series, "alert_rule_test": expected}
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": [test]}))
    return subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[httpx.Client]:
    """A real Prometheus with our configuration, but for the address and a shorter interval."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {**CONFIG, "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}}
    config["scrape_configs"] = [{**CONFIG["scrape_configs"][0], "static_configs": [{"targets": [target]}]}]
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE) as client:
            wait_until(lambda: _answers(client))
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def load(server: Running) -> Iterator[None]:
    """Items, some of them refused; items into an index, and searches of it."""
    stop = threading.Event()

    def work() -> None:
        client = server.client
        number = 0
        while not stop.is_set():
            number += 1
            client.post("/v1/sentiment", json={"items": [item(seed) for seed in range(6)]})
            client.post("/v1/sentiment", json={"nonsense": 1})
            client.put(f"/v1/retrieval/reds/items/{number % 9}", json={"text": "red blue"})
            client.post("/v1/retrieval/reds/search", json={"text": "red"})
            time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


def asked(client: httpx.Client, expression: str) -> list[Any]:
    answer = client.get("/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    return [series for series in answer["data"]["result"] if series["value"][1] != "NaN"]


def filled(expression: str) -> str:
    """With Grafana's variables as they stand when everything is shown."""
    return expression.replace("$__rate_interval", "10s").replace("$instance", ".*").replace("$model", ".*")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not here: apt-get install prometheus")
def test_every_panel_shows_something_under_a_little_load(tmp_path: Path) -> None:
    models, scraped = tmp_path / "models", tmp_path / "prometheus"
    scraped.mkdir()
    publish(models / "mosi", Linear("sentiment"))
    with colours.registered():
        colours.publish(models / "colours")
        settings = Settings(models=models, indexes=tmp_path / "indexes")
        with (
            running(settings) as server,
            prometheus(":".join(map(str, server.address)), scraped) as client,
            load(server),
        ):
            silent = {panel["title"]: target["expr"] for panel in PANELS for target in panel["targets"]}
            until = time.monotonic() + 60
            while silent and time.monotonic() < until:
                time.sleep(1)
                silent = {title: e for title, e in silent.items() if not asked(client, filled(e))}
            assert silent == {}
            (up,) = asked(client, 'up{job="wander"}')
            assert up["value"][1] == "1"
            rules = client.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
            assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(
                (rule["alert"] for rule in ALERTS), "ok"
            )
            requests = next(panel for panel in PANELS if panel["title"] == "Requests")["targets"][0]["expr"]
            assert float(asked(client, filled(requests))[0]["value"][1]) > 1
