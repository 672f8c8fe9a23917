"""fp16: half the bytes; for GPUs. A CPU computes such a graph in fp32, so that it gains memory there and no time."""

from __future__ import annotations

from typing import ClassVar

from onnx import TensorProto

from export.precisions._casts import CastNarrowing
from wander.manifest import Precision


class Fp16(CastNarrowing):
    """Values beyond 65,504 are infinite in it: what overflows is found by the gate, and stays in fp32."""

    precision: ClassVar[Precision] = "fp16"
    narrow: ClassVar[int] = TensorProto.FLOAT16


plugin = Fp16
