"""The bundle on disk: whole or absent, unaltered or refused."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from wander.bundle import MANIFEST, Bundle, Samples, drafting, versions, write_samples
from wander.errors import BundleError, UsageError
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", dims=("batch", 2)),),
    outputs=(TensorSpec(name="score", dtype="float32", dims=("batch", 1)),),
)


def manifest(**changes: object) -> Manifest:
    graph = Graph(file="model.onnx", signature=SIGNATURE, max_batch_size=4)
    return Manifest(
        task="sentiment",
        graphs={"model": graph},
        adapter={"kind": "wander"},
        backbone=BackboneRef(kind="late_fusion", id="b", sha256="0"),
    ).model_copy(update=changes)


def publish(model: Path, content: bytes = b"graph") -> Bundle:
    with drafting(model) as draft:
        (draft.path / "model.onnx").write_bytes(content)
        samples = Samples({"x": np.ones((3, 2), np.float32)}, {"score": np.zeros((3, 1), np.float32)})
        write_samples(draft.path / "samples" / "model.npz", samples)
        return draft.publish(manifest())


def test_a_bundle_says_what_it_is(tmp_path: Path) -> None:
    made = publish(tmp_path / "mine")
    opened = Bundle.open(tmp_path / "mine")
    assert opened == made == Bundle.open(tmp_path / "mine" / "1")
    assert (opened.name, opened.version) == ("mine", "1")
    opened.verify()
    assert opened.samples("model").rows == 3
    assert opened.samples("model").row(1)["x"].shape == (2,)


def test_versions_are_numbers_and_the_latest_is_the_largest(tmp_path: Path) -> None:
    publish(tmp_path / "m")
    (tmp_path / "m" / "1").rename(tmp_path / "m" / "9")
    assert publish(tmp_path / "m").version == "10"
    (tmp_path / "m" / "11").mkdir()  # no manifest in it: half-copied
    (tmp_path / "m" / "notes").mkdir()
    assert versions(tmp_path / "m") == [9, 10]
    assert Bundle.open(tmp_path / "m").version == "10"


def test_what_goes_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with drafting(tmp_path / "m") as draft:
            (draft.path / "model.onnx").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def _publish(model: str, content: int) -> str:
    return publish(Path(model), bytes([content])).version


def test_exports_at_the_same_time_take_different_versions(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        taken = pool.starmap(_publish, [(str(tmp_path / "m"), number) for number in range(8)])
    assert sorted(map(int, taken)) == list(range(1, 9))
    contents = {(tmp_path / "m" / version / "model.onnx").read_bytes() for version in taken}
    assert len(contents) == 8


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"other"), "model.onnx was altered"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda folder: (folder / "surplus.txt").write_text("x"), "surplus.txt is not in the manifest"),
    ],
)
def test_every_file_is_checked(spoil: object, complaint: str, tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m")
    spoil(bundle.path)
    with pytest.raises(BundleError, match=complaint):
        bundle.verify()


def test_a_graph_outside_of_the_bundle_is_refused(tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m")
    (tmp_path / "m" / "stranger.onnx").write_bytes(b"")
    graph = bundle.manifest.graphs["model"].model_copy(update={"file": "../stranger.onnx"})
    other = bundle.manifest.model_copy(update={"graphs": {"model": graph}})
    (bundle.path / MANIFEST).write_text(other.to_json())
    with pytest.raises(BundleError, match="stranger"):
        Bundle.open(bundle.path).verify()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"surplus": 1}, "surplus"),
        ({"graphs": {}}, "graphs"),
        ({"precision": "fp8"}, "precision"),
        ({"graphs": {"model": {"file": "m", "max_batch_size": 0, "signature": {}}}}, "graphs.model"),
    ],
)
def test_a_manifest_that_cannot_be_read_names_the_field(
    change: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    bundle = publish(tmp_path / "m")
    text = json.loads((bundle.path / MANIFEST).read_text()) | change
    (bundle.path / MANIFEST).write_text(json.dumps(text))
    with pytest.raises(BundleError, match=complaint):
        Bundle.open(bundle.path)


def test_a_folder_without_a_bundle_is_said_to_be_one(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(BundleError, match="is no bundle"):
            Bundle.open(path)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_samples_that_are_damaged_are_an_error(content: bytes | None, tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m")
    path = bundle.path / "samples" / "model.npz"
    if content is None:
        np.savez(path, x=np.zeros((1, 2), np.float32))
    else:
        path.write_bytes(content)
    with pytest.raises(BundleError, match="does not hold the samples"):
        bundle.samples("model")


@pytest.mark.parametrize("name", ["7", ".hidden", "x.rejected"])
def test_names_that_mean_something_else_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the folder of a model"), drafting(tmp_path / name):
        pass


def test_a_version_is_not_a_model(tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m")
    bundle.path.rename(tmp_path / "m" / "renamed")
    with pytest.raises(UsageError, match="one version"), drafting(tmp_path / "m" / "renamed"):
        pass


def test_rejected_drafts_stay_for_the_reader_and_are_no_models(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        with drafting(tmp_path / "m") as draft:
            (draft.path / "model.onnx").write_bytes(content)
            kept = draft.reject()
    assert kept == tmp_path / "m.rejected"
    assert (kept / "model.onnx").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["m.rejected"]


def test_equal_manifests_are_equal_bytes() -> None:
    assert manifest().to_json() == manifest().to_json()
    assert Manifest.from_json(manifest().to_json()) == manifest()
