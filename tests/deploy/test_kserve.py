"""What can be known of `deploy/kserve` without a cluster: that the parts fit together, and fit the server."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import wander
from serving.protocols import protocols
from tests.serving.building import PATIENCE, publish
from wander.__main__ import load

FOLDER = Path(__file__).parents[2] / "deploy" / "kserve"
MOUNT = "/mnt/models"
"""Where KServe puts what `storageUri` names."""
Document = dict[str, Any]


def documents(kind: str) -> dict[str, Document]:
    """All documents of a kind in the folder, by name."""
    found = [d for path in sorted(FOLDER.glob("*.yaml")) for d in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    assert all(d["kind"] in ("ServingRuntime", "InferenceService") for d in found)
    named = [d for d in found if d["kind"] == kind]
    assert len({d["metadata"]["name"] for d in named}) == len(named)
    return {d["metadata"]["name"]: d for d in named}


RUNTIMES, SERVICES = documents("ServingRuntime"), documents("InferenceService")
each_runtime = pytest.mark.parametrize("name", RUNTIMES)
each_service = pytest.mark.parametrize("name", SERVICES)


def container(name: str) -> Document:
    (only,) = RUNTIMES[name]["spec"]["containers"]
    return dict(only)


def probes(name: str) -> Iterator[Document]:
    for key, probe in container(name).items():
        if key.endswith("Probe"):
            yield probe["httpGet"]


def options() -> Document:
    """The arguments of our container as `wander serve` itself parses them; an unknown one ends the test."""
    (entry,) = entry_points(group="wander.commands", name="serve")
    command, *arguments = container("wander")["args"]
    assert command == "serve"
    return dict(load(entry).make_context("serve", list(arguments)).params)


def test_the_folder_holds_both_servers() -> None:
    assert set(RUNTIMES) == set(SERVICES) == {"wander", "wander-triton"}


@each_runtime
def test_a_runtime_is_what_kserve_takes(name: str) -> None:
    runtime = RUNTIMES[name]
    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert container(name)["name"] == "kserve-container"
    assert runtime["spec"]["protocolVersions"] == ["v2"]
    assert set(container(name)) >= {"readinessProbe", "livenessProbe", "resources", "securityContext"}


@each_service
def test_a_service_fits_its_runtime(name: str) -> None:
    service = SERVICES[name]
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    runtime = RUNTIMES[model["runtime"]]["spec"]
    formats = [{key: f[key] for key in ("name", "version")} for f in runtime["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert model["storageUri"].startswith("pvc://")
    assert 1 <= predictor["minReplicas"] <= predictor["maxReplicas"]


@each_runtime
def test_images_are_pinned(name: str) -> None:
    _, _, tag = container(name)["image"].rpartition(":")
    assert tag == wander.__version__ if name == "wander" else re.fullmatch(r"\d\d\.\d\d-py3", tag)


@each_runtime
def test_nobody_is_root_and_nothing_is_written_but_where_it_may(name: str) -> None:
    assert container(name)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in container(name)["volumeMounts"]}
    assert "/tmp" in mounts
    assert sorted(mounts.values()) == sorted(volume["name"] for volume in RUNTIMES[name]["spec"]["volumes"])


@each_runtime
def test_probes_and_metrics_ask_a_port_that_is_listened_on(name: str) -> None:
    (port,) = container(name)["ports"]
    assert {probe["port"] for probe in probes(name)} == {port["containerPort"]}
    arguments = container(name)["args"]
    assert any(argument.endswith(f"port={port['containerPort']}") for argument in arguments)
    metrics = RUNTIMES[name]["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert any(argument.endswith(f"port={metrics}") for argument in arguments)


@each_runtime
def test_there_are_as_many_threads_as_cores(name: str) -> None:
    resources = container(name)["resources"]
    assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}
    if name == "wander":  # which reads the limit itself
        assert options()["threads"] == options()["instances"] == 0
    else:
        assert (
            f"--backend-config=onnxruntime,intra_op_thread_count={resources['limits']['cpu']}"
            in (container(name)["args"])
        )


def test_our_arguments_are_options_of_the_server() -> None:
    given = options()
    assert given["models"] == Path(MOUNT)
    assert given["host"] == "0.0.0.0"
    assert str(given["indexes"]) in [mount["mountPath"] for mount in container("wander")["volumeMounts"]]
    for service in SERVICES.values():
        predictor = service["spec"]["predictor"]
        if predictor["model"]["runtime"] == "wander":
            assert given["drain_s"] < predictor["terminationGracePeriodSeconds"]


def test_triton_reads_the_folder_that_kserve_mounts() -> None:
    assert f"--model-repository={MOUNT}" in container("wander-triton")["args"]
    assert {probe["path"] for probe in probes("wander-triton")} == {"/v2/health/live", "/v2/health/ready"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command of the container as it stands there, but for its folders, its address and its port."""
    folder = tmp_path_factory.mktemp("kserve")
    publish(folder / "models" / "mosi")
    here = {
        MOUNT: str(folder / "models"),
        f"--indexes={options()['indexes']}": f"--indexes={folder / 'indexes'}",
        f"--port={options()['port']}": "--port=0",
        f"--host={options()['host']}": "--host=127.0.0.1",
    }
    arguments = container("wander")["args"]
    assert set(here) < set(arguments)
    assert container("wander")["command"] == ["wander"]
    command = [sys.executable, "-m", "wander", *(here.get(argument, argument) for argument in arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            written = []
            for line in process.stderr:
                written.append(line)
                if "curl" in line:  # the last line of those that say where it serves
                    break
            first = next((line for line in written if line.startswith("serving on ")), None)
            assert first is not None, written
            watchdog.cancel()
            yield first.split()[2]
        finally:
            watchdog.cancel()
            process.kill()


def test_the_container_s_command_serves_what_the_probes_ask(server: str) -> None:
    paths = {probe["path"] for probe in probes("wander")}
    assert paths == {"/readyz", "/livez"}
    metrics = RUNTIMES["wander"]["spec"]["annotations"]["prometheus.kserve.io/path"]
    for path in (*paths, metrics):
        assert httpx.get(server + path, trust_env=False, timeout=PATIENCE).status_code == 200


def test_the_server_speaks_the_protocol_that_it_declares(server: str) -> None:
    if not any(protocol.prefix.startswith("/v2") for _, protocol in protocols):
        pytest.skip("serving.protocols holds no KServe v2 routes")
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/mosi"):
        assert httpx.get(server + path, trust_env=False, timeout=PATIENCE).status_code == 200
