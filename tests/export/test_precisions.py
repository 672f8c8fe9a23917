"""One suite for every precision: a new file in `export/precisions` is tested here without a change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export import parity
from export.compose import compose
from export.options import Options
from export.pipeline import export
from export.precisions import Narrowing, precisions
from wander.bundle import Bundle
from wander.engines import engines
from wander.engines.openvino import NO_BF16, has_bf16
from wander.errors import ParityError, UsageError

NARROW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "int8": TensorProto.INT8}


def runs(name: str) -> Any:
    kind = precisions.get(name)
    reason = engines.get(kind.engine).unavailable()
    if reason is None and kind.precision == "bf16" and not has_bf16():
        reason = NO_BF16
    return pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))


@pytest.fixture(scope="module", params=[runs(name) for name in precisions.names()])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kind(name: str) -> type[Narrowing]:
    return precisions.get(name)


@pytest.fixture(scope="session")
def rows(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of a user's own, which calibration takes."""
    path = tmp_path_factory.mktemp("rows") / "mine.npz"
    random = np.random.default_rng(5)
    inputs = bundle.samples("model").inputs
    np.savez(path, **{n: random.normal(size=(48, *v.shape[1:])).astype(v.dtype) for n, v in inputs.items()})
    return path


def narrowed(checkpoint: Path, out: Path, name: str, rows: Path) -> Bundle:
    return export(compose(checkpoint), out, Options(precision=name, samples=rows, max_batch_size=8))


@pytest.fixture(scope="module")
def made(name: str, checkpoint: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return narrowed(checkpoint, tmp_path_factory.mktemp("made") / "small", name, rows)


def test_the_bundle_says_what_it_is_and_holds(kind: type[Narrowing], made: Bundle, bundle: Bundle) -> None:
    assert made.manifest.precision == kind.precision
    assert bundle.manifest.folds == (*made.manifest.folds[:2], "bounded_scores", *made.manifest.folds[2:])
    report = made.parity
    assert report["passed"]
    assert {check["precision"] for check in report["checks"]} == {kind.precision}
    assert {check["engine"] for check in report["checks"]} == {kind.engine}
    assert "no labelled data" in report["gate"]
    found = report["narrowed"]["model"]
    assert found["units"] > len(found["kept"])
    assert found["trials"][-1]["holds"]
    types = {tensor.data_type for tensor in onnx.load(made.graph_path("model")).graph.initializer}
    assert NARROW[kind.precision] in types
    assert made.graph_path("model").read_bytes() != bundle.graph_path("model").read_bytes()
    assert all(check.passed for check in parity.verify(made, kind.engine))


@pytest.mark.parametrize("name", [runs("int8_static")], scope="module")
def test_two_processes_write_the_same_bytes(
    name: str, made: Bundle, checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    """Law 0, with another hash seed, for the one with most steps; the others below."""
    command = [
        sys.executable, "-m", "wander", "export", str(checkpoint), str(tmp_path / "again"), "--json",
        "--precision", name.replace("_", "-"), "--samples", str(rows), "--max-batch-size", "8",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    again = Bundle.open(Path(json.loads(done.stdout)["bundle"]))
    assert again.manifest.files == made.manifest.files


@pytest.mark.parametrize("apart", [False, True])
def test_the_same_graph_gives_the_same_bytes_wherever_its_weights_are(
    kind: type[Narrowing], bundle: Bundle, tmp_path: Path, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And answers alike with its weights beside it."""
    monkeypatch.setattr("export.precisions._saving.THRESHOLD", 128)
    graph, inputs = bundle.manifest.graphs["model"], bundle.samples("model").inputs
    answers = []
    for place in "ab":
        (tmp_path / place).mkdir()
        source = tmp_path / place / "model.onnx"
        model = onnx.load(bundle.graph_path("model"))
        onnx.save(model, source, save_as_external_data=apart, location="model.onnx.data", size_threshold=128)
        target = tmp_path / place / "out" / "model.onnx"
        target.parent.mkdir()
        kind(source, inputs, tmp_path / place).write(target, ())
        assert target.with_name("model.onnx.data").exists() == apart
        answers.append(parity.answers(graph, target, inputs, kind.engine, kind.precision)["logits"])
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / place / "out").iterdir()} for place in "ab")
    assert first == second
    np.testing.assert_array_equal(*answers)
    kind(bundle.graph_path("model"), inputs, tmp_path).write(tmp_path / "inline.onnx", ())
    inline = parity.answers(graph, tmp_path / "inline.onnx", inputs, kind.engine, kind.precision)["logits"]
    np.testing.assert_array_equal(answers[0], inline)


def test_graphs_that_share_a_folder_share_nothing_else(kind: type[Narrowing], bundle: Bundle, tmp_path: Path) -> None:
    """As the towers of one bundle do: the second has values ten times as large, and ranges of its own."""
    graph, inputs = bundle.graph_path("model"), bundle.samples("model").inputs
    louder = {name: (value * 10).astype(value.dtype) for name, value in inputs.items()}
    for place in ("alone", "shared"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "second.onnx").write_bytes(graph.read_bytes())
    kind(graph, inputs, tmp_path / "shared").write(tmp_path / "first.onnx", ())
    for place in ("alone", "shared"):
        kind(tmp_path / place / "second.onnx", louder, tmp_path / place).write(tmp_path / f"{place}.onnx", ())
    assert (tmp_path / "alone.onnx").read_bytes() == (tmp_path / "shared.onnx").read_bytes()


def test_what_is_kept_stays_as_it_was(kind: type[Narrowing], bundle: Bundle, tmp_path: Path) -> None:
    """With everything kept, the graph answers as before, to the last rounding."""
    source, inputs = bundle.graph_path("model"), bundle.samples("model").inputs
    narrowing = kind(source, inputs, tmp_path)
    units = narrowing.units()
    nodes = {node.name for node in onnx.load(source).graph.node}
    assert {node for unit in units.values() for node in unit} <= nodes
    graph = bundle.manifest.graphs["model"]
    narrowing.write(tmp_path / "kept.onnx", [node for unit in units.values() for node in unit])
    kept = parity.answers(graph, tmp_path / "kept.onnx", inputs, "ort")
    narrowing.write(tmp_path / "all.onnx", ())
    all_of_it = parity.answers(graph, tmp_path / "all.onnx", inputs, kind.engine, kind.precision)
    exact = parity.answers(graph, source, inputs, "ort")
    for output, value in exact.items():
        np.testing.assert_allclose(kept[output], value, rtol=1e-6, atol=1e-6)
        assert not np.allclose(all_of_it[output], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [runs("int8")], scope="module")
def test_a_gate_that_does_not_hold_fails_the_export(
    name: str, kind: type[Narrowing], checkpoint: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.BARS, kind.precision, parity.BARS["fp32"])
    with pytest.raises(ParityError, match=r"does not hold in|parity checks failed"):
        narrowed(checkpoint, tmp_path / "small", name, rows)
    assert not (tmp_path / "small").exists()
    assert (tmp_path / "small.rejected").is_dir()


def test_an_engine_that_lacks_a_precision_is_not_blamed_on_the_graph(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    options = Options(precision="bf16", samples=rows, engine="ort", max_batch_size=2)
    with pytest.raises(UsageError, match=r"does not compute bf16.*--engine"):
        export(compose(checkpoint), tmp_path / "small", options)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="use one of: fp32, bf16, fp16, int8"):
        _ = Options(precision="int3").narrowing


def test_calibration_needs_real_rows() -> None:
    with pytest.raises(UsageError, match="--data or --samples"):
        _ = Options(precision="int8-static").narrowing
