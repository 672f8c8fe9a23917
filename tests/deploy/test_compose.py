"""`compose.yaml` against the schema of its specification, and against the images, files and options it names."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest
import yaml

import wander
from serving.settings import Settings
from tests.deploy.dockerfile import ROOT, stages

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


@pytest.mark.skipif(
    importlib.util.find_spec("check_jsonschema") is None, reason="check-jsonschema is not installed; it is in dev"
)
def test_it_is_what_the_specification_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_that_was_promised_is_there() -> None:
    assert set(SERVICES) == {"models", "server", "demo", "vectors", "prometheus", "grafana"}


@each_service
def test_images_are_pinned(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].partition(":")
    assert tag
    assert tag != "latest"
    if "build" in service:
        assert image == "wander"
        assert tag.split("-")[0] == wander.__version__
        assert service["build"]["target"] in stages()


@each_service
def test_nothing_is_written_but_where_it_may_be(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@each_service
def test_folders_and_volumes_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).is_dir(), source
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


@each_service
def test_only_this_machine_is_let_in(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:")


@each_service
def test_who_is_waited_for_is_there(name: str) -> None:
    awaited = SERVICES[name].get("depends_on", {})
    assert set(awaited) <= set(SERVICES)
    for other, how in awaited.items() if isinstance(awaited, dict) else ():
        if how["condition"] == "service_healthy":
            assert stages()[SERVICES[other]["build"]["target"]].only("HEALTHCHECK") != "NONE"
        if how["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"


def test_variables_of_the_server_are_its_settings() -> None:
    named = {name.removeprefix("WANDER_").lower() for name in SERVICES["server"]["environment"]}
    named |= {n.removeprefix("WANDER_").lower() for n in stages()["base"].environment if n.startswith("WANDER_")}
    assert named <= set(Settings.model_fields)


def test_the_server_may_write_its_indexes_and_no_models() -> None:
    environment = stages()["base"].environment
    volumes = dict(volume.split(":", 1) for volume in SERVICES["server"]["volumes"])
    assert volumes["models"] == f"{environment['WANDER_MODELS']}:ro"
    assert volumes["indexes"] == environment["WANDER_INDEXES"]


def test_what_exports_calls_commands_that_exist() -> None:
    (script,) = SERVICES["models"]["command"]
    called = {line.split("wander ")[1].split()[0] for line in script.splitlines() if "wander " in line}
    assert called == {"export", "verify"}
    assert called <= entry_points(group="wander.commands").names
    assert subprocess.run(["sh", "-n"], input=script.replace("$$", "$"), text=True, check=False).returncode == 0


def test_the_script_exports_what_is_not_there_yet(tmp_path: Any) -> None:
    """With a `wander` that writes down how it was called, twice: the second time the models are there."""
    (script,) = SERVICES["models"]["command"]
    zoo, models, log = tmp_path / "zoo", tmp_path / "models", tmp_path / "log"
    for name in ("a", "b c"):
        (zoo / name).mkdir(parents=True)
    fake = tmp_path / "bin" / "wander"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(log))}\n[ "$1" = verify ] || mkdir -p "$3/1"\n')
    fake.chmod(0o755)
    here = script.replace("$$", "$").replace("/zoo", str(zoo)).replace("/models", str(models))
    for _ in range(2):
        subprocess.run(["sh", "-ec", here], check=True, env={"PATH": f"{fake.parent}:/usr/bin:/bin"})
    lines = [line.replace(str(tmp_path), "") for line in log.read_text().splitlines()]
    assert lines[:2] == ["export /zoo/a/ /models/a", "verify /models/a"]
    assert sum(line.startswith("export") for line in lines) == 2
    assert sum(line.startswith("verify") for line in lines) == 4
