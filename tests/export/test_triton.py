"""Bundles as Triton sees them: each `config.pbtxt` is parsed by the protobuf of Triton's own client."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup
from tritonclient.utils import np_to_triton_dtype

from export import triton
from export.parity import verify
from export.trace import trace
from export.triton import CONFIG, DATA_TYPES, config, configure, lay_out
from serving.metrics import Metrics
from serving.repository import Repository
from serving.settings import Settings
from tests.conformance.test_hosts import filled
from tests.serving.building import Linear
from tests.serving.building import publish as publish_linear
from wander.__main__ import main
from wander.backbones import hosts
from wander.bundle import DATA_SUFFIX, Bundle, Draft, drafting
from wander.engines import EngineOptions, engines
from wander.errors import BundleError, UsageError
from wander.files import relative_files, sha256
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import DType, Signature, TensorSpec

SCALAR = Signature(
    inputs=(TensorSpec(name="x", dtype="int64", dims=("batch",)),),
    outputs=(TensorSpec(name="y", dtype="float32", dims=("batch", "length", 3)),),
)


def parse(text: str) -> ModelConfig:
    return text_format.Parse(text, ModelConfig())


def written(model: Path) -> ModelConfig:
    return parse((model / CONFIG).read_text(encoding="utf-8"))


def publish(model: Path, signatures: dict[str, Signature], adapter: str = "tests", suffix: str = "") -> Bundle:
    """A bundle whose graphs are a few bytes, each with data beside it if there is a suffix."""
    with drafting(model) as draft:
        for name in signatures:
            (draft.path / f"{name}.onnx").write_bytes(name.encode())
            if suffix:
                (draft.path / f"{name}.onnx{suffix}").write_bytes(b"weights of " + name.encode())
        (draft.path / "vocabulary.txt").write_text("of the preprocessing")
        return draft.publish(described(signatures, adapter))


def described(signatures: dict[str, Signature], adapter: str = "tests") -> Manifest:
    graphs = {
        name: Graph(file=f"{name}.onnx", signature=signature, max_batch_size=4 + number)
        for number, (name, signature) in enumerate(signatures.items())
    }
    backbone = BackboneRef(kind="none", id="tests", sha256="")
    return Manifest(task="tensors", graphs=graphs, adapter={"kind": adapter}, backbone=backbone)


def assert_describes(found: ModelConfig, bundle: Bundle, graph: str, name: str, file: str) -> None:
    """Every field of the configuration against the manifest."""
    wanted = bundle.manifest.graphs[graph]
    assert found.name == name
    assert found.backend == "onnxruntime"
    assert found.platform == ""
    assert (found.default_model_filename or "model.onnx") == file
    assert found.max_batch_size == wanted.max_batch_size
    for tensors, specs in ((found.input, wanted.signature.inputs), (found.output, wanted.signature.outputs)):
        assert [tensor.name for tensor in tensors] == [spec.name for spec in specs]
        for tensor, spec in zip(tensors, specs, strict=True):
            assert tensor.data_type == data_type(spec.dtype)
            dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            assert dims == [-1 if isinstance(size, str) else size for size in spec.item_dims]
            assert len(tensor.dims) > 0  # which Triton wants
            assert np.prod(tensor.dims) == np.prod(dims)
    assert found.HasField("dynamic_batching")
    assert not found.dynamic_batching.preferred_batch_size
    assert found.dynamic_batching.max_queue_delay_microseconds == 0
    assert found.version_policy.latest.num_versions == 1
    assert [(group.kind, group.count) for group in found.instance_group] == [(ModelInstanceGroup.KIND_CPU, 1)]
    assert {key: value.string_value for key, value in found.parameters.items()} == {
        "adapter": bundle.manifest.adapter_name,
        "task": bundle.manifest.task,
        "manifest_sha256": sha256(bundle.path / "manifest.json"),
    }


def data_type(dtype: str) -> int:
    """Triton's number for a dtype, through its client's own table of names."""
    return int(ModelConfig.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name[f"TYPE_{_name(dtype)}"].number)


def _name(dtype: str) -> str:
    return "BF16" if dtype == "bfloat16" else np_to_triton_dtype(np.dtype(dtype))


def test_every_dtype_of_a_signature_has_its_type() -> None:
    assert set(DATA_TYPES) == set(get_args(DType))
    for dtype, name in DATA_TYPES.items():
        assert name == f"TYPE_{_name(dtype)}"


@pytest.mark.parametrize("kind", hosts.names())
def test_every_host_is_described_as_its_manifest_says(kind: str, tmp_path: Path) -> None:
    signatures = {name: tower.signature for name, tower in filled(kind).graphs("output").items()}
    bundle = publish(tmp_path / kind, signatures, suffix=DATA_SUFFIX)
    configure(tmp_path / kind)
    entries = lay_out(bundle, tmp_path / "triton")
    names = [kind if name == "model" else f"{kind}-{name}" for name in signatures]
    assert [entry.name for entry in entries] == names
    for entry, graph in zip(entries, signatures, strict=True):
        assert_describes(written(entry), bundle, graph, entry.name, "model.onnx")
        assert relative_files(entry) == sorted([f"1/{graph}.onnx.data", "1/model.onnx", CONFIG])
        assert (entry / "1" / "model.onnx").samefile(bundle.graph_path(graph))
    if "model" in signatures:
        assert_describes(written(tmp_path / kind), bundle, "model", kind, "model.onnx")
    else:
        assert not (tmp_path / kind / CONFIG).exists()
    bundle.verify()


@pytest.mark.parametrize("kind", hosts.names())
def test_the_graphs_take_what_the_configuration_says(kind: str, tmp_path: Path) -> None:
    """As Triton compares them when it loads a model: a free batch, then sizes that are equal or free in the graph."""
    torch.manual_seed(0)
    host = filled(kind)
    for name, tower in host.graphs("output").items():
        trace(host, name, "output", tmp_path / f"{name}.onnx")
        graph = onnx.load(tmp_path / f"{name}.onnx").graph
        bundle = publish(tmp_path / name, {name: tower.signature})
        found = parse(config(bundle, name, name, f"{name}.onnx"))
        for tensors, values in ((found.input, graph.input), (found.output, graph.output)):
            assert [tensor.name for tensor in tensors] == [value.name for value in values]
            for tensor, value in zip(tensors, values, strict=True):
                elements = value.type.tensor_type
                assert tensor.data_type == data_type(onnx.helper.tensor_dtype_to_np_dtype(elements.elem_type).name)
                batch, *sizes = [-1 if dim.dim_param else dim.dim_value for dim in elements.shape.dim]
                assert batch == -1
                dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
                assert sizes == list(dims)


def test_a_tensor_without_dimensions_is_reshaped(tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m", {"model": SCALAR})
    found = parse(config(bundle, "model", "m", "model.onnx"))
    assert_describes(found, bundle, "model", "m", "model.onnx")
    assert list(found.input[0].dims) == [1]
    assert found.input[0].HasField("reshape")
    assert list(found.output[0].dims) == [-1, 3]


@settings(max_examples=200, deadline=None)
@given(names=st.lists(st.text(min_size=1), min_size=3, max_size=3), adapter=st.text(min_size=1), data=st.data())
def test_odd_names_come_through(
    names: list[str], adapter: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensors = [
        TensorSpec(
            name=name,
            dtype=data.draw(st.sampled_from(list(DATA_TYPES))),
            dims=(
                "batch",
                *data.draw(st.lists(st.integers(1, 2**40) | st.sampled_from(["length", "a b"]), max_size=3)),
            ),
        )
        for name in names
    ]
    manifest = described({"model": Signature(inputs=tuple(tensors[:2]), outputs=tuple(tensors[2:]))}, adapter)
    folder = tmp_path_factory.getbasetemp() / "odd names" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    bundle = Bundle(folder, manifest)
    name, file = data.draw(st.text(min_size=1)), data.draw(st.text(min_size=1))
    text = config(bundle, "model", name, file)
    assert all(line.isprintable() for line in text.split("\n"))
    assert_describes(parse(text), bundle, "model", name, file)


def test_a_version_with_towers_takes_the_configuration_away(tmp_path: Path) -> None:
    publish(tmp_path / "m", {"model": SCALAR})
    configure(tmp_path / "m")
    assert (tmp_path / "m" / CONFIG).exists()
    publish(tmp_path / "m", {"text": SCALAR, "image": SCALAR})
    configure(tmp_path / "m")
    assert not (tmp_path / "m" / CONFIG).exists()
    configure(tmp_path / "m")


def test_a_version_that_appears_meanwhile_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other export has written its configuration before; ours must not stand in its place."""
    model = tmp_path / "m"
    publish(model, {"model": SCALAR})
    plain = triton.replace_text

    def late(path: Path, text: str) -> None:
        if not (model / "2").exists():
            second = publish(model, {"model": SCALAR}, adapter="second")
            plain(path, config(second, "model", "m", "model.onnx"))
        plain(path, text)

    monkeypatch.setattr(triton, "replace_text", late)
    configure(model)
    assert written(model).parameters["adapter"].string_value == "second"


