"""Graphs written byte by byte are what ONNX's own package and ONNX Runtime read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st

from serving.doctor import graphs
from wander.signature import Signature, TensorSpec


def test_onnx_reads_what_was_written(tmp_path: Path) -> None:
    inner, outer = 3, 300  # one size that takes a byte, and one that takes two
    x = TensorSpec(name="x", dtype="float32", dims=("batch", inner))
    y = TensorSpec(name="y", dtype="float32", dims=("batch", outer))
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((inner, outer)).astype(np.float32),
        "b": random.standard_normal(outer).astype(np.float32),
    }
    nodes = [("MatMul", ("x", "w"), "product"), ("Add", ("product", "b"), "y")]
    path = tmp_path / "model.onnx"
    graphs.write_graph(path, nodes, Signature(inputs=(x,), outputs=(y,)), constants)

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [
        "batch",
        300,
    ]
    for constant in model.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(constant), constants[constant.name])

    rows = random.standard_normal((5, inner)).astype(np.float32)
    (answer,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": rows})
    np.testing.assert_allclose(answer, rows @ constants["w"] + constants["b"], rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**63 - 1))
def test_whole_numbers_are_as_protocol_buffers_have_them(value: int) -> None:
    dims = onnx.TensorProto()
    dims.ParseFromString(graphs._field(1, value))
    assert list(dims.dims) == [value]
