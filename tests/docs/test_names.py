"""What the documents name exists: files, options, metrics, tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from serving.app import create_app
from serving.settings import Settings
from tests.docs.pages import PAGES, ROOT
from wander.backbones import hosts

each = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@each
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@each
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths within the repository, as `deploy/ray`; what commands write is not among them."""
    folders = ("benchmarks", "deploy", "docs", "serving", "tests", "wander", "zoo")
    for target in re.findall(rf"`((?:{'|'.join(folders)})/[\w./-]+)`", page.read_text("utf-8")):
        if "NAME" not in target:
            assert (ROOT / target).exists(), target


def test_options_of_serve_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    known = {name.replace("_", "-") for name in Settings.model_fields}
    named = set(re.findall(r"--(?:no-)?([a-z][a-z-]+)", text)) - {"help"}
    assert named <= known, named - known


def test_metrics_exist(tmp_path: Path) -> None:
    registry = create_app(Settings(models=tmp_path)).state.service.metrics.registry
    exposed = {f"{family.name}{'_total' * (family.type == 'counter')}" for family in registry.collect()}
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    named = set(re.findall(r"`(wander_\w+)`", text))
    assert named
    assert named <= exposed, named - exposed


def test_every_fold_is_explained() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "folds.md").read_text("utf-8")))
    for kind, host in hosts:
        offered = {fold.name for fold in host.build(*host.example()).folds()}
        assert offered <= named, f"{kind}: {offered - named}"


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    named = set(re.findall(r"`(Wander\w+)`", (ROOT / "docs" / "deployment.md").read_text("utf-8")))
    assert named == {rule["alert"] for rule in rules}
