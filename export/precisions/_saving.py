"""A graph to a file, with its weights beside it or within. The same graph gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import onnx

from wander.bundle import DATA_SUFFIX

THRESHOLD = 1024
"""Smaller tensors stay in the graph's file: shapes are inferred from them."""


def save(model: onnx.ModelProto, target: Path, *, apart: bool) -> None:
    """Raises onnx's own error for a graph that is not valid."""
    data = target.with_name(target.name + DATA_SUFFIX)
    data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, target, save_as_external_data=apart, location=data.name, size_threshold=THRESHOLD)
