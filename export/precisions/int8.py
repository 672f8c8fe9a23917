"""int8, dynamic: weights in int8, a scale an output channel; every activation gets its scale as it comes.

Needs no data. The fastest int8 form of ONNX Runtime's CPU kernels; TensorRT and OpenVINO want the static one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import onnx

from export.precisions._quantization import Quantization, quiet, sign
from export.precisions._saving import save


class Int8(Quantization):
    """Convolutions stay: their dynamic kernel is slower than that of fp32."""

    kinds: ClassVar[Sequence[str]] = ("Gemm", "MatMul")

    def write(self, target: Path, kept: Collection[str]) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        raw = self.scratch / "dynamic.onnx"
        model = onnx.load(self.graph)
        del model.graph.value_info[:]  # the tool turns weights round, and then takes their noted shapes for an error
        with quiet():
            quantize_dynamic(
                model,
                raw,
                op_types_to_quantize=list(self.kinds),
                per_channel=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted([*kept, *(name + "_MatMul" for name in kept)]),  # what it makes of a Gemm
                use_external_data_format=self.apart,
                extra_options={"MatMulConstBOnly": True},
            )
        model = onnx.load(raw)
        sign(model)
        save(model, target, apart=self.apart)


plugin = Int8
