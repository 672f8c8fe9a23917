"""Checkpoint to bundle: what it holds, that it is the same every time, and that the gate really fails."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from export.compose import compose
from export.options import Options
from export.parity import answers, verify
from export.pipeline import export
from tests.export.conftest import write_checkpoint
from wander.backbones.base import run
from wander.bundle import Bundle
from wander.errors import BundleError, CheckpointError, ParityError, UsageError
from wander.files import sha256


def test_a_bundle_is_complete_and_verified(bundle: Bundle) -> None:
    bundle.verify()
    assert set(bundle.manifest.files) == {
        *("model.onnx", "explain.onnx", "parity.json", "example.json", "samples/model.npz", "samples/explain.npz")
    }
    assert bundle.version == "1"
    assert bundle.manifest.labels == ("calm", "glad")
    assert bundle.manifest.folds == ("encoder_scales", "tokens_last", "bounded_scores", "adapter", "repeated_token")
    report = bundle.parity
    assert report["passed"]
    assert sorted(check["batch"] for check in report["checks"]) == sorted([1, 2, 7, 32] * 2)
    assert all(check["max_rel"] <= 1e-5 and check["decisions"] > 0 for check in report["checks"])
    assert report["samples"]["model"]["source"] == "random, seed 0"


def test_the_references_are_those_of_the_unfolded_model(bundle: Bundle, checkpoint: Path) -> None:
    for name, tower in compose(checkpoint).host.graphs("logits").items():
        samples = bundle.samples(name)
        for output, value in run(tower, samples.inputs).items():
            np.testing.assert_array_equal(value, samples.expected[output])


def test_the_graph_that_explains_is_made_of_the_same_rows_and_only_where_it_is_wanted(
    checkpoint: Path, bundle: Bundle, tmp_path: Path
) -> None:
    explain, model = bundle.samples("explain"), bundle.samples("model")
    for name, value in model.inputs.items():
        np.testing.assert_array_equal(explain.inputs[name], value)
    np.testing.assert_array_equal(explain.expected["logits"], model.expected["logits"])
    difference = explain.expected["logits"] - explain.expected["residual.logits"]
    assert np.abs(difference).max() > 0.01
    for name in model.inputs:
        np.testing.assert_allclose(explain.expected[f"contributions.{name}"].sum(1), difference, atol=1e-5)
    plain = export(compose(checkpoint), tmp_path / "plain", Options(max_batch_size=1, explain=False))
    assert set(plain.manifest.graphs) == {"model"}
    loaded = compose(checkpoint)
    without_a_use = replace(loaded, about=loaded.about.model_copy(update={"task": "tensors"}))
    made = export(without_a_use, tmp_path / "tensors", Options(max_batch_size=1))
    assert set(made.manifest.graphs) == {"model"}


def test_the_graph_holds_nothing_of_this_machine(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph_path("model"))
    assert model.producer_name == "wander"
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert str(Path.cwd()).encode() not in bundle.graph_path("model").read_bytes()
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", *bundle.manifest.graphs["model"].signature.inputs[0].item_dims]


def test_two_processes_write_the_same_bytes(checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Law 0, with another hash seed and another place."""
    command = [sys.executable, "-m", "wander", "export", str(checkpoint), str(tmp_path / "again"), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    again = Bundle.open(Path(json.loads(done.stdout)["bundle"]))
    assert again.manifest.files == bundle.manifest.files
    assert (again.path / "manifest.json").read_bytes() == (bundle.path / "manifest.json").read_bytes()


def test_folding_makes_the_graph_smaller_and_can_be_switched_off(
    checkpoint: Path, bundle: Bundle, tmp_path: Path
) -> None:
    plain = export(compose(checkpoint), tmp_path / "plain", Options(fold=False, explain=False))
    assert plain.manifest.folds == ()
    nodes = [len(onnx.load(b.graph_path("model")).graph.node) for b in (bundle, plain)]
    assert nodes[0] < nodes[1]
    assert bundle.graph_path("model").stat().st_size < plain.graph_path("model").stat().st_size


def test_the_next_export_is_the_next_version(checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    options = Options(max_batch_size=2, explain=False)
    first = export(compose(checkpoint), model, options)
    second = export(compose(write_checkpoint(tmp_path / "other", seed=1)), model, options)
    assert (first.version, second.version) == ("1", "2")
    assert Bundle.open(model).version == "2"
    assert sorted(p.name for p in model.iterdir()) == ["1", "2", "config.pbtxt"]
    assert sha256(second.path / "manifest.json") in (model / "config.pbtxt").read_text()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_wrong_fold_fails_the_gate_and_leaves_the_report(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 2, with a fold that is off by a thousandth."""
    loaded = compose(checkpoint)

    def spoil(host: torch.nn.Module, **_: bool) -> list[str]:
        with torch.no_grad():
            host.out_layer.weight += 1e-3
        return ["spoiled"]

    monkeypatch.setattr("export.pipeline.fold", spoil)
    with pytest.raises(ParityError, match=r"parity checks failed.*rejected"):
        export(loaded, tmp_path / "model", Options(explain=False))
    assert not (tmp_path / "model").exists()
    report = json.loads((tmp_path / "model.rejected" / "parity.json").read_text())
    assert not report["passed"]
    assert max(check["max_rel"] for check in report["checks"]) > 1e-5
    assert not (tmp_path / "model.rejected" / "manifest.json").exists()


def test_samples_of_the_user_are_used(checkpoint: Path, tmp_path: Path) -> None:
    loaded = compose(checkpoint)
    inputs = loaded.host.random_inputs("model", 3, np.random.default_rng(5))
    np.savez(tmp_path / "mine.npz", **inputs)
    options = Options(samples=tmp_path / "mine.npz", max_batch_size=2, explain=False)
    made = export(loaded, tmp_path / "model", options)
    assert made.parity["samples"]["model"] == {"source": "mine.npz", "rows": 3}
    np.testing.assert_array_equal(made.samples("model").inputs["text"], inputs["text"])


@pytest.mark.parametrize("spoil", ["missing", "shape", "empty", "pickle", "text"])
def test_samples_that_do_not_fit_are_refused(spoil: str, checkpoint: Path, tmp_path: Path) -> None:
    loaded = compose(checkpoint)
    inputs = loaded.host.random_inputs("model", 3, np.random.default_rng(5))
    if spoil == "missing":
        del inputs["audio"]
    elif spoil == "shape":
        inputs["audio"] = inputs["audio"][:, :1]
    elif spoil == "empty":
        inputs = {name: value[:0] for name, value in inputs.items()}
    elif spoil == "pickle":
        inputs["audio"] = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "mine.npz", **inputs)
    if spoil == "text":
        (tmp_path / "mine.npz").write_text("no archive")
    with pytest.raises(UsageError, match=r"mine\.npz"):
        export(loaded, tmp_path / "model", Options(samples=tmp_path / "mine.npz"))
    assert not (tmp_path / "model").exists()


def test_verify_repeats_the_gate_and_sees_an_altered_file(bundle: Bundle, tmp_path: Path) -> None:
    checks = verify(bundle, "ort")
    assert [(check.graph, check.batch) for check in checks] == [
        (graph, batch) for graph in ("model", "explain") for batch in (1, 2, 7, 32)
    ]
    assert all(check.passed for check in checks)
    own = Bundle.open(Path(shutil.copytree(bundle.path.parent, tmp_path / "model")))
    with (own.path / "model.onnx").open("r+b") as file:
        file.seek(200)
        file.write(b"\0\0\0")
    with pytest.raises(BundleError, match=r"model\.onnx was altered"):
        verify(own, "ort")


def test_verify_needs_no_torch(bundle: Bundle) -> None:
    """It is for the machine that serves."""
    check = (
        "import sys; from wander.__main__ import main\n"
        "try: main(['verify', sys.argv[1], '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'onnx', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check, str(bundle.path)], check=True, stdout=subprocess.DEVNULL)


def test_verify_fails_on_a_graph_that_answers_something_else(bundle: Bundle) -> None:
    checks = verify(bundle, "fake")
    assert not any(check.passed for check in checks)


def test_a_backbone_that_is_another_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", seed=3)
    with pytest.raises(CheckpointError, match="sha256"):
        compose(checkpoint / "adapter", other / "backbone")
    loaded = compose(checkpoint / "adapter")  # its own is found beside it
    assert loaded.about.backbone.sha256 == sha256(checkpoint / "backbone" / "model.safetensors")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        compose(tmp_path / "nothing")
    with pytest.raises(UsageError, match="holds no adapter"):
        compose(tmp_path)


def test_weights_of_a_large_model_lie_beside_its_graph(
    checkpoint: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.trace.INLINE_BYTES", 0)
    options = Options(max_batch_size=2, explain=False)
    first, second = (export(compose(checkpoint), tmp_path / name, options) for name in "ab")
    assert "model.onnx.data" in first.manifest.files
    assert first.manifest.files == second.manifest.files
    assert (first.path / "model.onnx").stat().st_size < bundle.graph_path("model").stat().st_size
    assert all(check.passed for check in verify(first, "ort"))
    for name, value in parity_answers(first).items():
        np.testing.assert_array_equal(value, parity_answers(bundle)[name])
    data = first.path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match=r"model\.onnx\.data"):
        verify(first, "ort")


def parity_answers(bundle: Bundle) -> dict[str, np.ndarray]:
    graph = bundle.manifest.graphs["model"]
    return answers(graph, bundle.graph_path("model"), bundle.samples("model").inputs, "ort")


def test_no_weights_are_left_in_torch_when_the_engine_loads_its_own(checkpoint: Path, tmp_path: Path) -> None:
    loaded = compose(checkpoint)
    traced: list[StorageWeakRef] = []
    freed: list[bool] = []

    def look(what: str) -> None:
        if what.startswith("trace"):
            traced.extend(StorageWeakRef(parameter.untyped_storage()) for parameter in loaded.host.parameters())
            assert not any(storage.expired() for storage in traced)
        if what.startswith("parity"):
            gc.collect()
            freed.append(all(storage.expired() for storage in traced))

    export(loaded, tmp_path / "model", Options(max_batch_size=2), look)
    assert traced
    assert freed == [True, True]  # of the model and of what explains it
