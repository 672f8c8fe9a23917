"""The reference checkpoints beside the project, where they are; tests that need them skip where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

SHARED = Path(__file__).resolve().parents[2] / "shared"
ORACLES = SHARED / "oracles"
needs_oracles = pytest.mark.skipif(not ORACLES.is_dir(), reason="the folder shared/oracles is not beside the project")
needs_mosi = pytest.mark.skipif(
    not (SHARED / "data" / "mosi").is_dir(), reason="the folder shared/data/mosi is not beside the project"
)
LATE_FUSION = ("e15_out4", "e30_out1")
ADAPTER_ONLY = ("m2", "m3", "m3_factor_t_all_zero", "m7")
MMT = ("seven_experts", "seven_experts_3_captions", "two_experts")
FORMS = ("fusion_forms_m2", "fusion_forms_m3", "fusion_forms_m4")


class Oracle:
    """One case: its checkpoint files, its sizes, inputs and reference outputs."""

    def __init__(self, case: str, variant: str) -> None:
        self.folder = ORACLES / case / variant
        self.sizes: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        self.inputs = load(self.folder / "inputs.npz")
        self.outputs = load(self.folder / "outputs.npz")

    def path(self, name: str) -> Path:
        return self.folder / name


def load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    """max |a-b| relative to max(1, max |b|)."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float64) - b).max() / max(1.0, float(np.abs(b).max())))
