"""Small ONNX graphs, written byte by byte, so that a machine that only serves needs no package that builds graphs.

Knows of ONNX's protocol buffers the few fields that a chain of operators without attributes has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wander.signature import Signature, TensorSpec

FLOAT = 1
IR_VERSION, OPSET = 10, 17

Node = tuple[str, Sequence[str], str]
"""Operator, names of its inputs, name of its output."""


def write_graph(
    path: Path, nodes: Sequence[Node], signature: Signature, constants: Mapping[str, NDArray[np.float32]]
) -> None:
    """A graph of float32 tensors. `constants` are tensors of its own by name."""
    graph = b"".join(
        [
            *(_field(1, _node(*node)) for node in nodes),
            _field(2, b"doctor"),
            *(_field(5, _tensor(name, value)) for name, value in constants.items()),
            *(_field(11, _value(spec)) for spec in signature.inputs),
            *(_field(12, _value(spec)) for spec in signature.outputs),
        ]
    )
    opset = _field(1, b"") + _field(2, OPSET)
    path.write_bytes(_field(1, IR_VERSION) + _field(2, b"wander") + _field(7, graph) + _field(8, opset))


def _node(operator: str, inputs: Sequence[str], output: str) -> bytes:
    return (
        b"".join(_field(1, name.encode()) for name in inputs)
        + _field(2, output.encode())
        + _field(4, operator.encode())
    )


def _tensor(name: str, value: NDArray[np.float32]) -> bytes:
    dims = b"".join(_field(1, size) for size in value.shape)
    return dims + _field(2, FLOAT) + _field(8, name.encode()) + _field(9, value.astype("<f4").tobytes())


def _value(spec: TensorSpec) -> bytes:
    sizes: list[Any] = [_field(2, size.encode()) if isinstance(size, str) else _field(1, size) for size in spec.dims]
    tensor = _field(1, FLOAT) + _field(2, b"".join(_field(1, size) for size in sizes))
    return _field(1, spec.name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a message: a whole number, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