def test_an_export_writes_it_beside_the_version(bundle: Bundle) -> None:
    assert_describes(written(bundle.path.parent), bundle, "model", bundle.name, "model.onnx")


def test_the_file_disturbs_nobody(bundle: Bundle) -> None:
    """Neither the scan of the server, nor verify, nor the choice of the latest version."""
    model = bundle.path.parent
    assert (model / CONFIG).is_file()
    assert Bundle.open(model) == bundle
    assert CONFIG not in bundle.manifest.files
    assert all(check.passed for check in verify(Bundle.open(model), "ort"))
    repository = Repository(Settings(models=model.parent), Metrics())
    repository.load()
    assert [(m.name, m.version) for m in repository.models] == [(bundle.name, bundle.version)]
    repository.close()


def external(path: Path) -> None:
    """Rewrites a graph with its weights in a file of their own, as large ones are written."""
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=path.name + DATA_SUFFIX, size_threshold=0)


def test_external_data_are_found_by_the_renamed_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = Linear()
    plain = Draft.publish

    def with_data(self: Draft, manifest: Manifest) -> Bundle:
        (self.path / "model.onnx").rename(self.path / "tower.onnx")
        external(self.path / "tower.onnx")
        graph = manifest.graphs["model"].model_copy(update={"file": "tower.onnx"})
        return plain(self, manifest.model_copy(update={"graphs": {"model": graph}}))

    monkeypatch.setattr(Draft, "publish", with_data)
    made, _ = publish_linear(tmp_path / "m", linear)
    (entry,) = lay_out(made, tmp_path / "triton")
    assert relative_files(entry / "1") == ["model.onnx", "tower.onnx.data"]
    samples = made.samples("model")
    with engines.get("ort").open(entry / "1" / "model.onnx", linear.signature, EngineOptions()) as session:
        for name, value in session.run(samples.inputs).items():
            np.testing.assert_allclose(value, samples.expected[name], atol=1e-5)


