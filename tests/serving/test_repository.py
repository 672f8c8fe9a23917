"""Only bundles that are whole, and answer as their export did, are handed out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.metrics import Metrics
from serving.model import Model
from serving.repository import Repository
from serving.settings import Settings
from tests.serving.building import Linear, publish
from wander.bundle import EXAMPLE, MANIFEST, PARITY, Bundle
from wander.engines import Session
from wander.engines.fake import FakeSession
from wander.errors import BundleError, ConfigError
from wander.files import relative_files, sha256


def load(folder: Path, **settings: Any) -> list[Model]:
    """What is loaded from a folder; closed again."""
    repository = Repository(Settings(models=folder, **settings), Metrics())
    try:
        repository.load()
        return repository.models
    finally:
        repository.close()


def seal(bundle: Bundle) -> None:
    """Makes the manifest fit the files as they are now."""
    files = {name: sha256(bundle.path / name) for name in relative_files(bundle.path) if name != MANIFEST}
    manifest = bundle.manifest.model_copy(update={"files": files})
    (bundle.path / MANIFEST).write_text(manifest.to_json())


def test_everything_in_the_folder_is_loaded(models: Path) -> None:
    assert [(model.name, model.version, model.adapter) for model in load(models)] == [
        ("iemocap", "1", "linear"),
        ("mosi", "1", "linear"),
    ]


def test_graphs_that_run_elsewhere(models: Path) -> None:
    opened: list[tuple[str, str]] = []

    def elsewhere(bundle: Bundle, graph: str, settings: Settings) -> list[Session]:
        opened.append((bundle.name, graph))
        return [FakeSession(bundle.manifest.graphs[graph].signature)] * 3

    repository = Repository(Settings(models=models), Metrics(), elsewhere)
    repository.load()
    assert opened == [("iemocap", "model"), ("mosi", "model")]
    assert repository.get("mosi").engine["instances"] == "3"
    repository.close()


@pytest.mark.parametrize("file", ["model.onnx", "samples/model.npz", PARITY, EXAMPLE])
def test_altered_file(bundle: Bundle, file: str) -> None:
    path = bundle.path / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=f"{file} was altered"):
        load(bundle.path.parents[1])


@pytest.mark.parametrize("file", ["model.onnx", "samples/model.npz", PARITY, EXAMPLE])
def test_missing_file(bundle: Bundle, file: str) -> None:
    (bundle.path / file).unlink()
    with pytest.raises(BundleError, match=f"{file} is missing"):
        load(bundle.path.parents[1])


def test_extra_file(bundle: Bundle) -> None:
    (bundle.path / "samples" / "more.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"samples/more.npz is not in the manifest"):
        load(bundle.path.parents[1])


def test_all_problems_are_named_at_once(bundle: Bundle) -> None:
    (bundle.path / EXAMPLE).unlink()
    (bundle.path / PARITY).write_text("{}")
    with pytest.raises(BundleError, match=rf"{EXAMPLE} is missing; .*{PARITY} was altered"):
        load(bundle.path.parents[1])


@pytest.mark.parametrize("file", ["samples/model.npz", PARITY])
def test_bundle_that_was_sealed_without_a_file(bundle: Bundle, file: str) -> None:
    (bundle.path / file).unlink()
    seal(bundle)
    with pytest.raises(BundleError, match=Path(file).name):
        load(bundle.path.parents[1])


@pytest.mark.parametrize("report", [{}, {"checks": []}])
def test_bundle_whose_graph_was_never_checked(bundle: Bundle, report: dict[str, Any]) -> None:
    (bundle.path / PARITY).write_text(json.dumps(report))
    seal(bundle)
    with pytest.raises(BundleError, match="no check of graph model"):
        load(bundle.path.parents[1])


def test_graph_that_cannot_be_read(bundle: Bundle) -> None:
    (bundle.path / "model.onnx").write_bytes(b"no graph")
    seal(bundle)
    with pytest.raises(BundleError, match=r"cannot read .*model\.onnx"):
        load(bundle.path.parents[1])


def test_graph_that_answers_otherwise_than_its_reference(tmp_path: Path) -> None:
    publish(tmp_path / "mosi", Linear(seed=0), answers=Linear(seed=1))
    with pytest.raises(BundleError, match=r"differs from its stored reference by .* on this machine"):
        load(tmp_path)


def test_graph_that_answers_with_nan(tmp_path: Path) -> None:
    broken = Linear()
    broken.bias = np.full_like(broken.bias, np.nan)
    bundle, _ = publish(tmp_path / "mosi")
    broken.save(bundle.path / "model.onnx")
    seal(bundle)
    with pytest.raises(BundleError, match="differs from its stored reference by nan"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["mosi.rejected", ".mosi", "empty", "README.md"])
def test_what_is_no_model_is_ignored(bundle: Bundle, name: str) -> None:
    folder = bundle.path.parents[1]
    if name == "empty":
        (folder / name).mkdir()
    elif name == "README.md":
        (folder / name).write_text("models")
    else:
        shutil.copytree(folder / "mosi", folder / name)
    assert [model.name for model in load(folder)] == ["mosi"]


@pytest.mark.parametrize("exists", [True, False])
def test_folder_without_models(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "models"
    if exists:
        folder.mkdir()
    with pytest.raises(BundleError, match=f"{folder} holds no models; make one with: wander export"):
        load(folder)


def test_latest_version_is_the_largest_number(bundle: Bundle) -> None:
    folder = bundle.path.parent
    for version in ("2", "9", "10", "latest", ".11.draft"):
        shutil.copytree(bundle.path, folder / version)
    (folder / "12").mkdir()  # being copied: it has no manifest yet
    assert [model.version for model in load(folder.parent)] == ["10"]
    publish(folder)
    assert [model.version for model in load(folder.parent)] == ["11"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "chess"}, "none of the tasks known here"),
        ({"preprocessing": {"missing": {"smell": "padding"}}}, "names smell"),
        ({"preprocessing": {"padding": {"audio": [1.0]}}}, "must hold 3 values"),
        ({"labels": ["good"]}, "two labels"),
        ({"schema_version": 2}, "schema_version"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_manifest_that_makes_no_sense(bundle: Bundle, change: dict[str, Any], message: str) -> None:
    path = bundle.path / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((BundleError, ConfigError), match=message):
        load(bundle.path.parents[1])


def test_unknown_engine(models: Path) -> None:
    with pytest.raises(ConfigError, match="none of the engines known here"):
        load(models, engine="steam")


def test_every_graph_has_as_many_sessions_as_asked_for(models: Path) -> None:
    model = load(models, instances=3)[0]
    assert len(model.queues["model"].sessions) == 3
    assert model.engine["instances"] == "3"


@pytest.mark.parametrize(
    ("milliseconds", "sessions", "threads"),
    [({1: 1}, 4, "1"), ({1: 10, 4: 4}, 1, "4"), ({1: 10, 4: 9}, 4, "1")],
    ids=["small", "large", "gains too little"],
)
def test_cores_are_shared_out_by_what_a_graph_gains(
    models: Path, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float], sessions: int, threads: str
) -> None:
    """Never more threads than cores: many instances of one thread, or one of many."""
    monkeypatch.setattr("serving.model.usable_cores", lambda: 4)
    monkeypatch.setattr(
        "serving.model._seconds_of_a_row", lambda b, g, session: milliseconds[int(session.describe()["threads"])] / 1e3
    )
    model = load(models)[0]
    assert len(model.queues["model"].sessions) == sessions
    assert {session.describe()["threads"] for session in model.queues["model"].sessions} == {threads}
    assert model.engine["threads"] == threads
    monkeypatch.setattr("serving.model.SMALL_BYTES", 0)
    assert len(load(models)[0].queues["model"].sessions) == 1  # larger weights are not opened twice
    assert load(models, workers=2)[0].engine["threads"] == "2"
