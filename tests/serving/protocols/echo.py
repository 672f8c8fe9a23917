"""Bundles that answer with what they are given, one for every dtype that ONNX Runtime takes from numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export import parity
from wander.bundle import EXAMPLE, PARITY, Bundle, Samples, drafting, write_samples
from wander.manifest import BackboneRef, Graph, Manifest
from wander.signature import DType, Signature, TensorSpec
from wander.tasks import tasks

KINDS: dict[DType, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
DIMS = ("batch", 2, "length")


def values(dtype: DType, shape: tuple[int, ...] = (2, 2, 3)) -> NDArray[np.generic]:
    """Among them the smallest and the largest that the dtype holds."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    if kind.kind == "b":
        return (np.arange(count) % 2 == 0).reshape(shape)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    array = np.arange(count).astype(kind)
    array[:2] = limits.min, limits.max
    return array.reshape(shape)


def publish(folder: Path, dtype: DType) -> Bundle:
    """A model `x` (batch, 2, length) -> `tokens`, the same."""
    ends = [TensorSpec(name=name, dtype=dtype, dims=DIMS) for name in ("x", "tokens")]
    graph = Graph(file="model.onnx", signature=Signature(inputs=(ends[0],), outputs=(ends[1],)), max_batch_size=4)
    manifest = Manifest(
        task="tensors",
        graphs={"model": graph},
        adapter={"kind": "none"},
        backbone=BackboneRef(kind="none", id="tests", sha256="0" * 64),
    )
    inputs = np.ones((3, 2, 2), dtype)
    samples = Samples({"x": inputs}, {"tokens": inputs})
    with drafting(folder) as draft:
        path = draft.path / graph.file
        tensors = [[helper.make_tensor_value_info(end.name, KINDS[dtype], DIMS)] for end in ends]
        identity = helper.make_graph([helper.make_node("Identity", ["x"], ["tokens"])], "echo", *tensors)
        onnx.save(helper.make_model(identity, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
        write_samples(draft.path / "samples" / "model.npz", samples)
        checks = parity.check_graph("model", graph, path, samples, tasks.get("tensors"), "fp32", "ort")
        report = {
            "schema_version": 1,
            "reference": "numpy",
            "samples": {"model": {"source": "random", "rows": samples.rows}},
            "checks": [check.model_dump() for check in checks],
        }
        (draft.path / PARITY).write_text(json.dumps(report))
        example = tasks.get("tensors")(manifest, draft.path).example({"model": samples.row(0)})
        (draft.path / EXAMPLE).write_text(json.dumps(example))
        return draft.publish(manifest)