def test_the_next_version_stands_beside_the_first_and_no_older_one_comes_after(tmp_path: Path) -> None:
    towers = {"text": SCALAR, "image": SCALAR}
    first = publish(tmp_path / "m", towers)
    lay_out(first, tmp_path / "triton")
    second = publish(tmp_path / "m", towers, adapter="second")
    entries = lay_out(Bundle.open(tmp_path / "m"), tmp_path / "triton")
    for entry, graph in zip(entries, towers, strict=True):
        assert sorted(path.name for path in entry.iterdir()) == ["1", "2", CONFIG]
        assert_describes(written(entry), second, graph, entry.name, "model.onnx")
    for old in (first, second):
        with pytest.raises(UsageError, match=r"m-text has version 2 already"):
            lay_out(old, tmp_path / "triton")


def test_a_link_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = publish(tmp_path / "m", {"text": SCALAR, "image": SCALAR})
    (tmp_path / "triton" / "other").mkdir(parents=True)
    plain, made = os.link, []

    def full(source: Path, target: Path) -> None:
        made.append(target)
        if len(made) == 2:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        plain(source, target)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(UsageError, match=r"image\.onnx cannot be linked .*Invalid cross-device link.*--copy"):
        lay_out(bundle, tmp_path / "triton")
    assert [path.name for path in (tmp_path / "triton").iterdir()] == ["other"]
    entries = lay_out(bundle, tmp_path / "triton", copy=True)
    for entry, graph in zip(entries, ("text", "image"), strict=True):
        found = entry / "1" / "model.onnx"
        assert not found.samefile(bundle.graph_path(graph))
        assert found.read_bytes() == bundle.graph_path(graph).read_bytes()


def test_an_altered_bundle_is_not_laid_out(tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m", {"model": SCALAR})
    bundle.graph_path("model").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.onnx was altered"):
        lay_out(bundle, tmp_path / "triton")
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize("name", ["../../out", "a/b", "a\nb"])
def test_no_graph_leaves_the_folder(name: str, tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m", {"model": SCALAR})
    graph = bundle.manifest.graphs["model"]
    manifest = bundle.manifest.model_copy(update={"graphs": {"text": graph, name: graph}})
    with pytest.raises(BundleError, match="cannot be a folder's name"):
        lay_out(Bundle(bundle.path, manifest), tmp_path / "triton")
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize("version", ["latest", "01", "²"])
def test_a_version_that_triton_overlooks_is_refused(version: str, tmp_path: Path) -> None:
    bundle = publish(tmp_path / "m", {"model": SCALAR})
    moved = bundle.path.rename(tmp_path / "m" / version)
    with pytest.raises(UsageError, match="Triton wants a number"):
        lay_out(Bundle.open(moved), tmp_path / "triton")


def test_the_commands_lay_out_a_new_bundle_and_one_that_exists(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wander(*arguments: object) -> Any:
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), "--json"])
        assert not end.value.code
        return json.loads(capsys.readouterr().out)

    repository = tmp_path / "triton"
    said = wander("export", checkpoint, tmp_path / "m", "--max-batch-size", 1, "--triton", repository)
    assert said["triton"] == [str(repository / "m"), str(repository / "m-explain")]
    assert_describes(written(repository / "m"), Bundle.open(tmp_path / "m"), "model", "m", "model.onnx")
    assert_describes(
        written(repository / "m-explain"), Bundle.open(tmp_path / "m"), "explain", "m-explain", "model.onnx"
    )
    wander("triton", tmp_path / "m", tmp_path / "again")
    files = [f"{entry}/{file}" for entry in ("m", "m-explain") for file in ("1/model.onnx", "config.pbtxt")]
    assert sorted(relative_files(tmp_path / "again")) == sorted(relative_files(repository)) == sorted(files)


def test_laying_out_needs_no_torch(bundle: Bundle, tmp_path: Path) -> None:
    """It is for any machine that has the bundle."""
    check = (
        "import sys; from wander.__main__ import main\n"
        "try: main(['triton', *sys.argv[1:], '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'onnx', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", check, str(bundle.path), str(tmp_path)], check=True, stdout=subprocess.DEVNULL
    )
