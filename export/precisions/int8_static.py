"""int8, static: weights and activations as QDQ pairs with scales from real rows; symmetric, as TensorRT wants them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnx
from numpy.typing import NDArray

from export.precisions._quantization import Quantization, quiet, sign
from export.precisions._saving import save

BATCH = 16
"""Rows that go through the graph at once while ranges are collected."""


class Int8Static(Quantization):
    """Ranges are the smallest and largest values seen; they are collected once a graph, whatever stays in fp32."""

    calibrates: ClassVar[bool] = True
    kinds: ClassVar[Sequence[str]] = ("Conv", "Gemm", "MatMul")

    def write(self, target: Path, kept: Collection[str]) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        wanted = [name for name in self.units() if name not in set(kept)]
        if not wanted:  # an empty list means all to the tool
            save(onnx.load(self.graph), target, apart=self.apart)
            return
        rows = self.rows

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._at = 0

            def get_next(self) -> dict[str, NDArray[Any]] | None:
                batch = {name: value[self._at : self._at + BATCH] for name, value in rows.items()}
                self._at += BATCH
                return batch if len(next(iter(batch.values()))) else None

        raw = self.scratch / "static.onnx"
        with quiet():
            quantize_static(
                self.graph,
                raw,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(self.kinds),
                nodes_to_quantize=wanted,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                use_external_data_format=self.apart,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "MatMulConstBOnly": True},
                calibration_cache_path=self.scratch / f"{self.graph.stem}.ranges.json",
            )
        model = onnx.load(raw)
        sign(model)
        save(model, target, apart=self.apart)


plugin = Int8Static
