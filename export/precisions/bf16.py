"""bf16: the range of fp32 with 8 bits of precision; for GPUs, and for CPUs that multiply in it (through OpenVINO)."""

from __future__ import annotations

from typing import ClassVar

from onnx import TensorProto

from export.precisions._casts import CastNarrowing
from wander.manifest import Precision


class Bf16(CastNarrowing):
    """ONNX Runtime's CPU kernels have no bf16, so OpenVINO is asked whether it holds."""

    precision: ClassVar[Precision] = "bf16"
    engine: ClassVar[str] = "openvino"
    narrow: ClassVar[int] = TensorProto.BFLOAT16


plugin = Bf16
