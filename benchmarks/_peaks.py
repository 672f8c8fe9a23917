"""How fast this machine multiplies matrices, by every library at hand: the roof that figures are measured against.

A roof has to be the best that any library reaches, or a good engine seems to break through it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wander.engines import EngineOptions, engines
from wander.engines.openvino import has_bf16
from wander.manifest import Precision
from wander.signature import Signature, TensorSpec

SIZES = ((1024, 1024, 1024), (2048, 1024, 4096), (1600, 768, 3072))
"""M, K, N of the products; a library's peak is its best over these."""


@dataclass(frozen=True)
class Peak:
    """GFLOP/s (for int8: 10^9 operations/s) of one library in one precision, at the size at which it was best."""

    precision: str
    library: str
    size: tuple[int, int, int]
    gflops: float


def peaks(seconds: float, sizes: tuple[tuple[int, int, int], ...] = SIZES) -> list[Peak]:
    """The best of what fits into so many seconds, for every library and precision."""
    found = []
    with TemporaryDirectory() as scratch:
        for precision, library, make in _contenders(Path(scratch)):
            best = Peak(precision, library, sizes[0], 0.0)
            for size in sizes:
                run = make(*size)
                gflops = 2 * size[0] * size[1] * size[2] / _best(run, seconds / len(sizes)) / 1e9
                best = max(best, Peak(precision, library, size, gflops), key=lambda peak: peak.gflops)
            found.append(best)
    return found


def roofs(found: list[Peak]) -> dict[str, float]:
    """The highest peak of every precision."""
    return {
        precision: max(peak.gflops for peak in found if peak.precision == precision)
        for precision in dict.fromkeys(peak.precision for peak in found)
    }


def _best(run: Callable[[], object], seconds: float) -> float:
    run()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best if best < float("inf") else _best(run, 1e-9 + 2 * seconds)


Maker = Callable[[int, int, int], Callable[[], object]]


def _contenders(scratch: Path) -> Iterator[tuple[str, str, Maker]]:
    yield "fp32", "numpy (OpenBLAS)", _numpy
    yield "fp32", "torch (MKL)", _torch(torch.float32, packed=False)
    yield "fp32", "torch (oneDNN)", _torch(torch.float32, packed=True)
    # What the processor has no bf16 for, oneDNN refuses to pack.
    yield "bf16", "torch (oneDNN)", _torch(torch.bfloat16, packed=torch.ops.mkldnn._is_mkldnn_bf16_supported())
    for name in ("ort", "openvino"):
        if engines.get(name).unavailable() is None:
            yield "fp32", name, _engine(name, "fp32", scratch)
    yield "int8", "ort", _engine("ort", "int8", scratch)
    if engines.get("openvino").unavailable() is None:
        yield "int8", "openvino", _engine("openvino", "int8", scratch)
        if has_bf16():
            yield "bf16", "openvino", _engine("openvino", "bf16", scratch)


def _numpy(m: int, k: int, n: int) -> Callable[[], object]:
    a, b = _floats(m, k), _floats(k, n)
    out = np.empty((m, n), np.float32)
    return lambda: np.matmul(a, b, out=out)


def _torch(dtype: torch.dtype, *, packed: bool) -> Maker:
    def make(m: int, k: int, n: int) -> Callable[[], object]:
        a, b = torch.from_numpy(_floats(m, k)).to(dtype), torch.from_numpy(_floats(n, k)).to(dtype)
        if not packed:
            return lambda: torch.nn.functional.linear(a, b)
        x, weight, bias = a.to_mkldnn(), b.to_mkldnn(), torch.zeros(n).to_mkldnn()
        return lambda: torch._C._nn.mkldnn_linear(x, weight, bias)

    return make


def _engine(name: str, precision: Precision, scratch: Path) -> Maker:
    """A product with constant weights, as a graph; in int8 of QDQ pairs around it, whose results stay in int8."""

    def make(m: int, k: int, n: int) -> Callable[[], object]:
        path = scratch / f"{name}.{precision}.{m}.{k}.{n}.onnx"
        signature = _product(path, k, n, precision)
        session = engines.get(name).open(path, signature, EngineOptions(precision=precision, max_batch_size=m))
        x = {"x": _floats(m, k)}
        return lambda: session.run(x)

    return make


def _product(path: Path, k: int, n: int, precision: str) -> Signature:
    """y = sum over columns of x W, so that reading the answer costs nothing."""
    weights, nodes, left, right = [], [], "x", "w"
    if precision == "int8":
        values = np.random.default_rng(0).integers(-127, 128, (k, n)).astype(np.int8)
        weights = [
            numpy_helper.from_array(value, name)
            for name, value in {
                "w8": values, "s": np.array(0.02, np.float32), "z": np.array(0, np.int8),
                "sw": np.full(n, 0.001, np.float32), "zw": np.zeros(n, np.int8),
            }.items()
        ]  # fmt: skip
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w8", "sw", "zw"], ["wd"], axis=1),
        ]
        left, right = "xd", "wd"
    else:
        weights = [numpy_helper.from_array(_floats(k, n), "w")]
    nodes += [
        helper.make_node("MatMul", [left, right], ["p"]),
        helper.make_node("ReduceMax", ["p"], ["y"], keepdims=1, axes=[1]),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])]
        for name, width in (("x", k), ("y", 1))
    ]
    graph = helper.make_graph(nodes, "product", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return Signature(
        inputs=(TensorSpec(name="x", dtype="float32", dims=("batch", k)),),
        outputs=(TensorSpec(name="y", dtype="float32", dims=("batch", 1)),),
    )


def _floats(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(rows + columns).standard_normal((rows, columns)).astype(np.float32)
