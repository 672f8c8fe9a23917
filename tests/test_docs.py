"""What the documents name exists: options, routes, metrics, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.app import create_app
from serving.metrics import Metrics
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
each = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@each
def test_linked_files_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_options_of_serve_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    known = {name.replace("_", "-") for name in Settings.model_fields}
    named = set(re.findall(r"--(?:no-)?([a-z][a-z-]+)", text)) - {"help"}
    assert named <= known, named - known


def test_metrics_exist(tmp_path: Path) -> None:
    app = create_app(Settings(models=tmp_path))
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    registered = {*Metrics().registry._names_to_collectors}
    registered |= {family.name for family in app.state.service.metrics.registry.collect()}
    for name in re.findall(r"`(wander_\w+)`", text):
        assert name in registered or name == "wander_queue_rows", name
