"""A graph in fp16 or bf16: weights and results in the narrow type, casts only where it meets what stays in fp32.

A strongly typed engine computes exactly what the types say, so the graph itself decides what is narrow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.precisions._saving import save
from export.precisions.base import Narrowing
from wander.bundle import DATA_SUFFIX
from wander.errors import ConfigError

ARITHMETIC = frozenset(
    "Add Attention Concat Conv Div Erf Expand Gather Gelu Gemm LayerNormalization MatMul Mul Neg Pad ReduceMean "
    "ReduceSum Relu Reshape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where".split()
)
"""Operators that engines have in all three types. Anything else stays in fp32."""


class CastNarrowing(Narrowing):
    """A unit is all that a graph has of one operator. `narrow` is the type of ONNX."""

    narrow: ClassVar[int]

    def units(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for node in onnx.load(self.graph, load_external_data=False).graph.node:
            if node.op_type in ARITHMETIC:
                found.setdefault(node.op_type, []).append(node.name)
        return dict(sorted(found.items()))

    def write(self, target: Path, kept: Collection[str]) -> None:
        shapes = onnx.shape_inference.infer_shapes(onnx.load(self.graph, load_external_data=False)).graph
        model = onnx.load(self.graph)
        if any(a.type in (a.GRAPH, a.GRAPHS) for node in model.graph.node for a in node.attribute):
            raise ConfigError("a graph with branches or loops cannot be narrowed; use --precision fp32")
        floats = {
            value.name
            for value in (*shapes.value_info, *shapes.input, *shapes.output)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        floats |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
        _Rewrite(model.graph, self.narrow, floats).run(
            {node.name for node in model.graph.node if node.op_type in ARITHMETIC} - set(kept)
        )
        onnx.checker.check_model(model)
        save(model, target, apart=self.graph.with_name(self.graph.name + DATA_SUFFIX).exists())


class _Rewrite:
    """Every float has up to two forms: as it was, and `<name>.narrow`. Each is made when somebody first reads it."""

    def __init__(self, graph: onnx.GraphProto, narrow: int, floats: set[str]) -> None:
        self.graph = graph
        self.narrow = narrow
        self.floats = floats
        self.constants = {tensor.name: tensor for tensor in graph.initializer if tensor.name in floats}
        self.forms = {(value.name, False) for value in graph.input}
        self.nodes: list[onnx.NodeProto] = []
        self.read: dict[tuple[str, bool], None] = {}
        """Constants in the form in which they are read."""

    def run(self, narrowed: set[str]) -> None:
        for node in self.graph.node:
            narrow = node.name in narrowed
            for at, name in enumerate(node.input):
                if name in self.floats:
                    node.input[at] = self._form(name, narrow)
            for at, name in enumerate(node.output):
                if name in self.floats:
                    self.forms.add((name, narrow))
                    node.output[at] = _called(name, narrow)
            self.nodes.append(node)
        for value in self.graph.output:
            if value.name in self.floats:
                self._form(value.name, False)
        rest = [tensor for tensor in self.graph.initializer if tensor.name not in self.floats]
        weights = [self._weight(name, narrow) for name, narrow in self.read]
        for field, content in (("node", self.nodes), ("initializer", rest + weights)):
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(content)
        self.graph.ClearField("value_info")

    def _form(self, name: str, narrow: bool) -> str:
        called = _called(name, narrow)
        if name in self.constants:
            self.read[name, narrow] = None
        elif (name, narrow) not in self.forms:
            kind = self.narrow if narrow else TensorProto.FLOAT
            self.nodes.append(
                helper.make_node("Cast", [_called(name, not narrow)], [called], name=f"Cast.{called}", to=kind)
            )
            self.forms.add((name, narrow))
        return called

    def _weight(self, name: str, narrow: bool) -> TensorProto:
        tensor = self.constants[name]
        if not narrow:
            return tensor
        values = numpy_helper.to_array(tensor)
        if self.narrow == TensorProto.BFLOAT16:
            bits = np.ascontiguousarray(values, "<f4").view("<u4")
            even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to the nearest, ties to even
            content = even.astype("<u2").tobytes()
        else:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and the gate says so
                content = values.astype("<f2").tobytes()
        return helper.make_tensor(_called(name, True), self.narrow, values.shape, content, raw=True)


def _called(name: str, narrow: bool) -> str:
    return f"{name}.narrow" if narrow else name
